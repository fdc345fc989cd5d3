"""New labels for the identities of a set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from partial_fc.data.copy_images import Selection, sorted_selection
from partial_fc.data.whole_file import write_whole


def dense(labels_C: np.ndarray, used_C: np.ndarray) -> tuple[np.ndarray, int]:
    """(the labels, those in use numbered 0, 1, … in their order and all others −1; how many there are).

    labels_C: the label of each identity before, −1 for one that is left out. used_C: whether it has an image.
    Identities of the same label stay one.
    """
    kept_C = used_C & (labels_C >= 0)
    known, numbers = np.unique(labels_C[kept_C], return_inverse=True)
    dense_C = np.full(len(labels_C), -1)
    dense_C[kept_C] = numbers
    return dense_C, len(known)


def relabeled_selection(
    labels_N: np.ndarray, new_labels_C: np.ndarray, num_identities: int, most_images: int | None = None
) -> Selection:
    """The images whose identity has a new label from 0 up, by ascending new label.

    most_images: how many of an identity are taken, the first ones in the order of the set.
    """
    new_labels_N = new_labels_C[labels_N]
    images_M = np.flatnonzero(new_labels_N >= 0)
    selection = sorted_selection(images_M, new_labels_N[images_M], num_identities)
    if most_images is not None and len(selection):
        labels_M = selection.labels_M
        starts_M = np.flatnonzero(np.concatenate([[True], labels_M[1:] != labels_M[:-1]]))
        counts = np.diff(np.append(starts_M, len(labels_M)))
        is_taken_M = np.arange(len(labels_M)) - np.repeat(starts_M, counts) < most_images
        selection = Selection(
            np.asarray(selection.images_M)[is_taken_M], labels_M[is_taken_M], num_identities
        )
    return selection


def say_joined(new_labels_C: np.ndarray, names: Sequence[bytes] | None) -> str:
    """Which identities have a new label in common, the first ones by name or old label; "" where none have."""
    counts = np.bincount(new_labels_C[new_labels_C >= 0])
    joined = np.flatnonzero(counts > 1)
    if not len(joined):
        return ""
    olds = np.flatnonzero(new_labels_C == joined[0])
    shown = [str(old) if names is None else names[old].decode(errors="backslashreplace") for old in olds[:3]]
    shown += ["…"] if len(olds) > 3 else []
    more = "" if len(joined) == 1 else f", and {len(joined) - 1} more of the kind"
    return f"{counts[joined].sum()} identities became {len(joined)}: {' + '.join(shown)} are {joined[0]} now{more}"


def write_identities(path: Path, new_labels_C: np.ndarray, names: Sequence[bytes] | None) -> None:
    """The identities of a new set, a line each: new label, old label and, where there is one, name."""
    lines = []
    for old in np.argsort(new_labels_C, kind="stable"):
        if new_labels_C[old] >= 0:
            name = b"" if names is None else b"\t" + names[old]
            lines.append(b"%d\t%d%s\n" % (new_labels_C[old], old, name))
    write_whole(path, b"".join(lines))
