"""The parts of a training run, as a checkpoint takes and gives their state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import mxnet as mx
import numpy as np

from partial_fc.backbone import Backbone
from partial_fc.checkpoint.settled_rows import LAST_UPDATE, check_last_updates, history_state, read_history
from partial_fc.checkpoint.state import PartState, RowTable, SavedPart
from partial_fc.data.batch import Loader
from partial_fc.head.centers import ClassCenters
from partial_fc.head.decay_history import DecayHistory
from partial_fc.head.margin_softmax import MarginSoftmax
from partial_fc.head.row_store import RowStore
from partial_fc.mixed_precision import LossScale
from partial_fc.optimizer import SGD

NETWORK_FILE, PARAMETERS_FILE, MOMENTUM_FILE = "model-symbol.json", "model-0000.params", "backbone-momentum.params"

Named = dict[str, mx.nd.NDArray]


class Stepping(Protocol):
    """What counts updates."""

    update: int
    loss_scale: LossScale


@dataclass
class TrainerPart:
    """The number of updates made, which decides the learning rate and all random numbers, and the loss scale."""

    trainer: Stepping

    def state(self) -> PartState:
        scale = self.trainer.loss_scale
        return PartState(
            {"update": self.trainer.update, "loss_scale": scale.value, "clean_updates": scale.clean_updates}
        )

    def restore(self, saved: SavedPart) -> None:
        values = saved.values
        self.trainer.update = int(values["update"])
        scale = self.trainer.loss_scale
        if scale.growth_interval_updates:  # else this run has none
            scale.value, scale.clean_updates = float(values["loss_scale"]), int(values["clean_updates"])


@dataclass
class BackbonePart:
    """The network: its parameters, and BatchNorm's moving statistics, which each rank has its own of.

    The model for use, ``model-0000.params``, has their mean over ranks, as a copy: a save changes nothing in the run.
    """

    backbone: Backbone
    deployed_network: mx.sym.Symbol

    def state(self) -> PartState:
        own = {name: array.copy() for name, array in self.backbone.statistics.items()}
        with self.backbone.averaged_statistics():
            arrays = {f"aux:{name}": array.copy() for name, array in self.backbone.statistics.items()}
        arrays |= {f"arg:{name}": array for name, array in self.backbone.parameters.items()}
        text = self.deployed_network.tojson() + "\n"
        return PartState(files={PARAMETERS_FILE: arrays, NETWORK_FILE: text}, own=own)

    def restore(self, saved: SavedPart) -> None:
        arrays = saved.arrays(PARAMETERS_FILE)
        statistics = {f"aux:{name}": array for name, array in self.backbone.statistics.items()}
        parameters = {f"arg:{name}": array for name, array in self.backbone.parameters.items()}
        assign(arrays, parameters | statistics, "the backbone's parameters")
        if saved.same_ranks:
            assign(saved.own(), self.backbone.statistics, "BatchNorm's statistics")


@dataclass
class OptimizerPart:
    """The momentum of the backbone's parameters."""

    optimizer: SGD

    def state(self) -> PartState:
        return PartState(files={MOMENTUM_FILE: self.optimizer.momenta})

    def restore(self, saved: SavedPart) -> None:
        assign(saved.arrays(MOMENTUM_FILE), self.optimizer.momenta, "the backbone's momentum")


@dataclass
class LoaderPart:
    """The position in the data. Another number of ranks goes on behind the last image of all."""

    loader: Loader
    rank: int = 0

    def state(self) -> PartState:
        return PartState(self.loader.state())

    def restore(self, saved: SavedPart) -> None:
        values = dict(saved.values)
        if not saved.same_ranks and "replaced" in values:  # a count that the ranks' add up to
            values["replaced"] = sum(of_rank["replaced"] for of_rank in saved.all_values) if self.rank == 0 else 0
        self.loader.restore(values)


