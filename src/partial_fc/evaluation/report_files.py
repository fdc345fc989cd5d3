"""The files of a report: JSON, CSV, Markdown, and pictures, in one directory."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2

from partial_fc.evaluation.plots import draw_curves, draw_histogram
from partial_fc.evaluation.published import Published
from partial_fc.evaluation.report import Evaluated, csv_report, json_report, markdown_report
from partial_fc.evaluation.targets import Curve

_COLUMNS = {"roc": ("far", "tar"), "cmc": ("rank", "rate"), "dir": ("fpir", "tpir")}
_TITLES = {"roc": "ROC", "cmc": "Cumulative match", "dir": "Open-set identification"}


def write_report(directory: Path, evaluated: Sequence[Evaluated], published: Sequence[Published] = ()) -> list[Path]:
    """Writes `report.{json,csv,md}`, a PNG and a CSV a curve, PNG histograms and worst pairs; returns the files.

    Each file appears complete or not at all.

    Raises:
        OSError: one cannot be written.
    """
    files, pictures = _picture_files(evaluated)
    files["report.json"] = (json.dumps(json_report(evaluated, published), indent=2, allow_nan=False) + "\n").encode()
    files["report.csv"] = csv_report(evaluated, published).encode()
    files["report.md"] = markdown_report(evaluated, published, pictures).encode()
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(directory / name, content)
    return [directory / name for name in files]


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that appears complete or not at all. Raises OSError where it cannot."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _picture_files(evaluated: Sequence[Evaluated]) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
    """The pictures' files by name, with the curves as CSV; and (title, file) of each picture."""
    files: dict[str, bytes] = {}
    pictures: list[tuple[str, str]] = []

    def add(title: str, name: str, content: bytes) -> None:
        files[name] = content
        pictures.append((title, name))

    for place, first in enumerate(evaluated[0].results):
        target = first.target
        for kind in dict.fromkeys(curve.kind for curve in first.curves):
            curves = [
                (one.model, curve) for one in evaluated for curve in one.results[place].curves if curve.kind == kind
            ]
            title = f"{_TITLES[kind]}: {target}"
            add(title, _file_name(kind, target) + ".png", draw_curves(kind, curves, title))
            files[_file_name(kind, target) + ".csv"] = _curves_csv(kind, curves)
        for one in evaluated:
            result = one.results[place]
            name = f"{target}, {one.model}"
            if result.histogram is not None:
                title = f"Scores: {name}"
                add(title, _file_name("scores", name) + ".png", draw_histogram(result.histogram, title))
            for what, picture_HWC in result.pictures.items():
                _, encoded = cv2.imencode(".png", picture_HWC[:, :, ::-1])
                add(f"{what.capitalize()}: {name}", _file_name(what, name) + ".png", encoded.tobytes())
    return files, pictures


def _curves_csv(kind: str, curves: Sequence[tuple[str, Curve]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", *_COLUMNS[kind]])
    for model, curve in curves:
        writer.writerows([model, repr(float(x)), repr(float(y))] for x, y in zip(curve.x_K, curve.y_K, strict=True))
    return out.getvalue().encode()


def _file_name(*parts: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(parts)).strip("-.")
