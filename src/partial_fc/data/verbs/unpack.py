"""`unpack SRC … DIR`: folders of images, one an identity: DIR/<set>_<identity>/<image>.jpg.

A run that was interrupted goes on where it stopped when it is started again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from partial_fc.data.open_source import PATHS_HELP
from partial_fc.data.unpack import left_out_path, unpack
from partial_fc.data.verbs.common import Progress, add_workers, progress_bar

HELP = "to folders of images, one an identity"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", nargs="+", metavar="SRC", type=Path, help=PATHS_HELP)
    parser.add_argument("output", metavar="DIR", type=Path, help="where the folders are made")
    add_workers(parser)


def run(options: argparse.Namespace) -> int:
    unpack_sets(options.src, options.output, options.workers)
    return 0


def unpack_sets(sets: Sequence[Path], output: Path, workers: int) -> None:
    """Unpacks the sets one after the other, each with its bar of progress. Raises as `unpack`."""
    with ExitStack() as bars:
        current: str | None = None
        advance: Progress = lambda: None  # noqa: E731
        for name, done, images in unpack(sets, output, workers=workers):
            if name == current:
                advance()
                continue
            bars.close()
            bars.callback(_say_left_out, output, name)
            current = name
            if done:
                print(f"{name}: {done} of {images} images are there already")
            advance = bars.enter_context(progress_bar(f"unpack {name}", images - done))


def _say_left_out(output: Path, name: str) -> None:
    path = left_out_path(output, name)
    if path.is_file():
        images = len(path.read_bytes().splitlines())
        print(f"  {images} {'image was' if images == 1 else 'images were'} left out: {path} says which and why")
