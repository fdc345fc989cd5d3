"""What a run's configuration says of F²C: the size of its pool, and what does not go with it."""

from __future__ import annotations

import argparse
import math
from typing import Any


def queue_size(text: str) -> int | str:
    """``100000`` → 100000; ``1%`` stays as it is."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        share_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def share_of(text: str) -> float:
    """``1%`` → 0.01.

    Raises:
        ValueError: it is no percentage in (0, 100].
    """
    number = text.removesuffix("%")
    try:
        share = float(number) / 100 if number != text else math.nan
    except ValueError:
        share = math.nan
    if not 0.0 < share <= 1.0:
        raise ValueError(f"must be a number of slots, or a share of the identities as 1%, but is {text!r}")
    return share


def pool_slots(size: int | str, *, identities: int, samples: int) -> int:
    """Q, the slots of the pool.

    Args:
        size: a number, or a share of the identities; the latter is raised to what one gathered batch needs.
        identities: C.
        samples: N of one gathered batch, which may all be of different identities.

    Raises:
        ValueError: fewer slots than identities in one gathered batch.
    """
    needed = min(identities, samples)
    if isinstance(size, str):
        return max(round(share_of(size) * identities), needed)
    if size < needed:
        raise ValueError(
            f"the pool must have a slot for each identity of one gathered batch, which holds up to {needed}, but "
            f"--queue-size is {size}: set it to {needed} or more, or a smaller --batch-size"
        )
    return size


def check_f2c(config: Any) -> None:
    """Raises ValueError for fields of a run's configuration that F²C, or Partial FC, cannot have."""
    if config.head == "partial_fc":
        if config.queue_size is not None:
            raise ValueError(f"Partial FC has no pool, but --queue-size is {config.queue_size}: give --head f2c")
    else:
        size = config.queue_size
        if isinstance(size, str):
            share_of(size)
        elif size is None or size < 1:
            raise ValueError(f"--queue-size must be at least 1 slot, but is {size}")
        if config.batch_size % 2:
            raise ValueError(f"--batch-size must be even for F²C, which halves it, but is {config.batch_size}")
        if config.loss_form not in ("margin", "sv"):
            raise ValueError(
                f"--loss {config.loss} is a margin of Partial FC, but --head is {config.head}: leave one of them out"
            )
        for option, value, usual in (
            ("--sample-ratio-steps", config.sample_ratio_steps, ()),
            ("--sampler", config.sampler, "pprn"),
            ("--filter-cosine", config.filter_cosine, None),
        ):
            if value != usual:
                raise ValueError(f"{option} is one of Partial FC's, but --head is {config.head}: leave one of them out")
        if config.sample_ratio != 1.0:
            raise ValueError(
                f"F²C has no class centers to sample, but --sample-ratio is {config.sample_ratio}: leave it out, "
                "--queue-size is what decides its memory"
            )
        if config.lazy_updates:
            raise ValueError(
                "F²C has no class centers that could wait for their updates, but --lazy-updates is given: leave it out"
            )
    if config.epochs is not None and not 0.0 < config.epochs < math.inf:
        raise ValueError(f"--epochs must be positive, but is {config.epochs}")
    epochs = config.lr_epochs
    if list(epochs) != sorted(set(epochs)) or any(not 0.0 < epoch < math.inf for epoch in epochs):
        raise ValueError(f"--lr-epochs must be ascending and positive, but is {','.join(map(str, epochs))}")
    if not 0.0 <= config.gallery_momentum <= 1.0:
        raise ValueError(f"the gallery's momentum must lie in [0, 1], but is {config.gallery_momentum}")
