"""`pack SRC … DST`: images of any format, or of several, to one .rec or LMDB."""

from __future__ import annotations

import argparse
import math
from contextlib import closing
from pathlib import Path

import numpy as np

from partial_fc.data.align import align, read_landmarks
from partial_fc.data.combined import CombinedSource
from partial_fc.data.copy_images import (
    Change,
    checked_labels,
    encode,
    keep,
    resize_to,
    shuffled_selection,
    sorted_selection,
)
from partial_fc.data.decode import MAX_PIXELS, decode
from partial_fc.data.open_source import identity_names
from partial_fc.data.relabeling import write_identities
from partial_fc.data.source import ImageSource
from partial_fc.data.verbs.common import (
    add_destination,
    add_seed,
    add_source,
    add_workers,
    check_outputs,
    identities_path,
    open_sources,
    write_set,
)

HELP = "folders, lists, LMDB or .rec to one .rec or LMDB"
_ALIGNED_SIZE = 112
_MAX_SIDE = math.isqrt(MAX_PIXELS)  # what is larger is not decoded


def add_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_destination(parser)
    add_changes(parser)
    shuffle = "images in random order; a .rec then has no identity records"
    parser.add_argument("--shuffle", action="store_true", help=shuffle)
    add_seed(parser)
    add_workers(parser)


def add_changes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--size", type=int, metavar="PIXELS", help="resize images of another size, and encode these anew")
    landmarks = "align every face by its landmarks, lines of `file x1 y1 … x5 y5`, and encode it anew"
    add("--align", type=Path, metavar="FILE", help=landmarks)
    add("--quality", type=int, default=95, metavar="Q", help="of JPEG that is encoded anew, 1 to 100 (95)")


def run(options: argparse.Namespace, verb: str = "pack") -> int:
    listed = identities_path(options.dst)
    with closing(open_sources(options)) as source:
        selection = sorted_selection(range(len(source)), checked_labels(source), source.num_identities)
        if options.shuffle:
            selection = shuffled_selection(selection, options.seed)
        names = identity_names(source)
        check_outputs(options, options.dst, listed if names is not None else None)
        write_set(verb, options, source, selection, change_of(options))
        _say_sets(source)
        if names is None:
            listed.unlink(missing_ok=True)  # of what stood there before
        else:
            write_identities(listed, np.arange(len(names)), names)
            print(f"  {listed}: new label, old label and name of each identity")
    return 0


def _say_sets(source: ImageSource) -> None:
    """Which labels of the new set are whose, where several sets follow on one another."""
    if isinstance(source, CombinedSource) and not source.shared_labels:
        first = 0
        for part in source.sources:
            print(f"  labels {first} to {first + part.num_identities - 1}: {part.name}")
            first += part.num_identities


def change_of(options: argparse.Namespace) -> Change:
    """What becomes of an image by --size, --align and --quality. Raises ValueError for numbers out of range."""
    if not 1 <= options.quality <= 100:
        raise ValueError(f"--quality must lie in [1, 100], got {options.quality}")
    if options.size is not None and not 1 <= options.size <= _MAX_SIDE:
        raise ValueError(f"--size must lie in [1, {_MAX_SIDE}] pixels, got {options.size}")
    if options.align is not None:
        return align_by(options.align, options.size or _ALIGNED_SIZE, options.quality)
    return keep if options.size is None else resize_to(options.size, options.quality)


def align_by(path: Path, size: int, quality: int) -> Change:
    """Aligns each face by the landmarks that the file gives for its key, or for its file name alone."""
    landmarks = read_landmarks(path)

    def change(source: ImageSource, index: int, image_bytes: bytes) -> bytes:
        key = source.key(index)
        points_52 = landmarks.get(key)
        if points_52 is None:
            points_52 = landmarks.get(key.rpartition("/")[2])
        if points_52 is None:
            raise ValueError(f"has no landmarks in {path}")
        return encode(align(decode(image_bytes), points_52, size=size), quality)

    return change
