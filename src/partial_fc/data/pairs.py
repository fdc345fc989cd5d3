"""Pairs of images to verify with: read from a list, or drawn from a set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from partial_fc.data.identities import IdentityIndex


class Pair(NamedTuple):
    """Two images by their keys, and whether they show one person."""

    one: str
    other: str
    is_same: bool


_LFW_HEADER = re.compile(rb"\d+(\s+\d+)?")


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of LFW's `pairs.txt`, or of `path path 0/1` lines, in the order of the file.

    LFW: a line of one or two numbers, then `name n n` for one person and `name n name n` for two; a key is
    `name/name_0001`, without a suffix. Otherwise the fields of a line are parted by tabs where there is one,
    else by blanks. Blank lines and Windows line ends are passed over.

    Raises:
        ValueError: a line that is neither, which is named; or no pair.
    """
    lines = [(number, line.strip(b"\r\n ")) for number, line in enumerate(path.read_bytes().split(b"\n"), 1)]
    lines = [(number, line) for number, line in lines if line.strip()]
    is_lfw = bool(lines) and _LFW_HEADER.fullmatch(lines[0][1]) is not None
    parse = _parse_lfw if is_lfw else _parse_plain
    pairs = []
    for number, line in lines[is_lfw:]:
        pair = parse([field.strip() for field in (line.split(b"\t") if b"\t" in line else line.split())])
        if pair is None:
            form = "`name n n` or `name n name n`" if is_lfw else "`path path 0/1`"
            raise ValueError(f"{path}: line {number} is not {form}")
        pairs.append(pair)
    if not pairs:
        raise ValueError(f"{path} names no pair: it needs LFW's pairs.txt or lines of `path path 0/1`")
    return pairs


def _parse_plain(fields: list[bytes]) -> Pair | None:
    if len(fields) != 3 or fields[2] not in (b"0", b"1") or not all(fields):
        return None
    return Pair(_text(fields[0]), _text(fields[1]), fields[2] == b"1")


def _parse_lfw(fields: list[bytes]) -> Pair | None:
    if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
        return Pair(_lfw_key(fields[0], fields[1]), _lfw_key(fields[0], fields[2]), True)
    if len(fields) == 4 and fields[1].isdigit() and fields[3].isdigit():
        return Pair(_lfw_key(fields[0], fields[1]), _lfw_key(fields[2], fields[3]), False)
    return None


def _lfw_key(name: bytes, number: bytes) -> str:
    return f"{_text(name)}/{_text(name)}_{int(number):04d}"


def _text(field: bytes) -> str:
    return field.decode(errors="surrogateescape")


def draw_pairs(
    index: IdentityIndex, identities: np.ndarray, *, pairs: int, folds: int, seed: int
) -> Iterator[tuple[int, int, bool]]:
    """(image, image, is_same) of different pairs among `identities`: in each fold first the same, then others.

    Half of the pairs show one person. No pair is drawn twice. An identity takes part in pairs of one person
    as evenly as its images allow.

    Raises:
        ValueError: a number of pairs that folds and halves do not divide, or more than there are.
    """
    if pairs < 1 or pairs % (2 * folds):
        raise ValueError(f"--pairs must be a multiple of {2 * folds}, two kinds in {folds} folds, got {pairs}")
    half = pairs // 2
    counts = index.counts_C[identities]
    possible_same = int((counts * (counts - 1) // 2).sum())
    total = int(counts.sum())
    possible_others = total * (total - 1) // 2 - possible_same
    if min(possible_same, possible_others) < half:
        raise ValueError(
            f"the {len(identities)} held-out identities have {possible_same} pairs of one person and "
            f"{possible_others} of two, and --pairs {pairs} asks for {half} of each: hold out more, or ask for fewer"
        )
    generator = np.random.Generator(np.random.PCG64(seed))
    same = _one_person(index, identities[counts >= 2], half, generator)
    everyone = np.concatenate([index.images_of(int(identity)) for identity in identities])
    of_image = np.repeat(np.arange(len(identities)), counts)
    others = _two_people(everyone, of_image, half, generator)
    size = half // folds
    for fold in range(folds):
        part = slice(fold * size, (fold + 1) * size)
        yield from ((one, other, True) for one, other in same[part])
        yield from ((one, other, False) for one, other in others[part])


def _one_person(
    index: IdentityIndex, several: np.ndarray, count: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Different pairs, one of each identity after the other until none of an identity's is left."""
    found: dict[tuple[int, int], None] = {}
    left = {int(identity): (n := int(index.counts_C[identity])) * (n - 1) // 2 for identity in several}
    while True:
        for identity in generator.permutation(np.array(list(left))):
            images = index.images_of(int(identity))
            pair = None
            while pair is None or pair in found:
                one, other = np.sort(generator.choice(len(images), 2, replace=False))
                pair = int(images[one]), int(images[other])
            found[pair] = None
            if len(found) == count:
                return list(found)
            left[int(identity)] -= 1
            if not left[int(identity)]:
                del left[int(identity)]


def _two_people(
    everyone: np.ndarray, of_image: np.ndarray, count: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    """Different pairs of images of different identities."""
    found: dict[tuple[int, int], None] = {}
    while len(found) < count:
        one, other = np.sort(generator.integers(len(everyone), size=2))
        if of_image[one] != of_image[other]:
            found[int(everyone[one]), int(everyone[other])] = None
    return list(found)
