"""What an evaluation target is: how the command line names it, what it returns, how a module offers it.

    --targets lfw=lfw.bin calfw=pairs_CALFW.txt,images=calfw/aligned  mine:ijbc=IJBC,detector_score=no

A target is `[NAME:]KIND=PATH[,OPTION=VALUE …]`. NAME heads its column in the report and is KIND where it is not given.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from partial_fc.evaluation.embedder import Embedder

TARGET_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
CURVE_POINTS_AT_MOST = 20_000


@dataclass(frozen=True)
class Settings:
    """What the command line sets for all targets.

    Attributes:
        flip: whether an embedding is the sum over an image and its mirror.
        folds: K of cross-validation, where a list has no folds of its own.
        keeps_folds: whether the folds that a list has are kept.
        exact_thresholds: thresholds are searched among all distances, not on InsightFace's grid.
        target_fars: of TAR at FAR, in (0, 1), descending.
        block_bytes: what a block of scores may take in memory.
    """

    flip: bool = True
    folds: int = 10
    keeps_folds: bool = True
    exact_thresholds: bool = False
    target_fars: tuple[float, ...] = TARGET_FARS
    block_bytes: int = 256 << 20


@dataclass(frozen=True)
class Metric:
    """A named number: `accuracy`, `TAR@FAR=1e-04`, `Rank-1`, `XNorm`.

    Attributes:
        value: finite; a rate in [0, 1] where `is_rate`, and then printed in percent.
        deviation: its standard deviation over folds, where it has one.
        is_resolved: False where the set is too small for it (printed with a star): no false accept at all.
        details: more of it for JSON: the threshold, the FAR that was met.
    """

    name: str
    value: float
    is_rate: bool = True
    deviation: float | None = None
    is_resolved: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """A line of a plot: `kind` "roc" has FAR on x, log axis; "cmc" rank on x; "dir" FPIR on x, log axis.

    `x_K` ascending and `y_K`, both (K,), K ≤ `CURVE_POINTS_AT_MOST`. Curves of a kind share a picture.
    """

    kind: str
    x_K: np.ndarray
    y_K: np.ndarray


@dataclass(frozen=True)
class ScoreHistogram:
    """How many positive and negative pairs have a score in each bin: `edges` (K + 1,), counts (K,) int64."""

    edges: np.ndarray
    positives_K: np.ndarray
    negatives_K: np.ndarray


@dataclass(frozen=True)
class TargetResult:
    """What a target says of a model; a report prints any of them.

    Attributes:
        target: NAME.
        kind: KIND.
        protocol: a sentence: what was computed and by which choices.
        counts: what was counted: images, pairs, positives, negatives, templates, identities, probes.
        metrics: in the order to print them; names are the target's own and distinct.
        curves, histogram: for the plots.
        pictures: uint8 RGB (H, W, 3) by name: the worst pairs.
        details: JSON values that have no column: accuracies of folds.
    """

    target: str
    kind: str
    protocol: str
    counts: Mapping[str, int]
    metrics: tuple[Metric, ...]
    curves: tuple[Curve, ...] = ()
    histogram: ScoreHistogram | None = None
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


class Target(ABC):
    """A benchmark whose lists are read and checked: files are missed before a model embeds the first image."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def evaluate(self, embedder: Embedder, settings: Settings) -> TargetResult:
        """The result, on every rank; every rank calls it, and it makes the same collectives on each.

        Raises:
            RankError: on every rank, where there is no number: NaN, a zero embedding, pairs of one kind alone.
                (`embedder.embed` raises it; code of one's own runs under `together`.)
        """


@dataclass(frozen=True)
class TargetSpec:
    """A target as the command line names it."""

    name: str
    kind: str
    path: Path
    options: Mapping[str, str] = field(default_factory=dict)

    def path_option(self, option: str) -> Path | None:
        """An option that is a path; None where it is not given."""
        return Path(self.options[option]) if option in self.options else None

    def flag(self, option: str, default: bool) -> bool:
        """An option that is `yes` or `no`. Raises ValueError for anything else."""
        text = self.options.get(option)
        if text not in (None, "yes", "no"):
            raise ValueError(f"{self.name}: {option} must be yes or no, not {text!r}")
        return default if text is None else text == "yes"

    def choice(self, option: str, choices: tuple[str, ...]) -> str:
        """An option that is one of `choices`, the first where it is not given. Raises ValueError for another."""
        text = self.options.get(option, choices[0])
        if text not in choices:
            raise ValueError(f"{self.name}: {option} must be one of {', '.join(choices)}, not {text!r}")
        return text


@dataclass(frozen=True)
class TargetKind:
    """A KIND as a module offers it in its `KINDS: dict[str, TargetKind]`.

    Attributes:
        open: reads and checks the lists; runs on every rank, without collectives. Raises ValueError or OSError.
        help: a line: what the path is.
        options: what each option means, by name.
    """

    open: Callable[[TargetSpec], Target]
    help: str
    options: Mapping[str, str] = field(default_factory=dict)


def parse_target(text: str, kinds: Mapping[str, TargetKind]) -> TargetSpec:
    """The target that `[NAME:]KIND=PATH[,OPTION=VALUE …]` names. A comma that no `OPTION=` follows is the path's.

    Raises:
        ValueError: it has not that form, or the kind or an option is unknown (the known ones are listed).
    """
    match = re.fullmatch(r"(?:([^:=,/\\]+):)?([^:=,/\\]+)=(.+)", text, re.DOTALL)
    if match is None:
        raise ValueError(f"a target is given as KIND=PATH or NAME:KIND=PATH,OPTION=VALUE, not as {text!r}")
    name, kind, rest = match.groups()
    if kind not in kinds:
        raise ValueError(f"there is no kind of target {kind!r}: known are {', '.join(sorted(kinds))}")
    path, *pairs = re.split(r",(?=[a-z0-9_]+=)", rest)
    options: dict[str, str] = {}
    for pair in pairs:
        option, _, value = pair.partition("=")
        known = kinds[kind].options
        if option not in known:
            raise ValueError(f"{kind} has no option {option!r}: known are {', '.join(known) or 'none'}")
        if option in options or not value:
            raise ValueError(f"{text!r} must give the option {option} once, and a value")
        options[option] = value
    return TargetSpec(name or kind, kind, Path(path), options)
