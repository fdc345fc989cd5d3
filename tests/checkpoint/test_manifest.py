"""Manifests from whoever writes them: nothing outside the directory is named, nothing is read past what is said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partial_fc.checkpoint.files import facts_of
from partial_fc.checkpoint.manifest import MANIFEST, Manifest, read_manifest
from partial_fc.checkpoint.reader import SavedCheckpoint


def make(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "a.params").write_bytes(b"some numbers")
    Manifest(
        update=3,
        ranks=2,
        run="run",
        values={"trainer": [{"update": 3}, {"update": 3}]},
        description={"config": {"lr": 0.1}},
        files={"a.params": facts_of(directory / "a.params")},
        spans={"a.params": (0, 7)},
    ).write(directory)
    return directory


def rewrite(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a manifest and gives it the checksum of its new content."""
    content = json.loads((directory / MANIFEST).read_text())
    change(content)
    content.pop("sha256", None)
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (directory / MANIFEST).write_text(json.dumps(content))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = read_manifest(make(tmp_path / "update"))
    assert (manifest.update, manifest.ranks, manifest.run) == (3, 2, "run")
    assert manifest.values == {"trainer": [{"update": 3}, {"update": 3}]}
    assert manifest.description == {"config": {"lr": 0.1}}
    assert manifest.spans == {"a.params": (0, 7)}
    SavedCheckpoint(tmp_path / "update").verify()


@pytest.mark.parametrize(
    "name", ["../a.params", "/etc/passwd", "sub/a", ".", "..", ".hidden", "", "a\0b", "a\nb", MANIFEST, "x" * 300]
)
@pytest.mark.parametrize("where", ["files", "elsewhere"])
def test_a_name_that_could_mean_another_place_is_refused(tmp_path: Path, name: str, where: str) -> None:
    directory = make(tmp_path / "update")
    facts = {"bytes": 12, "sha256": "0" * 64}
    rewrite(directory, lambda content: content[where].update({name: facts}))
    with pytest.raises(ValueError, match="no plain file name"):
        read_manifest(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=1), "its format is 1"),
        (lambda c: c.update(update=-1), "update must be"),
        (lambda c: c.update(update=True), "update must be"),
        (lambda c: c.update(ranks=0), "ranks must be"),
        (lambda c: c.update(ranks=3), "values of 'trainer'"),
        (lambda c: c.update(values=[]), "values must be"),
        (lambda c: c["files"]["a.params"].update(bytes=-1), "the bytes of a.params"),
        (lambda c: c["files"]["a.params"].update(bytes=1.5), "the bytes of a.params"),
        (lambda c: c["files"]["a.params"].update(sha256="f"), "the sha256 of a.params"),
        (lambda c: c["files"].update({"a.params": []}), "the facts of a.params"),
        (lambda c: c.update(elsewhere=c["files"]), "named twice"),
        (lambda c: c["rows"].update({"a.params": [5, 3]}), "the rows of a.params"),
        (lambda c: c["rows"].update({"b.params": [0, 1]}), "rows must be those of files"),
        (lambda c: c.pop("run"), "it has no 'run'"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    directory = make(tmp_path / "update")
    rewrite(directory, change)
    with pytest.raises(ValueError, match=rf"manifest\.json is not a manifest.*{message}"):
        read_manifest(directory)


def test_a_bit_that_flipped_is_seen(tmp_path: Path) -> None:
    path = make(tmp_path / "update") / MANIFEST
    path.write_text(path.read_text().replace('"lr": 0.1', '"lr": 0.3'))
    with pytest.raises(ValueError, match="does not match its checksum"):
        read_manifest(path.parent)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '"text"', "[" * 100_000, '{"format": NaN}', "\x00" * 9])
def test_no_manifest_at_all(tmp_path: Path, content: str) -> None:
    directory = make(tmp_path / "update")
    (directory / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is not a manifest"):
        read_manifest(directory)


def test_sizes_are_checked_before_contents(tmp_path: Path) -> None:
    directory = make(tmp_path / "update")
    with (directory / "a.params").open("ab") as file:
        file.truncate(1 << 40)  # of holes: reading it would take hours
    with pytest.raises(ValueError, match=r"a\.params has 1099511627776 bytes, but the manifest says 12"):
        SavedCheckpoint(directory).verify()


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_changed_manifest_is_an_error_or_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = make(tmp_path_factory.getbasetemp() / "mutated")
    content = bytearray((directory / MANIFEST).read_bytes())
    expected = read_manifest(directory)
    for _ in range(data.draw(st.integers(1, 5))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position : position + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=20))
        content = content or bytearray(b" ")
    (directory / MANIFEST).write_bytes(bytes(content))
    try:
        found = read_manifest(directory)
    except ValueError as error:
        assert MANIFEST in str(error)
    else:
        assert found == expected, "white space alone can change and leave the checksum as it is"
