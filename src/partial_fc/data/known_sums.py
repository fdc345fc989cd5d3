"""MD5 sums of published files, to tell a whole download from a damaged one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_BLOCK_BYTES = 8 << 20

FIRST, SECOND = "Glint360K, first release", "Glint360K, second release"
GLINT360K_IMAGES, GLINT360K_IDENTITIES = 17_091_657, 360_232


class Known(NamedTuple):
    """A published file: of which set, and what it is called there."""

    release: str
    name: str


_PARTS = {
    FIRST: (
        "glint360k{:02d}",
        "8b469dabd959b51f5ae63f1113fa9a7e 25449911e03766bf773b12abcc5789cd bbd236acb4b561def6071f94b423d85e "
        "bd392b1506dddc5cead1b9de1e7b6e52 163aec95c3e258a79df7f1cb563fd5ef 41bbf8314e24f98405ecbad8e9c89dfd "
        "dcc2f021aa2a9463ff1b2a8021ef87b6",
    ),
    SECOND: (
        "glint360k_{:02d}",
        "cf7433cbb915ac422230ba33176f4625 589a5ea3ab59f283d2b5dd3242bc027a 8d54fdd5b1e4cd55e1b9a714d76d1075 "
        "cd7f008579dbed9c5af4d1275915d95e 64666b324911b47334cc824f5f836d4c a318e4d32493dd5be6b94dd48f9943ac "
        "c3ae1dcbecea360d2ec2a43a7b6f1d94",
    ),
}

SUMS: dict[str, Known] = {
    "2a74c71c4d20e770273f103eda97e878": Known(FIRST, "train.rec"),
    "f7a3e98d3533ac481bdf3dc03a5416e8": Known(FIRST, "train.idx"),
    "8483be5af6f9906e19f85dee49132f8e": Known(SECOND, "train.rec"),
    "5d9cd9f262ec87a5ca2eac5e703f7cdf": Known(SECOND, "train.idx"),
} | {
    md5: Known(release, name.format(part))
    for release, (name, sums) in _PARTS.items()
    for part, md5 in enumerate(sums.split())
}
"""Which published file has an MD5 sum."""

_PART_NAME = re.compile(r"glint360k_?0[0-6]")


def is_archive_part(path: Path) -> bool:
    """Whether a file is called as a part of Glint360K's archive is, in either release."""
    return _PART_NAME.fullmatch(path.name) is not None and path.is_file()


def sums_of(name: str) -> list[str]:
    """The MD5 sums that files of this name were published with."""
    return [md5 for md5, known in SUMS.items() if known.name == name]


def md5_of(path: Path, progress: Callable[[int], object] = lambda _: None) -> str:
    """The MD5 sum of a file; `progress` is told how many bytes were read, again and again."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while data := file.read(_BLOCK_BYTES):
            digest.update(data)
            progress(len(data))
    return digest.hexdigest()
