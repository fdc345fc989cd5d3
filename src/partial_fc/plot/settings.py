"""What a run was asked for: the configuration that its newest checkpoint says.

The manifest is read as plain JSON, and only what a table shows of it: whoever draws a log needs neither MXNet nor the
checkpoint's other files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from partial_fc.plot.names import clean

_MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 1 << 26
_LONGEST_TEXT = 300
_UPDATE = re.compile(r"update-(\d{8,18})")


def read_settings(directory: Path) -> dict[str, Any]:
    """JSON values by name, `ranks` and `identities` first; empty where no checkpoint says them."""
    for path in _newest_first(directory):
        try:
            if path.stat().st_size > _LARGEST_MANIFEST:
                continue
            manifest = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):  # that of a checkpoint before may be whole
            continue
        if isinstance(manifest, dict) and isinstance(manifest.get("config"), dict):
            own = {"ranks": manifest.get("ranks"), "identities": manifest.get("num_classes")}
            return own | {name: value for name, value in manifest["config"].items() if name not in own}
    return {}


def as_text(value: Any) -> str:
    """A setting as a cell of a table: numbers grouped, lists with commas, a dash for what is not set."""
    if value is None or value == [] or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return clean(f"{value:,}")
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return clean(value, _LONGEST_TEXT)
    if isinstance(value, list) and not any(isinstance(part, list | dict) for part in value):
        return clean(", ".join(as_text(part).replace(",", "") for part in value), _LONGEST_TEXT)
    return "…"  # of no setting of this project


def _newest_first(directory: Path) -> list[Path]:
    found = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _UPDATE.fullmatch(path.name)
        if match:
            found[int(match[1])] = path / _MANIFEST
    return [found[update] for update in sorted(found, reverse=True)]
