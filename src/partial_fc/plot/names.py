"""Names from logs, paths and settings as text that can be drawn: of bounded length, without control characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

MAX_CHARACTERS = 80


def clean(text: str, longest: int = MAX_CHARACTERS) -> str:
    """The text with U+FFFD for what no page and no picture can show, and shortened in the middle."""
    if len(text) > longest:
        half = (longest - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c)[0] == "C" else c for c in text)


def labels_of(directories: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart: `toy`, or `monday/toy` and `tuesday/toy`."""
    parts = [path.resolve().parts for path in directories]
    labels = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        labels.append(clean("/".join(own[-length:]) or "/"))
    return labels
