"""MobileFaceNet (arXiv 1804.07573), as InsightFace publishes it under the name y1.

Names and shapes are those of the published checkpoint, down to the dense layer whose weight is called
``fc1_weight``. The tenfold weight decay that it writes on that weight is left out: it belongs to the 4e-5 of
its recipe, not to the network.
"""

from __future__ import annotations

from symbol.layers import Layers, Symbol

BATCH_NORM_EPS = 1e-3


def mobilefacenet(layers: Layers, embedding_size: int) -> Symbol:
    """MobileFaceNet y1.

    Args:
        layers: makes the layers, in its precision.
        embedding_size: D; the published model has 128.

    Returns:
        ``fc1_output``: embeddings (B, D), ``float32``, of ``data`` (B, 3, 112, 112), RGB 0–255.
    """
    body = _convolution(layers, layers.normalized_input(), "conv_1", 64, kernel=3, stride=2, pad=1)
    body = _convolution(layers, body, "conv_2_dw", 64, kernel=3, pad=1, groups=64)
    body = _bottleneck(layers, body, "dconv_23", 64, expanded=128, stride=2)
    body = _residual_bottlenecks(layers, body, "res_3", 64, expanded=128, blocks=4)
    body = _bottleneck(layers, body, "dconv_34", 128, expanded=256, stride=2)
    body = _residual_bottlenecks(layers, body, "res_4", 128, expanded=256, blocks=6)
    body = _bottleneck(layers, body, "dconv_45", 128, expanded=512, stride=2)
    body = _residual_bottlenecks(layers, body, "res_5", 128, expanded=256, blocks=2)
    body = _convolution(layers, body, "conv_6sep", 512, kernel=1)
    body = _linear(layers, body, "conv_6dw7_7", 512, kernel=7, groups=512)
    return layers.embedding(layers.to_float32(body), embedding_size, weight="fc1_weight")


def _linear(layers: Layers, data: Symbol, name: str, channels: int, **shape: int) -> Symbol:
    body = layers.convolution(data, f"{name}_conv2d", channels, **shape)
    return layers.batch_norm(body, f"{name}_batchnorm", eps=BATCH_NORM_EPS)


def _convolution(layers: Layers, data: Symbol, name: str, channels: int, **shape: int) -> Symbol:
    return layers.prelu(_linear(layers, data, name, channels, **shape), f"{name}_relu", channels)


def _bottleneck(
    layers: Layers, data: Symbol, name: str, channels: int, *, expanded: int, stride: int = 1
) -> Symbol:
    """A 1×1 convolution to ``expanded`` channels, a depthwise 3×3, and a linear 1×1 down to ``channels``."""
    depthwise = {"kernel": 3, "stride": stride, "pad": 1, "groups": expanded}
    body = _convolution(layers, data, f"{name}_conv_sep", expanded, kernel=1)
    body = _convolution(layers, body, f"{name}_conv_dw", expanded, **depthwise)
    return _linear(layers, body, f"{name}_conv_proj", channels, kernel=1)


def _residual_bottlenecks(
    layers: Layers, data: Symbol, name: str, channels: int, *, expanded: int, blocks: int
) -> Symbol:
    for block in range(blocks):
        prefix = f"{name}_block{block}"
        body = _bottleneck(layers, data, prefix, channels, expanded=expanded)
        data = layers.add(body, data, f"{prefix}_plus")
    return data
