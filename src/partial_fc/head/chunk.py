"""Whether the logits of a step fit in memory, or are computed twice."""

from __future__ import annotations

import mxnet as mx

from partial_fc.head.row_store import available_memory

# The share of the free memory that a step's logits may take: a backbone's activations need most of the rest.
LOGITS_SHARE = 0.25


def logits_budget(context: mx.Context, ranks_here: int) -> int:
    """Bytes that the logits of a rank may take: a quarter of what is free, shared among a machine's ranks."""
    if context.device_type == "gpu":
        return int(LOGITS_SHARE * mx.context.gpu_memory_info(context.device_id)[0])
    return int(LOGITS_SHARE * available_memory() / ranks_here)


def choose_logits_chunk(samples: int, sampled_classes: int, budget_bytes: int, block_rows: int) -> int | None:
    """The ``logits_chunk`` of a step with N samples and S sampled classes of the rank.

    Returns:
        None when N·S float32 fit in the budget, else the number of classes whose logits are kept at once.
    """
    return None if 4 * samples * sampled_classes <= budget_bytes else block_rows
