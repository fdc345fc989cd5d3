"""The images of F²C's steps: pairs of images of B identities, and B images of the whole set.

    x = [first of each pair, instances 0 … B/2 − 1]      y = [second of each pair, instances B/2 … B − 1]

The *identity loader* goes through the identities, shuffled anew each epoch, and draws two images of each: distinct
ones where there are two, the same one twice where there is but one. The *instance loader* goes through all images.
Their epochs pass at their own pace; both resume exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from partial_fc.data.augment import random_bits
from partial_fc.data.batch import Batch, Loader
from partial_fc.data.identities import IdentityIndex
from partial_fc.data.loader import TrainingLoader
from partial_fc.data.order import EpochOrder
from partial_fc.data.random_images import RandomLoader
from partial_fc.data.source import ImageSource

_FIRST, _SECOND = 2001, 2002  # apart from the draws of augmentation
_PAIRS_STREAM = 3  # sets the identities' order apart from the images' of the same seed


class PairOrder(EpochOrder):
    """The order of an epoch of identities; :meth:`indices` gives the numbers of two images of each.

    Args:
        identities: the images of each identity; those that have none are left out.

    Other arguments, and what is raised, as :class:`EpochOrder`'s, of identities in place of images.
    """

    def __init__(self, identities: IdentityIndex, *, batch_size: int, rank: int = 0, ranks: int = 1, seed: int = 0):
        self._identities = identities
        self._present = np.flatnonzero(identities.counts_C)
        if len(self._present) < batch_size * ranks:
            raise ValueError(
                f"an update takes {batch_size} identities on each of {ranks} ranks, {batch_size * ranks} in all, and "
                f"the data has {len(self._present)}: give a smaller batch size, fewer ranks or more identities"
            )
        own_seed = int(np.random.SeedSequence([seed, _PAIRS_STREAM]).generate_state(1)[0])
        super().__init__(len(self._present), batch_size=batch_size, rank=rank, ranks=ranks, seed=own_seed)

    def indices(self, epoch: int, position: int) -> np.ndarray:
        """The first image of each of the B pairs, then the second of each: int64 (2B,)."""
        identity_B = self._present[super().indices(epoch, position)]
        count_B = self._identities.counts_C[identity_B].astype(np.uint64)
        first_B = random_bits(self.seed, epoch, identity_B, _FIRST) % count_B
        others_B = np.maximum(count_B, np.uint64(2)) - np.uint64(1)
        step_B = np.uint64(1) + random_bits(self.seed, epoch, identity_B, _SECOND) % others_B
        second_B = (first_B + step_B) % count_B
        images = [self._identities.images_of(identity) for identity in identity_B]
        pairs = [(of[first], of[second]) for of, first, second in zip(images, first_B, second_B, strict=True)]
        return np.array(pairs, dtype=np.int64).T.reshape(-1)


class IdentityLoader(TrainingLoader):
    """Batches of B pairs: 2B images, the first of each pair and then the second of each: a `Loader`.

    Arguments and errors as :class:`TrainingLoader`'s. The two images of a pair are mirrored and changed
    independently.
    """

    def __init__(
        self, source: ImageSource, *, batch_size: int, rank: int = 0, ranks: int = 1, seed: int = 0, **options: Any
    ):
        identities = IdentityIndex(source.labels(), source.num_identities)
        order = PairOrder(identities, batch_size=batch_size, rank=rank, ranks=ranks, seed=seed)
        super().__init__(source, batch_size=2 * batch_size, order=order, **options)

    def _draws_of(self, indices_B: np.ndarray) -> np.ndarray:
        """The second of a pair, which may be the same image, changes by numbers that no first one has."""
        first_B, second_B = np.split(indices_B, 2)
        return np.concatenate([first_B, second_B + len(self._source)])


class PairLoader:
    """Batches of x and then y, 3B images in all: a `Loader` over the two of them.

    Epoch and position of a batch are the instance loader's.

    Args:
        pairs: gives 2B images a batch, the first of each pair and then the second of each.
        instances: gives B, an even number.
    """

    def __init__(self, pairs: Loader, instances: Loader):
        self.pairs = pairs
        self.instances = instances

    @property
    def replaced(self) -> int:
        """Images of both that did not decode."""
        return self.pairs.replaced + self.instances.replaced

    @property
    def updates_per_epoch(self) -> int:
        """Updates in an epoch of the instance loader."""
        return self.instances.updates_per_epoch

    def next_batch(self) -> Batch:
        """The next batch of x and y."""
        pairs, instances = self.pairs.next_batch(), self.instances.next_batch()
        return Batch(
            _interleave(pairs.images_BHWC, instances.images_BHWC),
            _interleave(pairs.labels_B, instances.labels_B),
            instances.epoch,
            instances.position,
            _interleave(pairs.indices_B, instances.indices_B),
        )

    def state(self) -> dict[str, Any]:
        """Where both stand."""
        return {"pairs": self.pairs.state(), "instances": self.instances.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Both go on where `state` was taken."""
        self.pairs.restore(state["pairs"])
        self.instances.restore(state["instances"])

    def close(self) -> None:
        """Ends both."""
        self.pairs.close()
        self.instances.close()


class RandomPairs(RandomLoader):
    """Pairs of noise: 2B images, the second B with the labels of the first: a `Loader` that costs next to nothing."""

    def __init__(self, num_identities: int, *, batch_size: int, seed: int = 0, **options: Any):
        own_seed = int(np.random.SeedSequence([seed, _PAIRS_STREAM]).generate_state(1)[0])
        super().__init__(num_identities, batch_size=2 * batch_size, seed=own_seed, **options)

    def next_batch(self) -> Batch:
        batch = super().next_batch()
        first_B, _ = np.split(batch.labels_B, 2)
        return batch._replace(labels_B=np.concatenate([first_B, first_B]))


def open_pair_loader(
    source: ImageSource | None,
    num_identities: int,
    *,
    batch_size: int,
    decoding: Mapping[str, Any] | None = None,
    **options: Any,
) -> PairLoader:
    """Both loaders over a source, or of random images without one.

    Args:
        num_identities: of the random images.
        batch_size: B, even.
        decoding: arguments of :class:`TrainingLoader` that random images have no use for.
        options: those that they have too: image size, rank, ranks, seed.

    Raises:
        ValueError: an odd batch size, fewer identities than B on all ranks, or what :class:`TrainingLoader` refuses.
    """
    if batch_size % 2:
        raise ValueError(
            f"a step of F²C halves a rank's {batch_size} instances: set --batch-size to an even number"
        )
    options["batch_size"] = batch_size
    if source is None:
        return PairLoader(RandomPairs(num_identities, **options), RandomLoader(num_identities, **options))
    decoding = decoding or {}
    pairs = IdentityLoader(source, **options, **decoding)
    try:
        return PairLoader(pairs, TrainingLoader(source, **options, **decoding))
    except ValueError:
        pairs.close()
        raise


def _interleave(pairs_2B: np.ndarray, instances_B: np.ndarray) -> np.ndarray:
    """[first of each pair, first half of the instances, second of each pair, second half of the instances]."""
    first, second = np.split(pairs_2B, 2)
    half = len(instances_B) // 2
    return np.concatenate([first, instances_B[:half], second, instances_B[half:]])
