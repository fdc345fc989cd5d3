"""`relabel SRC … DST`: labels without gaps, or by a map."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import numpy as np

from partial_fc.data.copy_images import checked_labels
from partial_fc.data.identity_lists import read_map
from partial_fc.data.open_source import identity_names
from partial_fc.data.relabeling import dense, relabeled_selection, say_joined, write_identities
from partial_fc.data.source import ImageSource
from partial_fc.data.verbs.common import (
    add_destination,
    add_source,
    add_workers,
    check_outputs,
    identities_path,
    open_sources,
    write_set,
)

HELP = "labels 0 … C-1 without gaps, or merged and left out by a map"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_destination(parser)
    text = "lines `identity new-label`, - to leave one out; others keep theirs, equal labels are joined, gaps closed"
    parser.add_argument("--map", type=Path, metavar="FILE", help=text)
    add_workers(parser)


def run(options: argparse.Namespace) -> int:
    with closing(open_sources(options)) as source:
        names, num_identities = identity_names(source), source.num_identities
        labels_C = np.arange(num_identities)
        if options.map is not None:
            labels_C = read_map(options.map, num_identities, names)
        write_relabeled("relabel", options, source, labels_C)
    return 0


def write_relabeled(
    verb: str,
    options: argparse.Namespace,
    source: ImageSource,
    labels_C: np.ndarray,
    most_images: int | None = None,
) -> None:
    """Writes the images of the identities whose label is not −1, their labels made dense, and the list of them."""
    listed = identities_path(options.dst)
    check_outputs(options, listed)
    labels_N = checked_labels(source)
    used_C = np.bincount(labels_N, minlength=source.num_identities) > 0
    new_labels_C, num_identities = dense(labels_C, used_C)
    selection = relabeled_selection(labels_N, new_labels_C, num_identities, most_images)
    write_set(verb, options, source, selection)
    names = identity_names(source)
    write_identities(listed, new_labels_C, names)
    if said := say_joined(new_labels_C, names):
        print(f"  {said}")
    print(f"  {listed}: new label, old label and name of each identity")
