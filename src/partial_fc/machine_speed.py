"""How fast this machine does what a training step is made of: products, memory, the network, a backbone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import mxnet as mx
import numpy as np

import symbol
from partial_fc.backbone import Backbone
from partial_fc.collectives import Collectives, SingleProcess
from partial_fc.head import matmul
from partial_fc.head.partial_fc import DEFAULT_BLOCK_ROWS
from partial_fc.network_cost import network_cost

_REPEATS = 5
_BLOCKS = 8
_COPIED_NUMBERS = 2**25
_REDUCED_NUMBERS = 2**23


def gemm_flops(samples: int, embedding_size: int, context: mx.Context, collectives: Collectives) -> float:
    """FLOPs a second of the three products of the classification layer, in blocks as it has them; all ranks at once."""
    x_ND = mx.nd.random.normal(shape=(samples, embedding_size), ctx=context)
    weights = [mx.nd.random.normal(shape=(DEFAULT_BLOCK_ROWS, embedding_size), ctx=context) for _ in range(_BLOCKS)]
    logits_NB = mx.nd.empty((samples, DEFAULT_BLOCK_ROWS), ctx=context)
    gradient_ND, gradient_BD = mx.nd.zeros_like(x_ND), mx.nd.zeros_like(weights[0])

    def products() -> None:
        for weight_BD in weights:
            matmul.logits(x_ND, weight_BD, logits_NB)
            matmul.gradients(logits_NB, x_ND, weight_BD, gradient_ND, gradient_BD)

    flops = 3 * 2 * samples * embedding_size * DEFAULT_BLOCK_ROWS * _BLOCKS
    return flops / _seconds(products, collectives)


def memory_bytes(context: mx.Context, collectives: Collectives) -> float:
    """Bytes read and written a second by a copy; all ranks at once."""
    source = mx.nd.ones((_COPIED_NUMBERS,), ctx=context)
    target = mx.nd.zeros_like(source)
    return 2 * 4 * _COPIED_NUMBERS / _seconds(lambda: source.copyto(target), collectives)


def ring_bytes_and_latency(context: mx.Context, collectives: Collectives) -> tuple[float, float]:
    """Bytes a second that a rank sends in an all-reduce, and the seconds of a message; for two ranks and more."""
    assert collectives.size > 1
    many, one = (mx.nd.zeros((count,), ctx=context) for count in (_REDUCED_NUMBERS, 1))
    sent = 2 * (collectives.size - 1) / collectives.size * 4 * _REDUCED_NUMBERS
    latency = _seconds(lambda: collectives.all_reduce(one, "speed.one"), collectives)
    seconds = _seconds(lambda: collectives.all_reduce(many, "speed.many"), collectives)
    return sent / seconds, latency / (2 * max(1.0, np.log2(collectives.size)))


def backbone_flops(
    name: str,
    *,
    batch_size: int,
    embedding_size: int,
    image_size: int | None,
    fp16: bool,
    context: mx.Context,
    collectives: Collectives,
) -> float:
    """FLOPs a second of a backbone's forward and backward pass; all ranks at once, each for itself."""
    device = context.device_type
    cost = network_cost(name, embedding_size=embedding_size, image_size=image_size, fp16=fp16, device=device)
    reduced = "float16" if device == "gpu" else "float16-emulated"
    network = symbol.build_backbone(name, embedding_size, precision=reduced if fp16 else "float32", train_on=device)
    size = image_size if image_size is not None else symbol.default_image_size(name)
    backbone = Backbone(
        network, batch_size=batch_size, image_size=size, collectives=SingleProcess(), context=context
    )
    images_BHWC = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    gradient_BD = mx.nd.ones((batch_size, embedding_size), ctx=context)

    def step() -> None:
        backbone.forward(images_BHWC)
        backbone.backward(gradient_BD)

    return 3 * cost.flops_per_image * batch_size / _seconds(step, collectives, repeats=2)


def _seconds(function: Callable[[], object], collectives: Collectives, repeats: int = _REPEATS) -> float:
    """The median time of a call on the slowest rank, the first one aside."""
    times = []
    for _ in range(repeats + 1):
        mx.nd.waitall()
        collectives.gather_objects(None, "speed.ready")
        start = time.perf_counter()
        function()
        mx.nd.waitall()
        times.append(max(collectives.gather_objects(time.perf_counter() - start, "speed.done")))
    return statistics.median(times[1:])
