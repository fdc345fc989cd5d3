"""The manifest: what a checkpoint consists of, with sizes and checksums, and with a checksum of itself.

A directory's manifest has the files that lie in it under ``files``. Where machines have a disk each, the others' files
are under ``elsewhere``: copied here, they complete the directory, and nothing has to be written anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from partial_fc.checkpoint.files import Facts, is_plain_name, write_text

MANIFEST = "manifest.json"
FORMAT_VERSION = 2

_LARGEST_MANIFEST = 1 << 26
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Manifest:
    """A checkpoint, described.

    Attributes:
        update: the updates made.
        ranks: how many ranks saved it.
        run: which run; resumed ones go on with the same.
        values: part → each rank's JSON values.
        description: configuration, versions, and whatever else is said.
        files, elsewhere: facts by name; see the module.
        spans: of a file with rows, the numbers from the first row to one past the last.
    """

    update: int
    ranks: int
    run: str
    values: dict[str, list[dict[str, Any]]]
    description: dict[str, Any]
    files: dict[str, Facts]
    elsewhere: dict[str, Facts] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def all_files(self) -> dict[str, Facts]:
        """The files of all machines."""
        return self.files | self.elsewhere

    def write(self, directory: Path) -> None:
        """Writes it into a directory, and to the disk."""
        content = {
            "format": FORMAT_VERSION,
            "update": self.update,
            "ranks": self.ranks,
            "run": self.run,
            **self.description,
            "values": self.values,
            "files": {name: facts.as_json() for name, facts in sorted(self.files.items())},
            "elsewhere": {name: facts.as_json() for name, facts in sorted(self.elsewhere.items())},
            "rows": {name: list(span) for name, span in sorted(self.spans.items())},
        }
        content["sha256"] = _sum(content)
        write_text(directory / MANIFEST, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_manifest(directory: Path) -> Manifest:
    """Reads and checks the manifest of a directory.

    Raises:
        ValueError: it is damaged, of another format, or names what is no plain file name.
        OSError: it cannot be read.
    """
    path = directory / MANIFEST
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise ValueError(f"{path} is larger than any manifest")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a manifest: {error}") from None
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is not a manifest of this project: {what}") from None


def _parse(content: Any) -> Manifest:
    _require(isinstance(content, dict), "it is no JSON object")
    version = content.get("format")
    _require(version == FORMAT_VERSION, f"its format is {version!r}, and {FORMAT_VERSION} is what can be read")
    claimed = content.pop("sha256", None)
    _require(claimed == _sum(content), "its content does not match its checksum")
    update, ranks, run = (content.pop(name) for name in ("update", "ranks", "run"))
    _require(_is_count(update, 0), "update must be a number of updates")
    _require(_is_count(ranks, 1), "ranks must be a number of ranks")
    _require(isinstance(run, str) and len(run) <= 200, "run must be a text")
    values = content.pop("values")
    _require(isinstance(values, dict), "values must be an object")
    for part, of_ranks in values.items():
        fits = isinstance(of_ranks, list) and len(of_ranks) == ranks and all(isinstance(v, dict) for v in of_ranks)
        _require(_PART_NAME.fullmatch(part) is not None and fits, f"values of {part[:80]!r}")
    files, elsewhere = _parse_files(content.pop("files")), _parse_files(content.pop("elsewhere"))
    _require(not files.keys() & elsewhere.keys(), "a file is named twice")
    spans = content.pop("rows")
    _require(isinstance(spans, dict) and spans.keys() <= files.keys() | elsewhere.keys(), "rows must be those of files")
    for name, span in spans.items():
        fits = isinstance(span, list) and len(span) == 2 and all(_is_count(number, 0) for number in span)
        _require(fits and span[0] <= span[1], f"the rows of {name}")
    del content["format"]
    return Manifest(
        update, ranks, run, values, content, files, elsewhere, {name: tuple(span) for name, span in spans.items()}
    )


def _parse_files(files: Any) -> dict[str, Facts]:
    _require(isinstance(files, dict), "files must be an object")
    parsed = {}
    for name, facts in files.items():
        _require(is_plain_name(name) and name != MANIFEST, f"{name[:200]!r} is no plain file name")
        _require(isinstance(facts, dict) and facts.keys() == {"bytes", "sha256"}, f"the facts of {name}")
        _require(_is_count(facts["bytes"], 0), f"the bytes of {name}")
        _require(
            isinstance(facts["sha256"], str) and _SHA256.fullmatch(facts["sha256"]) is not None, f"the sha256 of {name}"
        )
        parsed[name] = Facts(facts["bytes"], facts["sha256"])
    return parsed


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < 2**63


def _sum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)
