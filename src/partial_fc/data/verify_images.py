"""Whether the images of a set can be read and decoded, and which of them are there more than once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import numpy as np

from partial_fc.data.decode import DecodeError, decode
from partial_fc.data.findings import Check
from partial_fc.data.in_order import map_in_order
from partial_fc.data.source import ImageSource

_HASH_BYTES = 8  # 17 million images have a pair of one hash by chance once in 100,000 sets; pairs are compared


class _Seen(NamedTuple):
    hash: int
    size: tuple[int, int] | None
    unreadable: str | None
    undecodable: str | None


def check_images(
    source: ImageSource,
    labels_N: np.ndarray | None,
    images_M: np.ndarray,
    *,
    workers: int,
    progress: Callable[[], object],
) -> list[Check]:
    """Reads, decodes and hashes the images `images_M`, ascending. Memory: 8 bytes an image."""
    hashes_M = np.zeros(len(images_M), np.uint64)
    is_read_M = np.ones(len(images_M), bool)
    sizes: Counter[tuple[int, int]] = Counter()
    unreadable, undecodable = [], []
    with closing(map_in_order(lambda image: _look_at(source, image), images_M, workers)) as results:
        for i, seen in enumerate(results):
            hashes_M[i] = seen.hash
            if seen.unreadable is not None:
                is_read_M[i] = False
                unreadable.append(seen.unreadable)
            elif seen.undecodable is not None:
                undecodable.append(seen.undecodable)
            else:
                sizes[seen.size] += 1
            progress()
    part = "" if len(images_M) == len(source) else f" of {len(source)}, drawn,"
    shown = ", ".join(f"{width}×{height} ({count})" for (height, width), count in sizes.most_common(5))
    mixed = [f"images have {len(sizes)} sizes: training resizes those that are not its own"] if len(sizes) > 1 else []
    return [
        Check("records", f"{len(images_M)}{part} read", unreadable),
        Check("images", f"{sizes.total()} decoded; {shown or 'none'}", undecodable, mixed),
        _check_copies(source, labels_N, images_M[is_read_M], hashes_M[is_read_M]),
    ]


def _look_at(source: ImageSource, index: int) -> _Seen:
    try:
        image_bytes, _ = source.read(index)
    except ValueError as error:
        return _Seen(0, None, str(error), None)
    number = int.from_bytes(hashlib.blake2b(image_bytes, digest_size=_HASH_BYTES).digest(), "little")
    try:
        return _Seen(number, decode(image_bytes).shape[:2], None, None)
    except DecodeError as error:
        return _Seen(number, None, None, f"{source.where(index)} {error}")


def _check_copies(
    source: ImageSource, labels_N: np.ndarray | None, images_M: np.ndarray, hashes_M: np.ndarray
) -> Check:
    order_M = np.argsort(hashes_M, kind="stable")
    is_copy_M = np.zeros(len(order_M), bool)
    is_copy_M[1:] = hashes_M[order_M][1:] == hashes_M[order_M][:-1]
    within, across, remarks = 0, 0, []
    for i in np.flatnonzero(is_copy_M):
        one, other = int(images_M[order_M[i - 1]]), int(images_M[order_M[i]])
        if source.read(one)[0] != source.read(other)[0]:
            continue
        is_same = labels_N is not None and labels_N[one] == labels_N[other]
        within, across = within + is_same, across + (not is_same)
        kind = "" if is_same else ", of another identity"
        remarks.append(f"{source.where(other)} is a copy of {source.where(one)}{kind}")
    copies = within + across
    are = "1 image is a copy of another" if copies == 1 else f"{copies} images are copies of others"
    summary = f"{are}: {within} of their own identity, {across} of another"
    return Check("duplicates", summary, [], remarks)


def check_labels(labels_N: np.ndarray, num_identities: int) -> Check:
    """Labels are 0 … C − 1 and each of them has an image; how many have one image alone."""
    outside = labels_N[(labels_N < 0) | (labels_N >= num_identities)]
    faults = [f"{len(outside)} labels lie outside [0, {num_identities}), the largest is {outside.max()}"] if len(
        outside
    ) else []
    counts_C = np.bincount(labels_N, minlength=num_identities)[:num_identities]
    empty = np.flatnonzero(counts_C == 0)
    if len(empty):
        first = ", ".join(map(str, empty[:5])) + (", …" if len(empty) > 5 else "")
        faults.append(f"{len(empty)} identities have no image ({first}): the verb relabel closes the gaps")
    single = int((counts_C == 1).sum())
    remarks = [f"{single} identities have one image, which teaches little about them"] if single else []
    return Check("labels", f"{num_identities} identities, labels 0 to {num_identities - 1}", faults, remarks)
