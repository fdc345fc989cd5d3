"""What embedding a set costs beside the model's forward passes alone, the floor, in one run.

    python benchmarks/embed.py MODEL [--images 512] [--rounds 5] [--batch-size 64] [--results]

Each round measures every way once over the same images, 112×112 JPEG; what is told are medians of images a second, and
of milliseconds of the processor an image, which other programs disturb less.

    forward     the model over batches of decoded pixels in memory
    embedder    FaceEmbedder over the JPEGs' bytes
    rec         the command from a .rec to out.npz
    folder      the same from a folder of files
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path

from results import DIRECTORY, quantiles, write_results

from partial_fc.cores import use_all_cores

use_all_cores()

import numpy as np  # noqa: E402

from partial_fc import FaceEmbedder  # noqa: E402
from partial_fc.collectives import SingleProcess  # noqa: E402
from partial_fc.data.decode import decode  # noqa: E402
from partial_fc.data.open_source import open_source  # noqa: E402
from partial_fc.data.synthetic_faces import write_synthetic_faces  # noqa: E402
from partial_fc.embed.__main__ import parse_options as embed_options  # noqa: E402
from partial_fc.embed.embed_set import embed_set  # noqa: E402

FACES = {"images_per_identity": 8, "held_out_identities": 20, "pairs": 20}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="as python -m partial_fc.embed takes it")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--results", type=Path, nargs="?", const=DIRECTORY, help="write embed.csv there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        ways = prepare(options, Path(directory))
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for way in ways.values():
            way()  # once, unmeasured: libraries prepare themselves
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for name, way in ways.items():
                started, processor = time.perf_counter(), time.process_time()
                way()
                seconds = time.perf_counter() - started, time.process_time() - processor
                measured[name].append(tuple(1000 * value / options.images for value in seconds))
    rows = []
    floor = statistics.median(processor for _, processor in measured["forward"])
    for name, pairs in measured.items():
        wall, processor = ([pair[place] for pair in pairs] for place in (0, 1))
        row = {"way": name, **quantiles("ms_an_image", wall), **quantiles("processor_ms_an_image", processor)}
        rows.append(row | {"images": options.images, "batch_size": options.batch_size})
        middle = statistics.median(processor)
        print(
            f"{name:9} {1000 / statistics.median(wall):8.1f} images/s   {middle:8.2f} ms of the processor an image   "
            f"{middle / floor:5.3f} of forward"
        )
    if options.results:
        print(write_results("embed", rows, options.results))
    return 0


def prepare(options: argparse.Namespace, directory: Path) -> dict[str, Callable[[], object]]:
    """The ways to measure, over the same images."""
    faces = FACES | {"identities": -(-options.images // FACES["images_per_identity"])}
    write_synthetic_faces(directory / "faces", seed=0, **faces)
    with closing(open_source(directory / "faces")) as source:
        jpegs = [source.read(index)[0] for index in range(options.images)]
    (directory / "folder").mkdir()
    for number, jpeg in enumerate(jpegs):
        (directory / "folder" / f"{number:06d}.jpg").write_bytes(jpeg)
    embedder = FaceEmbedder.load(options.model, batch_size=options.batch_size)
    side = embedder.image_size
    pixels_NHWC = np.stack([decode(jpeg, (side, side)) for jpeg in jpegs])

    def forward() -> None:
        for start in range(0, len(pixels_NHWC), options.batch_size):
            embedder.model.embed(pixels_NHWC[start : start + options.batch_size])

    def command(source: str) -> Callable[[], object]:
        words = [options.model, directory / source, directory / f"{source}.npz", "--overwrite"]
        parsed = embed_options([*map(str, words), "--batch-size", str(options.batch_size)])

        def run() -> None:
            with redirect_stdout(StringIO()):
                embed_set(parsed, SingleProcess())

        return run

    return {
        "forward": forward,
        "embedder": lambda: embedder(jpegs),
        "rec": command("faces"),
        "folder": command("folder"),
    }


if __name__ == "__main__":
    sys.exit(main())
