"""Backbones: networks from images to embeddings, as MXNet symbols.

    symbol = build_backbone("r50", 512)  # `data` (B, 3, 112, 112), RGB 0–255, to `fc1_output` (B, 512)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from symbol.iresnet import CHANNELS, TOY_CHANNELS, TOY_STEM_STRIDE, TOY_UNITS, UNITS, iresnet
from symbol.layers import DEVICES, PRECISIONS, Layers, Symbol
from symbol.mobilefacenet import mobilefacenet
from symbol.resnet import resnet50

__all__ = ["DEVICES", "PRECISIONS", "backbone_names", "build_backbone", "default_image_size"]


class _Backbone(NamedTuple):
    build: Callable[[Layers, int], Symbol]
    image_size: int  # pixels of a side


_BACKBONES = {
    name: _Backbone(partial(iresnet, units=units, channels=CHANNELS), 112) for name, units in UNITS.items()
}
_BACKBONES["mobilefacenet"] = _Backbone(mobilefacenet, 112)
_BACKBONES["resnet50"] = _Backbone(resnet50, 224)
_BACKBONES["toy"] = _Backbone(
    partial(iresnet, units=TOY_UNITS, channels=TOY_CHANNELS, stem_stride=TOY_STEM_STRIDE), 56
)
# The names that F²C (arXiv 2105.10375) gives to two of them.
_BACKBONES["ir50"] = _BACKBONES["r50"]
_BACKBONES["mobile"] = _BACKBONES["mobilefacenet"]


def backbone_names() -> list[str]:
    """The names that `build_backbone` knows."""
    return list(_BACKBONES)


def default_image_size(name: str) -> int:
    """Pixels of a side of the images that backbone ``name`` is made for; ValueError when it is unknown."""
    return _find(name).image_size


def build_backbone(
    name: str, embedding_size: int = 512, *, precision: str = "float32", train_on: str | None = None
) -> Symbol:
    """The backbone ``name``: images to embeddings.

    Its function and its arguments (names, shapes, all ``float32``) depend on ``name`` and ``embedding_size``
    alone: parameters trained in one form load into every other. The default form is the published network,
    and the one to save. Train in the form for the device: MXNet's gradient for the slopes of a PReLU is wrong
    (`Layers.prelu`), and on a CPU that form is twice (r18) to five times (mobilefacenet) as fast as well.

    Args:
        name: one of `backbone_names`.
        embedding_size: D, numbers in an embedding, at least 1.
        precision: ``"float32"``; ``"float16"``, mixed precision on a GPU; or ``"float16-emulated"``, the same
            arithmetic on a CPU (see `symbol.layers`).
        train_on: ``"cpu"`` or ``"gpu"``: a form for training on that device; None: the plain network. The
            reduced precisions are forms for their device already.

    Returns:
        a symbol with the input ``data``, (B, 3, H, W), RGB 0–255, ``float32``, and the output ``fc1_output``,
        (B, D), ``float32``, not normalised.

    Raises:
        ValueError: the name, the precision or the device is unknown, or ``embedding_size`` is below 1.
    """
    backbone = _find(name)
    if embedding_size < 1:
        raise ValueError(f"the embedding size is {embedding_size}: set it to 1 or more")
    return backbone.build(Layers(precision, train_on=train_on), embedding_size)


def _find(name: str) -> _Backbone:
    if name not in _BACKBONES:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(_BACKBONES)}")
    return _BACKBONES[name]
