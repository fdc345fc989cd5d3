"""Every backbone as an ONNX file, at its full size: how far its unit embeddings are from MXNet's, in each form.

    python benchmarks/export.py
    python benchmarks/export.py --networks r50 r100 --results benchmarks/results

Weights are random, BatchNorm's statistics those of drawn faces, so that values are as large as in a trained network.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "src")]

from results import write_results  # noqa: E402

from partial_fc.export import export_model  # noqa: E402
from partial_fc.testing_export import write_backbone  # noqa: E402
from symbol import backbone_names  # noqa: E402

DISTINCT = [name for name in backbone_names() if name not in ("ir50", "mobile")]  # F²C's names for r50, mobilefacenet
FORMS = {
    "plain": {},
    "folded": {"fold_batch_norm": True},
    "fp16": {"fp16": True},
    "folded_fp16": {"fold_batch_norm": True, "fp16": True},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports, prints a line a network, and writes the results where asked to."""
    options = parse(arguments)
    rows = []
    print("network, folded of BatchNorms, s; difference plain, folded, fp16 (rounded), folded fp16 (rounded)")
    for network in options.networks:
        row = measure(network, options.embedding_size, options.image_size)
        rows.append(row)
        numbers = [f"{row[f'{form}_difference']:.1e}" for form in FORMS]
        for at, form in ((2, "fp16"), (3, "folded_fp16")):
            numbers[at] += f" ({row[f'{form}_rounded_difference']:.1e})"
        what = f"{network}, {row['folded']} of {row['batch_norms']}, {row['plain_s']:.1f}"
        print(f"{what}; {', '.join(numbers)}", flush=True)
    if options.results:
        print(f"wrote {write_results('export', rows, options.results)}")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=backbone_names(), default=DISTINCT, metavar="NAME")
    parser.add_argument("--embedding-size", type=int, default=512, metavar="D")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="default: each network's own")
    parser.add_argument("--results", type=Path, metavar="DIRECTORY", help="write export.csv there")
    return parser.parse_args(arguments)


def measure(network: str, embedding_size: int, image_size: int | None) -> dict[str, object]:
    """One network in every form."""
    with tempfile.TemporaryDirectory() as directory:
        model = write_backbone(Path(directory), network, embedding_size, image_size)
        row: dict[str, object] = {"network": network, "embedding_size": embedding_size}
        for form, how in FORMS.items():
            start = time.perf_counter()
            exported = export_model(model, Path(directory) / "model.onnx", **how)
            row[f"{form}_s"] = time.perf_counter() - start
            row[f"{form}_mib"] = exported.bytes / 2**20
            row[f"{form}_difference"] = exported.difference
            row[f"{form}_rounded_difference"] = exported.rounded_difference
            row |= {"image_size": exported.image_size, "batch_norms": exported.batch_norms}
            if form == "folded":
                row["folded"] = exported.folded
    return row


if __name__ == "__main__":
    sys.exit(main())