@dataclass
class CentersPart:
    """The class centers, their momentum and what is kept with them, by identity: the rows that training has touched.

    A row that no update has sampled is a function of the seed and the identity, and costs nothing to save. What the
    margin softmax keeps from batch to batch goes with them; a run with another one begins its own.

    Where unsampled rows move on, what each has missed is saved with it; a run in which they stay gets them up to date.
    In the other direction, the rows of a run in which they stayed have missed nothing.
    """

    centers: ClassCenters
    num_classes: int
    margin: MarginSoftmax | None = None

    def state(self) -> PartState:
        values: dict[str, Any] = {"classes": self.num_classes, "embedding_size": self.centers.embedding_size}
        if self.margin is not None and self.margin.statistics:
            values["margin"] = dict(self.margin.statistics)
        lazy = self.centers.lazy
        counted, files = history_state(None if lazy is None else lazy.history)
        return PartState(values | counted, files, rows=[table_of(store) for store in self.centers.stores])

    def restore(self, saved: SavedPart) -> None:
        centers, values = self.centers, saved.values
        ours = {"classes": self.num_classes, "embedding_size": centers.embedding_size}
        for name, value in ours.items():
            if values[name] != value:
                raise ValueError(
                    f"the checkpoint has {name} = {values[name]} and this run has {name} = {value}: resume with the "
                    "same data and --embedding-size, or begin a run of its own with --pretrained and --centers"
                )
        if self.margin is not None and values.get("margin", {}).keys() == self.margin.statistics.keys():
            self.margin.keep(values.get("margin", {}))
        history, lazy = read_history(saved), centers.lazy is not None
        if lazy or history is not None:
            centers.follow(history if history is not None else DecayHistory())
        for numbers_B, arrays in saved.rows(centers.first_class, centers.first_class + centers.count):
            check_last_updates(arrays, history)
            centers.put_rows(numbers_B - centers.first_class, arrays)
        if not lazy:
            centers.stop_following()


def table_of(store: RowStore) -> RowTable:
    """A store of class centers as rows by identity."""
    arrays = {"weight": store.weight_RD, "momentum": store.momentum_RD, "inverse_norm": store.inverse_norm_R}
    if store.scale_R1 is not None:
        arrays["scale"] = store.scale_R1
    exists_R = store.touched_R if store.untouched else None
    small = {} if store.last_R is None else {LAST_UPDATE: store.last_R}
    return RowTable(store.first_class, arrays, exists_R, partial(setattr, store, "before_change"), small)


def assign(saved: dict[str, np.ndarray], ours: Named, what: str) -> None:
    """Copies saved arrays into ours of the same names.

    Raises:
        ValueError: names or shapes differ; nothing was copied then.
    """
    if saved.keys() != ours.keys():
        missing, extra = sorted(ours.keys() - saved.keys()), sorted(saved.keys() - ours.keys())
        raise ValueError(
            f"{what} are those of another network: the file {_lists('lacks', missing)}{_lists('has', extra)}"
            "go on with the same --network and --freeze"
        )
    for name, array in ours.items():
        if saved[name].shape != array.shape:
            raise ValueError(
                f"{what} are those of another network: {name} has the shape {saved[name].shape} in the file and "
                f"{array.shape} here"
            )
    for name, array in ours.items():
        array[:] = mx.nd.array(saved[name], ctx=array.context, dtype=array.dtype)


def _lists(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{verb} {', '.join(names[:3])}{more}; "


def run_parts(trainer: Any, *, deployed_network: mx.sym.Symbol, num_classes: int, rank: int) -> dict[str, Any]:
    """The parts of a Partial FC run, by name: of an object with a trainer's attributes."""
    return {
        "trainer": TrainerPart(trainer),
        "backbone": BackbonePart(trainer.backbone, deployed_network),
        "optimizer": OptimizerPart(trainer.optimizer),
        "centers": CentersPart(trainer.head.centers, num_classes, trainer.head.margin),
        "loader": LoaderPart(trainer.loader, rank),
    }
