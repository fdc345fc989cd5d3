"""Whether the logits of a step fit in memory, or are computed twice."""

from __future__ import annotations

import mxnet as mx

from partial_fc.head.row_store import available_memory

# The share of the free memory that a step's logits may take: a backbone's activations need most of the rest.
LOGITS_SHARE = 0.25


def free_memory(context: mx.Context, ranks_here: int) -> int:
    """Bytes that a rank can still have on its device: a machine's ranks share what is free there, a GPU has one."""
    if context.device_type == "gpu":
        return mx.context.gpu_memory_info(context.device_id)[0]
    return available_memory() // ranks_here


def choose_logits_chunk(samples: int, sampled_classes: int, budget_bytes: int, block_rows: int) -> int | None:
    """The ``logits_chunk`` of a step with N samples and S sampled classes of the rank.

    Returns:
        None when N·S float32 fit in the budget, else the number of classes whose logits are kept at once.
    """
    return None if 4 * samples * sampled_classes <= budget_bytes else block_rows
