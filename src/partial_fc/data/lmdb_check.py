"""A look at an LMDB database's two head pages before its library, which maps the file and trusts it, opens it.

    page   uint64 number, uint16 pad, uint16 flags, uint32 free space; then on pages 0 and 1:
    meta   uint32 0xBEEFC0DE, uint32 version, uint64 address, uint64 size of the map, 2 × tree, uint64 last page,
           uint64 transaction
    tree   uint32 page size (of the first tree), uint16 flags, uint16 depth, uint64 × 4 counts, uint64 root
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_PAGE_HEAD = 16
_META = struct.Struct("<IIQQ" + "IHHQQQQQ" * 2 + "QQ")
_MAGIC, _VERSION, _NO_PAGE = 0xBEEFC0DE, 1, (1 << 64) - 1
_META_FLAG = 0x08


def check_lmdb(path: Path) -> None:
    """Checks that the file holds every page that its heads speak of: the library would read past its end.

    What lies inside the other pages is not checked: that takes as long as to read them all.

    Raises:
        ValueError: it is no database, or is cut short.
        OSError: it cannot be read.
    """
    data = path / "data.mdb" if path.is_dir() else path
    if not data.is_file():
        raise ValueError(f"{path} does not open as an LMDB database (there is no {data.name})")
    with data.open("rb") as file:
        size = file.seek(0, 2)
        page_size = _check_head(file, 0, size, path)
        if _check_head(file, page_size, size, path) != page_size:
            raise ValueError(f"{path} is damaged: its two heads speak of other page sizes")


def _check_head(file: BinaryIO, offset: int, size: int, path: Path) -> int:
    file.seek(offset)
    head = file.read(_PAGE_HEAD + _META.size)
    if len(head) < _PAGE_HEAD + _META.size:
        raise ValueError(f"{path} does not open as an LMDB database (it has {size} bytes)")
    flags = int.from_bytes(head[10:12], "little")
    magic, version, _, _, *rest = _META.unpack(head[_PAGE_HEAD:])
    page_size, free_depth, free_root = rest[0], rest[2], rest[7]
    depth, root, last_page = rest[10], rest[15], rest[16]
    if magic != _MAGIC or version != _VERSION or not flags & _META_FLAG:
        raise ValueError(f"{path} does not open as an LMDB database (its head is none)")
    if page_size not in (1 << power for power in range(9, 17)):
        raise ValueError(f"{path} is damaged: a page of {page_size} bytes")
    pages = size // page_size
    if last_page >= pages:
        raise ValueError(f"{path} is cut short: it speaks of {last_page + 1} pages and has {pages}")
    for tree_depth, tree_root in ((free_depth, free_root), (depth, root)):
        if not (tree_root == _NO_PAGE and tree_depth == 0) and not (2 <= tree_root <= last_page and tree_depth < 32):
            raise ValueError(f"{path} is damaged: a tree begins at page {tree_root} of {last_page + 1}")
    return page_size
