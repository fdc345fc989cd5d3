"""The model that a directory holds."""

from __future__ import annotations

import glob
import re
from pathlib import Path


def checkpoint_in(directory: Path) -> str:
    """`PREFIX,EPOCH` of a directory's model: a run's newest, a checkpoint's, or the only one that lies there.

    Raises:
        ValueError: the directory holds no model, or several, of which one must be named.
    """
    found = []
    for symbol in sorted(directory.glob("*-symbol.json")):
        prefix = symbol.name.removesuffix("-symbol.json")
        files = sorted(path.name for path in directory.glob(f"{glob.escape(prefix)}-*.params"))
        epochs = [re.fullmatch(r"([0-9]{4,9})\.params", name[len(prefix) + 1 :]) for name in files]
        found += [f"{directory / prefix},{int(epoch[1])}" for epoch in epochs if epoch]
    if not found:  # a run's directory without its copy of the newest
        updates = sorted(directory.glob("update-*/model-symbol.json"))
        found = [f"{updates[-1].parent / 'model'},0"] if updates else []
    if not found:
        raise ValueError(f"{directory} holds no model: it needs NAME-symbol.json and NAME-0000.params, as a run has")
    if len(found) > 1:
        raise ValueError(f"{directory} holds {len(found)} models: name one of them, such as {found[-1]}")
    return found[0]
