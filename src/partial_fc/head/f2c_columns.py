"""The columns of F²C's two logit matrices on one rank, in blocks.

Matrix 0 has prototype 0 of every slot; matrix 1 has prototype 1 of the slots H that were used again in the batch, and
prototype 0 of the others. Columns [0, Q_k) are prototypes 0, columns [Q_k, Q_k + H) the prototypes 1 of H. Matrix 0 is
the former; matrix 1 is the former without those of H, and the latter. So one product serves both.

Legend: Q_k slots of this rank, H of them used again, S columns of a block, I samples, E columns, D embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import mxnet as mx
import numpy as np

from partial_fc.head.class_pool import ClassPool
from partial_fc.head.kernels import MASKED_LOGIT

nd = mx.nd


@dataclass(frozen=True)
class Block:
    """S columns from ``first`` on.

    Attributes:
        number: counts the blocks.
        weight_SD: their prototypes.
        matrices: which of the two matrices the columns belong to.
        mask_1S: added to the logits of matrix 1, it takes H out; None where the block has none of them.
    """

    number: int
    first: int
    weight_SD: nd.NDArray
    matrices: tuple[int, ...]
    mask_1S: nd.NDArray | None = None

    @property
    def size(self) -> int:
        """S."""
        return self.weight_SD.shape[0]


class PoolColumns:
    """The columns of a batch.

    Args:
        again: int64, ascending: the slots used while their identity was present, on any rank.
        block_slots: the most columns of a block.
    """

    def __init__(self, pool: ClassPool, again: np.ndarray, block_slots: int) -> None:
        self._pool = pool
        self._context = pool.context
        self._again = again[pool.own(again)] - pool.first_slot
        self._second_HD = nd.take(pool.prototypes[1], self._index(self._again)) if len(self._again) else None
        self.blocks = self._make_blocks(block_slots)

    def targets(self, slot_I: np.ndarray) -> list[np.ndarray]:
        """For each matrix (I,) int64, the columns of the samples' slots, −1 where another rank has the slot."""
        column_I = np.where(self._pool.own(slot_I), slot_I - self._pool.first_slot, -1)
        place_I = self._pool.count + np.searchsorted(self._again, column_I)
        return [column_I, np.where(np.isin(column_I, self._again), place_I, column_I)]

    def prototypes(self, column_E: np.ndarray) -> nd.NDArray:
        """(E, D), the prototypes of some columns."""
        is_second_E = column_E >= self._pool.count
        first_ED = nd.take(self._pool.prototypes[0], self._index(np.where(is_second_E, 0, column_E)))
        if not is_second_E.any():
            return first_ED
        place_E = np.where(is_second_E, column_E - self._pool.count, 0)
        second_ED = nd.take(self._second_HD, self._index(place_E))
        return nd.where(nd.array(is_second_E, ctx=self._context), second_ED, first_ED)

    def _make_blocks(self, block_slots: int) -> list[Block]:
        count, again = self._pool.count, self._again
        blocks = []
        for first in range(0, count, block_slots):
            weight_SD = self._pool.prototypes[0][first : min(first + block_slots, count)]
            here = again[(again >= first) & (again < first + len(weight_SD))] - first
            mask_1S = None
            if len(here):
                mask = np.zeros((1, len(weight_SD)), dtype=np.float32)
                mask[0, here] = MASKED_LOGIT
                mask_1S = nd.array(mask, ctx=self._context)
            blocks.append(Block(len(blocks), first, weight_SD, (0, 1), mask_1S))
        for start in range(0, len(again), block_slots):
            weight_SD = self._second_HD[start : min(start + block_slots, len(again))]
            blocks.append(Block(len(blocks), count + start, weight_SD, (1,)))
        return blocks

    def _index(self, rows: np.ndarray) -> nd.NDArray:
        return nd.array(rows, ctx=self._context, dtype="int64")
