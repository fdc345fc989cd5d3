"""What momentum and weight decay do to a row that no update samples, over any number of updates at once.

An update with learning rate η, weight decay λ and momentum μ moves a row W with momentum M, whose gradient is 0, by

    M ← μM − ηλW,  W ← W + M       that is   (W, M) ← A·(W, M),   A = [[1 − ηλ, μ], [−ηλ, μ]]

so that the updates j, …, t − 1 together are the 2×2 product A_{t−1}·…·A_j, for every element of the row alike. Of k
updates it takes the momentum to μ^k·M where λ = 0, and the row to (1 − ηλ)^k·W where μ = 0; with both, and with a
learning rate that changes, it has no simpler form.

Legend: T updates made, K or B rows, D embedding size.
"""

from __future__ import annotations

import numpy as np


class DecayHistory:
    """The updates made, and products of their matrices.

    Level l holds the products of the aligned blocks of 2^l updates, as a segment tree does: an update adds two matrices
    on average, and the product from any update to the last one has at most 2·log2 T factors. 48 bytes an update, and an
    eighth more as room to grow. Every product is that of the same factors in the same order, however the updates were
    added: a history that was saved gives the same bits.

    Args:
        steps_T2: (T, 2) float64, ηλ and μ of each update, as :attr:`steps_T2` of another one.
    """

    def __init__(self, steps_T2: np.ndarray | None = None) -> None:
        self._steps = _Rows((2,))
        self._levels: list[_Rows] = []  # from level 1 on: level 0 follows from the steps
        if steps_T2 is not None:
            self._extend(steps_T2)

    def __len__(self) -> int:
        return self._steps.count

    @property
    def steps_T2(self) -> np.ndarray:
        """(T, 2) float64, a copy: ηλ and μ of each update."""
        return self._steps.rows.copy()

    def append(self, decay: float, momentum: float) -> None:
        """One more update was made, with ηλ = ``decay`` and μ = ``momentum``."""
        self._extend(np.array([[decay, momentum]]))

    def products(self, first_K: np.ndarray) -> np.ndarray:
        """The products over the updates from ``first_K`` on, counted from 0, to the last one.

        Args:
            first_K: (K,) int64 in [0, T].

        Returns:
            (K, 2, 2) float64; the unit matrix for T.
        """
        position_K = first_K.astype(np.int64)
        product_K22 = np.tile(np.eye(2), (len(first_K), 1, 1))
        levels = range(len(self._levels) + 1)
        # Up by the blocks that a position is the start of no larger one, then down by those that still fit.
        for level in levels:
            self._advance(level, position_K, product_K22, position_K >> level & 1 == 1)
        for level in reversed(levels):
            self._advance(level, position_K, product_K22, True)
        return product_K22

    def factors(self, last_B: np.ndarray) -> np.ndarray:
        """What brings rows up to date: see :func:`settled`.

        Args:
            last_B: (B,) how many updates each row has had, in [0, T].

        Returns:
            (B, 4) float32; (0, 0, 0, 1) for a row that has missed none.
        """
        # Rows are many, the updates at which they were touched last are few.
        is_first = np.zeros(len(self) + 1, bool)
        is_first[last_B] = True
        first_K = np.flatnonzero(is_first)
        place = np.empty(len(self) + 1, np.int32)
        place[first_K] = np.arange(len(first_K), dtype=np.int32)
        factors_K4 = self.products(first_K).reshape(-1, 4)
        # W changes by little: a factor of W itself, close to 1, would lose in float32 what one close to 0 keeps.
        factors_K4[:, 0] -= 1.0
        return factors_K4.astype(np.float32)[place[last_B]]

    def _advance(
        self, level: int, position_K: np.ndarray, product_K22: np.ndarray, wanted_K: np.ndarray | bool
    ) -> None:
        """Takes the block of a level that begins at each position, where it is wanted and ends by the last update."""
        taken = np.flatnonzero(wanted_K & (position_K + (1 << level) <= len(self)))
        if len(taken):
            blocks = self._blocks(level, position_K[taken] >> level)
            product_K22[taken] = _product(blocks, product_K22[taken])
            position_K[taken] += 1 << level

    def _blocks(self, level: int, numbers: np.ndarray | slice) -> np.ndarray:
        return self._levels[level - 1].rows[numbers] if level else _matrices(self._steps.rows[numbers])

    def _extend(self, steps_K2: np.ndarray) -> None:
        self._steps.extend(steps_K2)
        for level in range(1, len(self).bit_length()):
            if level > len(self._levels):
                self._levels.append(_Rows((2, 2)))
            have, whole = self._levels[level - 1].count, len(self) >> level
            if have == whole:
                break
            halves = self._blocks(level - 1, slice(2 * have, 2 * whole))
            self._levels[level - 1].extend(_product(halves[1::2], halves[0::2]))


def settled(
    weight_BD: np.ndarray, momentum_BD: np.ndarray, factors_B4: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows brought up to date: W + (f0·W + f1·M) and f2·W + f3·M, float32, with the factors of the updates missed."""
    factors = factors_B4.T[:, :, None]
    change_BD = factors[0] * weight_BD + factors[1] * momentum_BD
    return weight_BD + change_BD, factors[2] * weight_BD + factors[3] * momentum_BD


def _matrices(steps_K2: np.ndarray) -> np.ndarray:
    """(K, 2, 2), A of each update."""
    decay_K, momentum_K = steps_K2.T
    return np.stack([1.0 - decay_K, momentum_K, -decay_K, momentum_K], axis=1).reshape(-1, 2, 2)


def _product(later_K22: np.ndarray, earlier_K22: np.ndarray) -> np.ndarray:
    """later·earlier, element by element: the same bits for one pair as for many, which a BLAS does not promise."""
    columns = later_K22[:, :, :, None] * earlier_K22[:, None, :, :]
    return columns[:, :, 0] + columns[:, :, 1]


class _Rows:
    """A float64 array that grows at its end."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._memory = np.empty((0, *shape))
        self.count = 0

    @property
    def rows(self) -> np.ndarray:
        return self._memory[: self.count]

    def extend(self, rows: np.ndarray) -> None:
        count = self.count + len(rows)
        if count > len(self._memory):
            memory = np.empty((count + count // 8 + 8, *self._memory.shape[1:]))
            memory[: self.count] = self.rows
            self._memory = memory
        self._memory[self.count : count] = rows
        self.count = count
