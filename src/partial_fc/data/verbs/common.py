"""Options that several verbs have, their bar of progress, and what they say at the end."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from partial_fc.data.copy_images import Change, CopyReport, Selection, copy_images, keep
from partial_fc.data.image_writer import check_destination
from partial_fc.data.open_source import PATHS_HELP, open_source
from partial_fc.data.source import ImageSource
from partial_fc.data.whole_file import refuse_existing, write_whole

Progress = Callable[[], object]


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", nargs="+", metavar="SRC", type=Path, help=PATHS_HELP)
    shared = "the sets number one list of identities (folders name it); else those of different sets are other people"
    parser.add_argument("--shared-labels", action="store_true", help=shared)


def add_destination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dst", metavar="DST", type=Path, help="what to write: NAME.rec or NAME.lmdb")
    add_overwrite(parser)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="exchange what is there already for the new one")


def add_workers(parser: argparse.ArgumentParser) -> None:
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cores, metavar="N", help=f"threads ({cores}, the cores)")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 up, got {text}")
    return int(text)


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_seed, default=0, metavar="S", help="of what is drawn (0)")


def open_sources(options: argparse.Namespace) -> ImageSource:
    """What SRC names. Raises as `open_source`."""
    return open_source(options.src, shared_labels=options.shared_labels)


@contextmanager
def progress_bar(verb: str, images: int) -> Iterator[Progress]:
    """A function to call after each image. At the end a line says how quick it was."""
    started = time.perf_counter()
    with tqdm(total=images, desc=verb, unit=" images", smoothing=0.05, disable=None) as bar:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            bar.update()

        yield advance
    seconds = max(time.perf_counter() - started, 1e-9)
    print(f"{verb}: {done} images in {seconds:.1f} s, {done / seconds:.0f} images/s")


def left_out_path(destination: Path) -> Path:
    """Where the images that `destination` does not hold are listed."""
    return destination.with_name(f"{destination.name}.left_out.txt")


def identities_path(destination: Path) -> Path:
    """Where the identities of `destination` are listed by label and name."""
    return destination.with_name(f"{destination.name}.identities.txt")


def write_set(
    verb: str, options: argparse.Namespace, source: ImageSource, selection: Selection, change: Change = keep
) -> CopyReport:
    """Writes the selection to DST and says what it holds; what was left out is listed beside it."""
    check_destination(options.dst, overwrite=options.overwrite)
    with progress_bar(verb, len(selection)) as progress:
        report = copy_images(
            source, selection, options.dst, change=change, workers=options.workers, progress=progress
        )
    say_written(options.dst, report)
    return report


def say_written(destination: Path, report: CopyReport, final: Path | None = None) -> None:
    """What `destination` holds, and the list of what it does not, in a file beside it.

    final: what it will be called, where its directory does not have its name yet.
    """
    final = final or destination
    identities = len(report.images_of_C)
    print(f"{final}: {report.written} images of {identities} identities")
    if len(report.sizes) > 1:
        sizes = ", ".join(f"{width}×{height} ({n})" for (height, width), n in report.sizes.most_common(5))
        more = ", …" if len(report.sizes) > 5 else ""
        print(f"  images of {len(report.sizes)} sizes: {sizes}{more}; --size makes them one")
    if report.empty_identities:
        print(f"  {report.empty_identities} identities have no image: the verb relabel closes the gaps")
    listed = left_out_path(destination)
    if report.left_out:
        write_whole(listed, "".join(f"{where}\t{why}\n" for where, why in report.left_out))
        print(f"  {len(report.left_out)} images were left out: {left_out_path(final)} says which and why")
    else:
        listed.unlink(missing_ok=True)


def check_outputs(options: argparse.Namespace, *paths: Path | None) -> None:
    """Raises FileExistsError before the work when a file that it will write is there."""
    refuse_existing([path for path in paths if path is not None], overwrite=options.overwrite)


def sentence(error: ValueError | OSError) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
