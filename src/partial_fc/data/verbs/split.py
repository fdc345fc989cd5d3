"""`split SRC … DIR`: identities to train on and others held out, with pairs of these to verify.

    DIR/train/train.rec, property       the identities to train on, labels from 0
    DIR/held_out/train.rec, property    the others, labels from 0
    DIR/val.bin                         pairs of images of the held-out identities
    DIR/identities.txt                  part, new label, old label, name

DIR appears complete or not at all.
"""

from __future__ import annotations

import argparse
import math
from contextlib import closing
from pathlib import Path

import numpy as np

from partial_fc.data.copy_images import checked_labels, copy_images
from partial_fc.data.decode import DecodeError, decode
from partial_fc.data.identities import IdentityIndex
from partial_fc.data.open_source import identity_names
from partial_fc.data.pairs import draw_pairs
from partial_fc.data.relabeling import dense, relabeled_selection
from partial_fc.data.source import ImageSource
from partial_fc.data.verbs.common import (
    add_overwrite,
    add_seed,
    add_source,
    add_workers,
    open_sources,
    progress_bar,
    say_written,
)
from partial_fc.data.whole_file import refuse_existing, whole_directory, write_whole
from partial_fc.evaluation.verification_set import save_bin

HELP = "identities to train on and held-out ones, with pairs of these as a .bin"

_MANIFEST = "identities.txt"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("dst", metavar="DIR", type=Path, help="the directory to write")
    add = parser.add_argument
    held_out = "identities to hold out: a number, or a share of them below 1 (0.1)"
    add("--held-out", type=float, default=0.1, metavar="N", help=held_out)
    add("--pairs", type=int, default=6000, metavar="P", help="in val.bin, half of one person (6000)")
    add("--folds", type=int, default=10, metavar="K", help="of the pairs (10)")
    add_overwrite(parser)
    add_seed(parser)
    add_workers(parser)


def run(options: argparse.Namespace) -> int:
    refuse_existing([options.dst], overwrite=options.overwrite)
    if options.dst.exists() and not (options.dst / _MANIFEST).is_file():
        raise FileExistsError(f"{options.dst} is there and is no split: give another name")
    if options.folds < 1:
        raise ValueError(f"--folds must be at least 1, got {options.folds}")
    with closing(open_sources(options)) as source:
        labels_N = checked_labels(source)
        index = IdentityIndex(labels_N, source.num_identities)
        held_out = draw_identities(index, options.held_out, options.seed)
        pairs = list(
            draw_pairs(index, held_out, pairs=options.pairs, folds=options.folds, seed=options.seed)
        )
        with whole_directory(options.dst) as directory:
            _write_pairs(source, pairs, directory / "val.bin")
            _write_parts(options, source, labels_N, index, held_out, directory)
    print(f"{options.dst / 'val.bin'}: {len(pairs)} pairs of {len(held_out)} held-out identities")
    return 0


def draw_identities(index: IdentityIndex, held_out: float, seed: int) -> np.ndarray:
    """The identities to hold out, ascending. Raises ValueError when none or no other would be left."""
    present = np.flatnonzero(index.counts_C)
    if math.isnan(held_out):
        raise ValueError("--held-out must be a number of identities or a share of them, got nan")
    count = round(held_out * len(present)) if held_out < 1 else int(min(held_out, len(present)))
    if not 0 < count < len(present) or (held_out >= 1 and held_out != count):
        raise ValueError(
            f"--held-out must be a share in (0, 1) or a whole number below the {len(present)} identities, and leave "
            f"one at least to each part, got {held_out:g}"
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.sort(generator.choice(present, count, replace=False))


def _write_parts(
    options: argparse.Namespace,
    source: ImageSource,
    labels_N: np.ndarray,
    index: IdentityIndex,
    held_out: np.ndarray,
    directory: Path,
) -> None:
    is_held_out_C = np.zeros(len(index), bool)
    is_held_out_C[held_out] = True
    names = identity_names(source)
    lines = []
    for part, is_member_C in (("train", ~is_held_out_C), ("held_out", is_held_out_C)):
        old_C = np.where(is_member_C, np.arange(len(index)), -1)
        new_C, identities = dense(old_C, index.counts_C > 0)
        selection = relabeled_selection(labels_N, new_C, identities)
        (directory / part).mkdir()
        with progress_bar(f"split {part}", len(selection)) as progress:
            report = copy_images(
                source, selection, directory / part / "train.rec", workers=options.workers, progress=progress
            )
        say_written(directory / part / "train.rec", report, options.dst / part / "train.rec")
        for old in np.flatnonzero(new_C >= 0):
            name = b"" if names is None else b"\t" + names[old]
            lines.append(b"%s\t%d\t%d%s\n" % (part.encode(), new_C[old], old, name))
    write_whole(directory / _MANIFEST, b"".join(lines))


def _read_sound(source: ImageSource, image: int) -> bytes:
    image_bytes, _ = source.read(image)
    try:
        decode(image_bytes)
    except DecodeError as error:
        raise ValueError(f"{source.where(image)} {error}: `pack` makes a set without such images") from None
    return image_bytes


def _write_pairs(source: ImageSource, pairs: list[tuple[int, int, bool]], path: Path) -> None:
    images = [_read_sound(source, image) for one, other, _ in pairs for image in (one, other)]
    save_bin(path, images, [is_same for _, _, is_same in pairs])
