"""The one place that chooses a device: a rank's GPU where MXNet sees one, the CPU otherwise."""

from __future__ import annotations

import mxnet as mx


def compute_context(local_rank: int = 0) -> mx.Context:
    """Returns the MXNet context that a rank computes on.

    Args:
        local_rank: the rank's number on its machine; GPU ``local_rank`` is its own.

    Raises:
        ValueError: the machine has GPUs, but fewer than it runs ranks.
    """
    gpus = mx.context.num_gpus()
    if gpus == 0:
        return mx.cpu()
    if local_rank >= gpus:
        raise ValueError(
            f"each rank needs a GPU of its own, but local rank {local_rank} finds {gpus}: "
            f"start at most {gpus} ranks on this machine, or set CUDA_VISIBLE_DEVICES to more"
        )
    return mx.gpu(local_rank)


def default_network() -> str:
    """The backbone to train where none is named: one that the device trains in minutes."""
    return "toy" if mx.context.num_gpus() == 0 else "r18"
