"""The order of an epoch: which images each rank's batches hold.

    permutation(seed, epoch) of the N images, cut into global batches of G = B·R:
    the update that starts at position p takes permutation[p : p + G], rank k the k-th B of these

Every rank computes the same permutation, so the parts of the ranks never overlap, and the global batch is the
same for every number of ranks with the same G. A global batch never spans two epochs: the last N mod G images
of the permutation are left out of the epoch, others in each.
"""

from __future__ import annotations

import numpy as np

_STREAM = 1  # sets these permutations apart from other random numbers made from the same seed


def permutation(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """The numbers 0 … num_images − 1 in the order of `epoch`; int32 where that holds them, else int64."""
    order_N = np.arange(num_images, dtype=np.int32 if num_images <= 1 << 31 else np.int64)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_STREAM, epoch))))
    generator.shuffle(order_N)
    return order_N


class EpochOrder:
    """What one rank reads, update by update. Memory: one integer an image, for one epoch at a time.

    Raises ValueError when a size is below 1 or an epoch has fewer images than one global batch.
    """

    def __init__(self, num_images: int, *, batch_size: int, rank: int = 0, ranks: int = 1, seed: int = 0):
        if batch_size < 1:
            raise ValueError(f"the batch size is at least 1 image a rank, got {batch_size}")
        if seed < 0:
            raise ValueError(f"the seed is a whole number from 0 up, got {seed}")
        assert 0 <= rank < ranks, (rank, ranks)
        self.num_images = num_images
        self.batch_size = batch_size
        self.rank = rank
        self.global_batch = batch_size * ranks
        self.seed = seed
        if num_images < self.global_batch:
            raise ValueError(
                f"an update takes {batch_size} images on each of {ranks} ranks, {self.global_batch} in all, "
                f"and the data has {num_images}: give a smaller batch size, fewer ranks or more images"
            )
        self._epoch = -1
        self._order_N = np.empty(0, np.int32)

    @property
    def updates_per_epoch(self) -> int:
        return self.num_images // self.global_batch

    def indices(self, epoch: int, position: int) -> np.ndarray:
        """The B images, int64, of this rank in the update that starts at `position` of `epoch`."""
        assert 0 <= position <= self.num_images - self.global_batch, (position, self.num_images)
        if epoch != self._epoch:
            self._order_N = np.empty(0, np.int32)  # never two epochs in memory
            self._order_N = permutation(self.num_images, self.seed, epoch)
            self._epoch = epoch
        start = position + self.rank * self.batch_size
        return self._order_N[start : start + self.batch_size].astype(np.int64)

    def update_at(self, epoch: int, position: int) -> tuple[int, int]:
        """(epoch, position) of the first update that starts at `position` or later.

        That is the next epoch's first where fewer than G images are left. `position` need not be a multiple
        of G: a run that goes on with another number of ranks starts where the other stopped.
        """
        if position + self.global_batch > self.num_images:
            return epoch + 1, 0
        return epoch, position
