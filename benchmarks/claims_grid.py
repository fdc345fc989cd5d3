"""What ``claims.py`` runs: data sets, recipes, and the arms whose results are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

RATIOS = (1.0, 0.5, 0.1, 0.02)
FILTER_COSINE = 0.4
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Recipe:
    """How every arm on a data set is trained: nothing in it differs from arm to arm.

    Attributes:
        image_size: pixels of a side.
        units, channels: of the IResNet; the channels are those of the stem, then of the stages.
        updates: of one image batch each.
        learning_rate: of backbone and centers; it falls to 0 by a polynomial of that power.
        scale: s. cosface, arcface: the margins of each loss, (m1, m2, m3).
        points: how often a run is measured, evenly spread, the end included.
        own_images, nearest_centers: the sizes of the fixed subsets that cosines are measured on.
    """

    image_size: int = 32
    units: tuple[int, ...] = (1, 1, 1)
    channels: tuple[int, ...] = (16, 16, 32, 64)
    embedding_size: int = 64
    batch_size: int = 128
    updates: int = 600
    learning_rate: float = 0.1
    power: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    scale: float = 16.0
    cosface: tuple[float, float, float] = (1.0, 0.0, 0.1)
    arcface: tuple[float, float, float] = (1.0, 0.1, 0.0)
    points: int = 5
    own_images: int = 2000
    nearest_centers: int = 2000

    def margin(self, loss: str) -> tuple[float, float, float]:
        """(m1, m2, m3) of a loss."""
        return {"cosface": self.cosface, "arcface": self.arcface}[loss]


@dataclass(frozen=True)
class DataSet:
    """Images to train on, and how.

    Attributes:
        name: of the data set.
        wrong_labels: share of the images that carry the label of another identity, drawn at random.
        split_identities: share of the identities whose images lie under two labels, half under each.
        faces: the numbers of the synthetic faces (fields of ``FaceSetPlan``); None: LFW.
    """

    name: str
    recipe: Recipe
    faces: dict[str, int] | None = None
    wrong_labels: float = 0.0
    split_identities: float = 0.0


@dataclass(frozen=True)
class Arm:
    """What is compared: everything that two runs of one seed on one data set may differ in."""

    data: str
    loss: str = "cosface"
    sampler: str = "pprn"
    sample_ratio: float = 1.0
    filter_cosine: float | None = None

    @property
    def name(self) -> str:
        """As ``--only`` finds it, and as its files are called."""
        filtered = "" if self.filter_cosine is None else f"-filter{self.filter_cosine:g}"
        return f"{self.data}-{self.loss}-{self.sampler}-r{self.sample_ratio:g}{filtered}"


@dataclass(frozen=True)
class Case:
    """One run."""

    arm: Arm
    data: DataSet
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm.name}-seed{self.seed}"

    def description(self) -> dict[str, Any]:
        """All that decides the result, as JSON has it: a finished run counts as long as its description holds."""
        plain = {"arm": asdict(self.arm), "data": asdict(self.data), "seed": self.seed}
        return _as_json(plain)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(part) for key, part in value.items()}
    return [_as_json(part) for part in value] if isinstance(value, tuple | list) else value


def grid(data_sets: dict[str, DataSet], seeds: Sequence[int]) -> list[Case]:
    """Every run, seed by seed: what is there after a third of the time has one seed of everything."""
    arms = [Arm("synthetic", sample_ratio=r) for r in RATIOS]
    arms += [Arm("synthetic", sampler="uniform", sample_ratio=r) for r in RATIOS[1:]]
    arms += [Arm("synthetic", loss="arcface", sample_ratio=r) for r in (1.0, 0.1)]
    arms += [Arm("noisy", sample_ratio=r, filter_cosine=f) for r in (1.0, 0.1) for f in (None, FILTER_COSINE)]
    arms += [Arm("longer", sample_ratio=r) for r in (1.0, 0.1)]
    arms += [Arm("noisy-longer", sample_ratio=r, filter_cosine=f) for r in (1.0, 0.1) for f in (None, FILTER_COSINE)]
    arms += [Arm(data, sample_ratio=r) for data in ("usual", "usual-longer") for r in (1.0, 0.1)]
    arms += [Arm("lfw", sample_ratio=r) for r in RATIOS]
    arms += [Arm("lfw", sampler="uniform", sample_ratio=0.1)]
    return [Case(arm, data_sets[arm.data], seed) for seed in seeds for arm in arms if arm.data in data_sets]


def faces_directory(work: Path, data: DataSet) -> Path:
    """Where the synthetic faces of a data set lie: sets of the same faces share them."""
    return work / f"faces-{data.faces['identities']}"


_FACES = {"identities": 10_000, "images_per_identity": 10, "image_size": 56}
_NOISE = {"wrong_labels": 0.2, "split_identities": 0.2}
_RECIPE = Recipe()


def shipped_data_sets() -> dict[str, DataSet]:
    """The sizes that the report is made of: about an hour on two cores."""
    longer = replace(_RECIPE, updates=1800)
    usual = {"scale": 64.0, "cosface": (1.0, 0.0, 0.4)}
    return {
        "synthetic": DataSet("synthetic", _RECIPE, _FACES),
        "noisy": DataSet("noisy", _RECIPE, _FACES, **_NOISE),
        "longer": DataSet("longer", longer, _FACES),
        "noisy-longer": DataSet("noisy-longer", longer, _FACES, **_NOISE),
        "usual": DataSet("usual", replace(_RECIPE, **usual), _FACES),
        "usual-longer": DataSet("usual-longer", replace(longer, **usual), _FACES),
        "lfw": DataSet("lfw", replace(_RECIPE, updates=300)),
    }


def quick_data_sets() -> dict[str, DataSet]:
    """The same in miniature, which shows that all of it runs and nothing else."""
    recipe = replace(_RECIPE, channels=(4, 4, 8, 8), units=(1, 1, 1), embedding_size=16, updates=4, points=2,
                     batch_size=16, own_images=40, nearest_centers=30)  # fmt: skip
    faces = {"identities": 60, "images_per_identity": 4, "image_size": 32, "held_out_identities": 20, "pairs": 40}
    return {
        "synthetic": DataSet("synthetic", recipe, faces),
        "noisy": DataSet("noisy", recipe, faces, **_NOISE),
        "longer": DataSet("longer", replace(recipe, updates=8), faces),
        "noisy-longer": DataSet("noisy-longer", replace(recipe, updates=8), faces, **_NOISE),
        "usual": DataSet("usual", replace(recipe, scale=64.0), faces),
        "usual-longer": DataSet("usual-longer", replace(recipe, scale=64.0, updates=8), faces),
        "lfw": DataSet("lfw", recipe),
    }
