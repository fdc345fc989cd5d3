"""Random images with random labels: what training costs at any number of identities, without any data."""

from __future__ import annotations

from typing import Any

import numpy as np

from partial_fc.data.augment import random_bits
from partial_fc.data.batch import Batch, check_state

_POOL = 97  # odd, so that a row of the batch does not meet the same image each update
_LABEL, _PIXELS = 1001, 1002  # apart from the draws of augmentation


class RandomLoader:
    """Batches of noise, labels uniform over [0, num_identities): a `Loader` that costs next to nothing.

    The n-th image of the series, counted over all ranks, has the label `random_bits(seed, n) mod C` and is
    the n-th, mod 97, of a pool made once: a global batch is the same for every number of ranks. `images_BHWC`
    is a read-only view into the pool; `position` counts from the start, in epoch 0.

    Raises ValueError when a size is below 1.
    """

    def __init__(
        self,
        num_identities: int,
        *,
        batch_size: int,
        image_size: int | tuple[int, int],
        rank: int = 0,
        ranks: int = 1,
        seed: int = 0,
    ):
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        for name, size in (
            ("number of identities", num_identities),
            ("batch size", batch_size),
            ("image size", min(height, width)),
        ):
            if size < 1:
                raise ValueError(f"the {name} is at least 1, got {size}")
        self.num_identities = num_identities
        self.replaced = 0
        self._batch_size, self._rank, self._ranks, self._seed = batch_size, rank, ranks, seed
        self._handed_out = 0
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_PIXELS,))))
        pool = generator.integers(0, 256, (_POOL, height, width, 3), np.uint8)
        # Long enough that a batch that starts at any of the images is one piece of it.
        self._pool_BHWC = pool[np.arange(_POOL + batch_size) % _POOL]
        self._pool_BHWC.flags.writeable = False

    def next_batch(self) -> Batch:
        position = self._handed_out
        first = position + self._rank * self._batch_size
        numbers_B = np.arange(first, first + self._batch_size)
        labels_B = random_bits(self._seed, 0, numbers_B, _LABEL) % np.uint64(self.num_identities)
        self._handed_out = position + self._batch_size * self._ranks
        start = first % _POOL
        images_BHWC = self._pool_BHWC[start : start + self._batch_size]
        return Batch(images_BHWC, labels_B.astype(np.int64), 0, position, numbers_B)

    def state(self) -> dict[str, Any]:
        return {"identities": self.num_identities, "seed": self._seed, "position": self._handed_out}

    def restore(self, state: dict[str, Any]) -> None:
        check_state(state, identities=self.num_identities, seed=self._seed)
        self._handed_out = state["position"]

    def close(self) -> None:
        """There is nothing to end."""
