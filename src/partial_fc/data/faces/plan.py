"""Which images a synthetic data set is made of: number n in the set → an identity, an image of it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from partial_fc.data.faces.identity import NUM_IDENTITIES

FOLDS = 10


@dataclass(frozen=True)
class FaceSetPlan:
    """The data set, said by numbers: `identities` × `images_per_identity` images to train on, then two
    images for each of `pairs`, of `held_out_identities` others.

    The held-out identities are the last that the seed has, so that sets of any size are verified by the same
    people. `quality` is the best JPEG quality of an image, 1 to 100; each has its own, from half of it up.

    Raises:
        ValueError: a number outside its range.
    """

    identities: int = 1000
    images_per_identity: int = 20
    held_out_identities: int = 500
    pairs: int = 3000
    seed: int = 0
    image_size: int = 112
    quality: int = 95

    def __post_init__(self) -> None:
        _check("identities", self.identities, 1, NUM_IDENTITIES)
        _check("images_per_identity", self.images_per_identity, 1, 1 << 20)
        _check("held_out_identities", self.held_out_identities, 2 * FOLDS, NUM_IDENTITIES)
        _check("pairs", self.pairs, 2 * FOLDS, 1 << 24)
        _check("seed", self.seed, 0, 1 << 63)
        _check("image_size", self.image_size, 32, 1024)
        _check("quality", self.quality, 1, 100)
        if self.pairs % (2 * FOLDS):
            raise ValueError(
                f"pairs must be a multiple of {2 * FOLDS}, for {FOLDS} folds, each half of it same and half "
                f"different; got {self.pairs}"
            )
        if self.identities + self.held_out_identities > NUM_IDENTITIES:
            raise ValueError(
                f"identities and held_out_identities together must be at most {NUM_IDENTITIES}, got "
                f"{self.identities} and {self.held_out_identities}"
            )

    @property
    def training_images(self) -> int:
        return self.identities * self.images_per_identity

    def __len__(self) -> int:
        """Images in all."""
        return self.training_images + 2 * self.pairs

    def __getitem__(self, n: int) -> tuple[int, int]:
        """(identity, its image) that image n of the set shows; training images first, by identity."""
        if not 0 <= n < len(self):
            raise IndexError(n)
        if n < self.training_images:
            return divmod(n, self.images_per_identity)
        held_out, image = _pair_images(self.held_out_identities, self.pairs)[n - self.training_images]
        return NUM_IDENTITIES - 1 - int(held_out), int(image)

    def is_same(self) -> np.ndarray:
        """Which pairs show one identity, (pairs,) bool: in each fold the first half of them."""
        half = self.pairs // FOLDS // 2
        return np.tile(np.repeat([True, False], half), FOLDS)


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {value}")


@functools.lru_cache(maxsize=1)
def _pair_images(held_out_identities: int, pairs: int) -> np.ndarray:
    """(2·pairs, 2) int64: held-out identity and number of its image; no identity is in two folds.

    Pair k of a fold takes the fold's identities in turn; its other identity, when different, is the next one
    in the first round, the next but one in the second, and so on. No image is in two pairs.
    """
    half = pairs // FOLDS // 2
    used = np.zeros(held_out_identities, np.int64)
    images = np.empty((2 * pairs, 2), np.int64)
    bounds = np.linspace(0, held_out_identities, FOLDS + 1).astype(np.int64)
    row = 0
    for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        count = end - first
        for same in (True, False):
            for k in range(half):
                one = k % count
                step = 0 if same else 1 + (k // count) % (count - 1)
                for identity in (first + one, first + (one + step) % count):
                    images[row] = identity, used[identity]
                    used[identity] += 1
                    row += 1
    return images
