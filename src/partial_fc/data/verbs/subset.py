"""`subset SRC … DST`: some identities of a set."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import numpy as np

from partial_fc.data.copy_images import checked_labels
from partial_fc.data.identity_lists import read_identities
from partial_fc.data.open_source import identity_names
from partial_fc.data.verbs.common import add_destination, add_source, add_workers, open_sources
from partial_fc.data.verbs.relabel import write_relabeled

HELP = "identities by a list, or by how many images they have; labels are made dense"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_destination(parser)
    add = parser.add_argument
    add("--identities", type=Path, metavar="FILE", help="those to take: a name (of a folder) or a label a line")
    add("--exclude", type=Path, metavar="FILE", help="those to leave out, in the same form")
    add("--least-images", type=int, metavar="N", help="take identities of N images and more")
    add("--most-images", type=int, metavar="N", help="take the first N images of an identity")
    add_workers(parser)


def run(options: argparse.Namespace) -> int:
    for name in ("least_images", "most_images"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    with closing(open_sources(options)) as source:
        names, num_identities = identity_names(source), source.num_identities
        taken_C = np.ones(num_identities, bool)
        if options.identities is not None:
            taken_C[:] = False
            taken_C[read_identities(options.identities, num_identities, names)] = True
        if options.exclude is not None:
            taken_C[read_identities(options.exclude, num_identities, names)] = False
        if options.least_images is not None:
            taken_C &= np.bincount(checked_labels(source), minlength=num_identities) >= options.least_images
        labels_C = np.where(taken_C, np.arange(num_identities), -1)
        write_relabeled("subset", options, source, labels_C, options.most_images)
    return 0
