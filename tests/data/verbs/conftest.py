"""Small sets of real JPEG, and the command as a user calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from partial_fc.data.__main__ import main
from partial_fc.data.open_source import open_source

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("pack", src, dst)` → (exit status, what it printed, its errors)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return status, output.out, output.err

    return call


def jpeg(number: int, size: tuple[int, int] = (24, 24), suffix: str = ".jpg") -> bytes:
    """A different picture for each number."""
    pixels_HWC = np.random.default_rng(number).integers(0, 256, (3, 3, 3), np.uint8)
    return cv2.imencode(suffix, cv2.resize(pixels_HWC, size[::-1]))[1].tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five identities, b'a' … b'e', of 1 to 5 images; one image is a PNG."""
    for label, name in enumerate("abcde"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i in range(label + 1):
            suffix = ".png" if (label, i) == (1, 0) else ".jpg"
            (tmp_path / "faces" / name / f"{i}{suffix}").write_bytes(jpeg(10 * label + i, suffix=suffix))
    return tmp_path / "faces"


def contents(*paths: Path) -> list[tuple[bytes, int]]:
    source = open_source(paths)
    try:
        return [source.read(i) for i in range(len(source))]
    finally:
        source.close()


def files_below(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
