"""Some of the images of a set, drawn at random."""

from __future__ import annotations

import numpy as np


def sample(num_images: int, share: float, seed: int) -> np.ndarray:
    """`max(1, round(share · N))` numbers of images, ascending, int64. Raises ValueError for a share outside (0, 1]."""
    if not 0.0 < share <= 1.0:
        raise ValueError(f"--sample must lie in (0, 1], got {share}")
    return draw(num_images, max(1, round(share * num_images)), seed)


def draw(num_images: int, count: int, seed: int) -> np.ndarray:
    """`count` different numbers of images, at most all, ascending, int64."""
    if count >= num_images:
        return np.arange(num_images)
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.sort(generator.choice(num_images, count, replace=False, shuffle=False))
