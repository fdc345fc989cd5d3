"""What a set consists of, in numbers and pictures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from partial_fc.data.decode import decode, read_size
from partial_fc.data.identities import IdentityIndex
from partial_fc.data.in_order import map_in_order
from partial_fc.data.source import ImageSource

_BAR_COLUMNS = 40


@dataclass
class Sizes:
    """Of the images looked at: how many have a (height, width), how many none, and their mean size in bytes."""

    pixels: Counter[tuple[int, int]]
    broken: int
    mean_bytes: float


def measure(
    source: ImageSource, images_M: np.ndarray, *, workers: int, progress: Callable[[], object]
) -> Sizes:
    """Reads the images and measures them from their headers. Broken records and headers are counted."""

    def look_at(index: int) -> tuple[tuple[int, int] | None, int]:
        image_bytes = b""
        try:
            image_bytes, _ = source.read(index)
            return read_size(image_bytes), len(image_bytes)
        except ValueError:
            return None, len(image_bytes)

    sizes = Sizes(Counter(), 0, 0.0)
    total = 0
    with closing(map_in_order(look_at, images_M, workers)) as results:
        for size, length in results:
            if size is None:
                sizes.broken += 1
            else:
                sizes.pixels[size] += 1
            total += length
            progress()
    sizes.mean_bytes = total / len(images_M)
    return sizes


def histogram(counts_C: np.ndarray) -> list[tuple[int, int, int]]:
    """(least, most, identities) for images an identity of 0, 1, 2–3, 4–7, 8–15, …: up to the largest."""
    bins = [(0, 0), (1, 1)] + [(1 << k, (2 << k) - 1) for k in range(1, int(counts_C.max()).bit_length())]
    rows = [(least, most, int(((counts_C >= least) & (counts_C <= most)).sum())) for least, most in bins]
    return [row for row in rows if row[0] or row[2]]


def histogram_text(rows: list[tuple[int, int, int]]) -> list[str]:
    """A line a row, its bar at most 40 columns long."""
    largest = max(count for _, _, count in rows)
    labels = [_label(least, most) for least, most, _ in rows]
    wide, wide_count = max(map(len, labels)), len(str(largest))
    return [
        f"  {label:>{wide}}  {count:>{wide_count}}  {'█' * math.ceil(_BAR_COLUMNS * count / largest)}"
        for label, (_, _, count) in zip(labels, rows, strict=True)
    ]


def histogram_png(rows: list[tuple[int, int, int]], title: str) -> bytes:
    """The rows as bars on a logarithmic axis: a PNG."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    labels = [_label(least, most) for least, most, _ in rows]
    bars = axes.bar(labels, [count for _, _, count in rows], color="#4472a8")
    axes.bar_label(bars, fontsize=8)
    axes.set_yscale("symlog")
    axes.margins(y=0.08)  # room for the number on the highest bar
    axes.set(xlabel="images an identity", ylabel="identities", title=title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    bgr_HWC = cv2.cvtColor(np.asarray(canvas.buffer_rgba()), cv2.COLOR_RGBA2BGR)
    return _png(bgr_HWC)


def contact_sheet(
    source: ImageSource, index: IdentityIndex, *, rows: int, columns: int, cell: int, seed: int
) -> bytes:
    """A PNG of `rows` random identities, a row each, up to `columns` of their images, `cell` pixels a side.

    Identities without an image are not drawn; an image that does not decode leaves its place grey.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    present = np.flatnonzero(index.counts_C)
    drawn = np.sort(generator.choice(present, min(rows, len(present)), replace=False))
    sheet_HWC = np.full((len(drawn) * cell, columns * cell, 3), 255, np.uint8)
    for row, identity in enumerate(drawn):
        images = index.images_of(int(identity))
        for column, image in enumerate(generator.permutation(images)[:columns]):
            try:
                pixels_HWC = decode(source.read(int(image))[0], (cell, cell))
            except ValueError:
                pixels_HWC = np.full((cell, cell, 3), 128, np.uint8)
            place = sheet_HWC[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            place[:] = cv2.cvtColor(pixels_HWC, cv2.COLOR_RGB2BGR)
        text = (2, (row + 1) * cell - 4)
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(sheet_HWC, str(identity), text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA)
    return _png(sheet_HWC)


def _label(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}–{most}"


def _png(bgr_HWC: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", bgr_HWC)
    assert done
    return data.tobytes()
