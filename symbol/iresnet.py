"""IResNet: the residual networks of InsightFace, and the thin one of the quick start.

These are InsightFace's MXNet networks with residual unit 3, a 3×3 stem that keeps the resolution, PReLU and
the output block "FC", name for name, so that a published ``model-0000.params`` loads here and ours load
there. ("FC" differs from the block "E" of the ArcFace models by E's Dropout alone, which holds no parameter
and does nothing at inference: models with either load.) ArcFace, arXiv 1801.07698, §3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from symbol.layers import Layers, Symbol

BATCH_NORM_EPS = 2e-5

# Residual units in each stage. The channels are those of the stem, then of the stages.
UNITS = {
    "r18": (2, 2, 2, 2),
    "r34": (3, 4, 6, 3),
    "r50": (3, 4, 14, 3),
    "r74": (3, 6, 24, 3),
    "r100": (3, 13, 30, 3),
    "r124": (3, 13, 40, 5),
    "r152": (3, 8, 36, 3),
    "r200": (3, 24, 36, 3),
}
CHANNELS = (64, 64, 128, 256, 512)

TOY_UNITS = (2, 2, 2)
TOY_CHANNELS = (32, 32, 64, 128)
TOY_STEM_STRIDE = 2  # at the full 56×56 the first layers would take three quarters of the time


def iresnet(
    layers: Layers, embedding_size: int, units: Sequence[int], channels: Sequence[int], stem_stride: int = 1
) -> Symbol:
    """An IResNet: a stem, stages that each halve H and W in their first unit, and the output block.

    Args:
        layers: makes the layers, in its precision.
        embedding_size: D.
        units: residual units of each stage.
        channels: channels of the stem, then of each stage.
        stem_stride: of the first convolution; 1 as published.

    Returns:
        ``fc1_output``: embeddings (B, D), ``float32``, of ``data`` (B, 3, H, W), RGB 0–255.
    """
    assert len(channels) == len(units) + 1
    body = layers.convolution(layers.normalized_input(), "conv0", channels[0], kernel=3, stride=stem_stride, pad=1)
    body = layers.batch_norm(body, "bn0", eps=BATCH_NORM_EPS)
    body = layers.prelu(body, "relu0", channels[0])
    for stage, (num_units, width) in enumerate(zip(units, channels[1:], strict=True), start=1):
        for unit in range(1, num_units + 1):
            body = residual_unit(layers, body, f"stage{stage}_unit{unit}", width, downsample=unit == 1)
    full = Layers("float32")
    body = full.batch_norm(layers.to_float32(body), "bn1", eps=BATCH_NORM_EPS)
    return full.embedding(body, embedding_size)


def residual_unit(layers: Layers, data: Symbol, name: str, channels: int, *, downsample: bool) -> Symbol:
    """BN, conv, BN, PReLU, conv, BN, added to the input; the second convolution halves H and W on demand."""
    stride = 2 if downsample else 1
    body = layers.batch_norm(data, f"{name}_bn1", eps=BATCH_NORM_EPS)
    body = layers.convolution(body, f"{name}_conv1", channels, kernel=3, pad=1)
    body = layers.batch_norm(body, f"{name}_bn2", eps=BATCH_NORM_EPS)
    body = layers.prelu(body, f"{name}_relu1", channels)
    body = layers.convolution(body, f"{name}_conv2", channels, kernel=3, stride=stride, pad=1)
    body = layers.batch_norm(body, f"{name}_bn3", eps=BATCH_NORM_EPS)
    shortcut = data
    if downsample:
        shortcut = layers.convolution(data, f"{name}_conv1sc", channels, kernel=1, stride=stride)
        shortcut = layers.batch_norm(shortcut, f"{name}_sc", eps=BATCH_NORM_EPS)
    return layers.add(body, shortcut, f"{name}_plus")
