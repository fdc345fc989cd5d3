"""What a run with F²C has to save beside a backbone: the gallery, the pool, two loaders.

Legend: Q slots, L of them in use, Q_k of this rank, D embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import mxnet as mx
import numpy as np

from partial_fc.checkpoint.run_parts import BackbonePart, LoaderPart, OptimizerPart, TrainerPart, assign
from partial_fc.checkpoint.state import PartState, RowTable, SavedPart
from partial_fc.f2c_trainer import F2CTrainer
from partial_fc.gallery import Gallery
from partial_fc.head.class_pool import ClassPool

GALLERY_FILE, LRU_FILE = "gallery-0000.params", "pool-lru.params"


@dataclass
class GalleryPart:
    """The gallery network: its parameters, and its own statistics on each rank."""

    gallery: Gallery

    def state(self) -> PartState:
        return PartState(files={GALLERY_FILE: self.gallery.parameters}, own=self.gallery.statistics)

    def restore(self, saved: SavedPart) -> None:
        assign(saved.arrays(GALLERY_FILE), self.gallery.parameters, "the gallery's parameters")
        statistics = saved.own() if saved.same_ranks else saved.own(0)
        assign(statistics, self.gallery.statistics, "the gallery's statistics")


@dataclass
class PoolPart:
    """The class pool: which identity has which slot, in the order of use, the pointers, and the slots' prototypes.

    A slot that no identity has had is a function of the seed and its number, and costs nothing to save.
    """

    pool: ClassPool

    def state(self) -> PartState:
        pool, lru = self.pool, self.pool.lru.state()
        arrays = {"identities": lru["identities"], "slots": lru["slots"], "pointers": pool.pointer_Q}
        files = {name: mx.nd.array(values, dtype=values.dtype) for name, values in arrays.items() if len(values)}
        used_Q = np.zeros(pool.slots, dtype=bool)
        used_Q[lru["slots"]] = True
        own = slice(pool.first_slot, pool.first_slot + pool.count)
        prototypes = {"prototype0": pool.prototypes[0], "prototype1": pool.prototypes[1]}
        rows = RowTable(pool.first_slot, prototypes, used_Q[own], partial(setattr, pool, "before_change"))
        values = {"slots": pool.slots, "embedding_size": pool.embedding_size}
        return PartState(values, files={LRU_FILE: files}, rows=[rows])

    def restore(self, saved: SavedPart) -> None:
        pool = self.pool
        for name, ours in {"slots": pool.slots, "embedding_size": pool.embedding_size}.items():
            if saved.values[name] != ours:
                raise ValueError(
                    f"the checkpoint's pool has {name} = {saved.values[name]} and this run's has {name} = {ours}: "
                    f"resume with --{name.replace('slots', 'queue-size').replace('_', '-')} {saved.values[name]}"
                )
        arrays = saved.arrays(LRU_FILE)
        nothing = np.empty(0, dtype=np.int64)
        identities, slots = (np.array(arrays.get(name, nothing)) for name in ("identities", "slots"))
        pool.lru.restore({"capacity": pool.slots, "identities": identities, "slots": slots})
        pool.pointer_Q[:] = arrays["pointers"]
        for numbers_B, rows in saved.rows(pool.first_slot, pool.first_slot + pool.count):
            pool.put_rows(numbers_B - pool.first_slot, [rows["prototype0"], rows["prototype1"]])


def f2c_parts(trainer: F2CTrainer, *, deployed_network: mx.sym.Symbol, rank: int) -> dict[str, Any]:
    """The parts of a run with F²C, by name."""
    return {
        "trainer": TrainerPart(trainer),
        "backbone": BackbonePart(trainer.backbone, deployed_network),
        "optimizer": OptimizerPart(trainer.optimizer),
        "gallery": GalleryPart(trainer.gallery),
        "pool": PoolPart(trainer.head.pool),
        "loader": LoaderPart(trainer.loader.instances, rank),
        "loader-pairs": LoaderPart(trainer.loader.pairs, rank),
    }
