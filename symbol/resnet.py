"""ResNet-50 (arXiv 1512.03385) for 224×224 images, with an embedding at its end.

The standard network: bottlenecks of 1×1, 3×3 and 1×1 convolutions, each ReLU after its BatchNorm, the stride
on the 3×3. As in F²C (arXiv 2105.10375), which calls it r50, the last map is not averaged over space but goes
whole into the dense layer of the embedding: where a feature lies matters in an aligned face.
"""

from __future__ import annotations

from symbol.layers import Layers, Symbol

BATCH_NORM_EPS = 1e-5

UNITS = (3, 4, 6, 3)
CHANNELS = (256, 512, 1024, 2048)
BOTTLENECK = 4  # the 3×3 convolutions have a quarter of a stage's channels


def resnet50(layers: Layers, embedding_size: int) -> Symbol:
    """ResNet-50.

    Args:
        layers: makes the layers, in its precision.
        embedding_size: D.

    Returns:
        ``fc1_output``: embeddings (B, D), ``float32``, of ``data`` (B, 3, 224, 224), RGB 0–255.
    """
    body = layers.convolution(layers.normalized_input(), "conv0", 64, kernel=7, stride=2, pad=3)
    body = layers.batch_norm(body, "bn0", eps=BATCH_NORM_EPS)
    body = layers.relu(body, "relu0")
    body = layers.max_pool(body, "pool0")
    for stage, (num_units, width) in enumerate(zip(UNITS, CHANNELS, strict=True), start=1):
        for unit in range(1, num_units + 1):
            first = unit == 1
            stride = 2 if first and stage > 1 else 1
            body = _bottleneck(layers, body, f"stage{stage}_unit{unit}", width, stride=stride, project=first)
    return layers.embedding(layers.to_float32(body), embedding_size)


def _bottleneck(
    layers: Layers, data: Symbol, name: str, channels: int, *, stride: int, project: bool
) -> Symbol:
    """Three convolutions added to the input, which a 1×1 convolution brings to ``channels`` if asked to."""
    inner = channels // BOTTLENECK
    body = layers.convolution(data, f"{name}_conv1", inner, kernel=1)
    body = layers.relu(layers.batch_norm(body, f"{name}_bn1", eps=BATCH_NORM_EPS), f"{name}_relu1")
    body = layers.convolution(body, f"{name}_conv2", inner, kernel=3, stride=stride, pad=1)
    body = layers.relu(layers.batch_norm(body, f"{name}_bn2", eps=BATCH_NORM_EPS), f"{name}_relu2")
    body = layers.convolution(body, f"{name}_conv3", channels, kernel=1)
    body = layers.batch_norm(body, f"{name}_bn3", eps=BATCH_NORM_EPS)
    shortcut = data
    if project:
        shortcut = layers.convolution(data, f"{name}_conv1sc", channels, kernel=1, stride=stride)
        shortcut = layers.batch_norm(shortcut, f"{name}_sc", eps=BATCH_NORM_EPS)
    return layers.relu(layers.add(body, shortcut, f"{name}_plus"), f"{name}_relu3")
