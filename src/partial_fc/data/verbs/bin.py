"""`bin PAIRS SRC … DST.bin`: a verification set of the pairs in a list, their images taken from a set."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from partial_fc.data.copy_images import left_out
from partial_fc.data.find_images import find_images
from partial_fc.data.in_order import map_in_order
from partial_fc.data.pairs import read_pairs
from partial_fc.data.verbs.common import (
    add_overwrite,
    add_source,
    add_workers,
    check_outputs,
    open_sources,
    progress_bar,
)
from partial_fc.data.verbs.pack import add_changes, change_of
from partial_fc.evaluation.verification_set import save_bin

HELP = "a verification .bin of LFW's pairs.txt or of `path path 0/1` lines"


def add_options(parser: argparse.ArgumentParser) -> None:
    text = "LFW's pairs.txt, or lines `path path 0/1`; in a .rec an image is called by the number of its record"
    parser.add_argument("pairs", metavar="PAIRS", type=Path, help=text)
    add_source(parser)
    parser.add_argument("dst", metavar="DST.bin", type=Path, help="what to write")
    add_changes(parser)
    add_overwrite(parser)
    add_workers(parser)


def run(options: argparse.Namespace) -> int:
    if options.dst.suffix != ".bin":
        raise ValueError(f"a verification set is written as NAME.bin, got {options.dst}")
    check_outputs(options, options.dst)
    pairs = read_pairs(options.pairs)
    change = change_of(options)
    with closing(open_sources(options)) as source:
        index_of = find_images(source, (name for pair in pairs for name in pair[:2]))
        images = sorted(set(index_of.values()))

        def read(index: int) -> bytes:
            try:
                return change(source, index, source.read(index)[0])
            except ValueError as error:
                raise ValueError(" ".join(left_out(source, index, error))) from None

        with progress_bar("bin", len(images)) as progress:
            image_of = {}
            for index, image in zip(images, map_in_order(read, images, options.workers), strict=True):
                image_of[index] = image
                progress()
    encoded = [image_of[index_of[name]] for pair in pairs for name in pair[:2]]
    save_bin(options.dst, encoded, [pair.is_same for pair in pairs])
    same = sum(pair.is_same for pair in pairs)
    print(f"{options.dst}: {len(pairs)} pairs, {same} of one person, {len(images)} images")
    return 0
