"""`stats SRC …`: images, identities, images an identity, sizes; with --output pictures of them, too."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from pathlib import Path

import numpy as np

from partial_fc.data.copy_images import checked_labels
from partial_fc.data.identities import IdentityIndex
from partial_fc.data.sampling import draw, sample
from partial_fc.data.statistics import contact_sheet, histogram, histogram_png, histogram_text, measure
from partial_fc.data.verbs.common import add_overwrite, add_seed, add_source, add_workers, open_sources, progress_bar
from partial_fc.data.whole_file import refuse_existing, write_whole

HELP = "images, identities, sizes, a histogram, a contact sheet"

_MEASURED = 10_000  # images, unless --sample says otherwise
_MOST_DRAWN = 10_000  # on a contact sheet: 380 MB of pixels


def add_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add = parser.add_argument
    pictures = "write histogram.png, contact_sheet.png and stats.json there"
    add("--output", type=Path, metavar="DIR", help=pictures)
    measured = f"of the images to measure, in (0, 1] (at most {_MEASURED} images)"
    add("--sample", type=float, metavar="SHARE", help=measured)
    add("--rows", type=int, default=12, metavar="N", help="identities on the contact sheet (12)")
    add("--columns", type=int, default=10, metavar="N", help="images of each there (10)")
    add_overwrite(parser)
    add_seed(parser)
    add_workers(parser)


def run(options: argparse.Namespace) -> int:
    for name in ("rows", "columns"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.rows * options.columns > _MOST_DRAWN:
        raise ValueError(
            f"--rows × --columns must be at most {_MOST_DRAWN} images, got {options.rows} × {options.columns}"
        )
    output: Path | None = options.output
    if output is not None:
        refuse_existing([output / name for name in ("histogram.png", "contact_sheet.png", "stats.json")],
                        overwrite=options.overwrite)  # fmt: skip
    with closing(open_sources(options)) as source:
        index = IdentityIndex(checked_labels(source), source.num_identities)
        if options.sample is None:
            images_M = draw(len(source), _MEASURED, options.seed)
        else:
            images_M = sample(len(source), options.sample, options.seed)
        with progress_bar("stats", len(images_M)) as progress:
            sizes = measure(source, images_M, workers=options.workers, progress=progress)
        counts_C, rows = index.counts_C, histogram(index.counts_C)
        numbers = {
            "images": len(source),
            "identities": len(index),
            "images_an_identity": _spread(counts_C),
            "histogram": [{"least": least, "most": most, "identities": count} for least, most, count in rows],
            "measured_images": len(images_M),
            "mean_bytes": round(sizes.mean_bytes, 1),
            "sizes": {f"{width}x{height}": count for (height, width), count in sizes.pixels.most_common()},
            "broken_headers": sizes.broken,
        }
        _print(source.name, numbers, histogram_text(rows))
        if output is not None:
            sheet = contact_sheet(
                source, index, rows=options.rows, columns=options.columns, cell=112, seed=options.seed
            )
            output.mkdir(parents=True, exist_ok=True)
            title = f"{len(source)} images of {len(index)} identities"
            write_whole(output / "histogram.png", histogram_png(rows, title))
            write_whole(output / "contact_sheet.png", sheet)
            write_whole(output / "stats.json", json.dumps(numbers, indent=2) + "\n")
            print(f"{output}: histogram.png, contact_sheet.png, stats.json")
    return 0


def _spread(counts_C: np.ndarray) -> dict[str, float]:
    return {
        "least": int(counts_C.min()),
        "median": float(np.median(counts_C)),
        "mean": round(float(counts_C.mean()), 2),
        "most": int(counts_C.max()),
    }


def _print(name: str, numbers: dict, bars: list[str]) -> None:
    spread = numbers["images_an_identity"]
    print(f"{name}: {numbers['images']} images of {numbers['identities']} identities")
    print("images an identity: " + ", ".join(f"{key} {value:g}" for key, value in spread.items()))
    print("\n".join(bars))
    shown = [f"{size.replace('x', '×')} ({count})" for size, count in list(numbers["sizes"].items())[:5]]
    more = f" and {len(numbers['sizes']) - 5} others" if len(numbers["sizes"]) > 5 else ""
    print(f"sizes of {numbers['measured_images']} images: {', '.join(shown) or 'none'}{more}")
    print(f"bytes an image: {numbers['mean_bytes']:.0f}")
    if numbers["broken_headers"]:
        print(f"{numbers['broken_headers']} images cannot be read, or have a broken header: the verb verify names them")
