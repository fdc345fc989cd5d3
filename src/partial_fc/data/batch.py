"""A batch of training images, and what every loader of them offers."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np


class Batch(NamedTuple):
    """One rank's images of one update.

    images_BHWC: uint8 RGB, C-contiguous. labels_B: int64, each that of the image in its row. epoch: from 0.
    position: how many images of the epoch all ranks together took before this update. indices_B: int64, the
    numbers of the images in their source, as the epoch's order has them.
    """

    images_BHWC: np.ndarray
    labels_B: np.ndarray
    epoch: int
    position: int
    indices_B: np.ndarray


class Loader(Protocol):
    """An endless series of batches."""

    replaced: int

    def next_batch(self) -> Batch:
        """The next batch; an error met while it was made is raised here."""
        ...

    def state(self) -> dict[str, Any]:
        """Where the series stands after the last batch handed out: JSON types alone."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. Raises ValueError when it belongs to other data or seed."""
        ...

    def close(self) -> None:
        """Ends all threads; no batch is asked for after it."""
        ...


def check_state(state: dict[str, Any], **ours: int) -> None:
    """Raises ValueError when `state` was taken from data or a seed with another order than ours."""
    for key, value in ours.items():
        if state[key] != value:
            raise ValueError(
                f"the saved position belongs to {key} = {state[key]} and this run has {key} = {value}: "
                "resume with the same data and the same seed"
            )
