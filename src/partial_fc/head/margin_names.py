"""Margins by the names that the field has for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from partial_fc.head.f2c_margin import F2CMargin, SVMargin
from partial_fc.head.margin import Margin

MARGINS = {"arcface": Margin(m2=0.5), "cosface": Margin(m3=0.4), "combined": Margin(m2=0.3, m3=0.2)}
F2C_MARGINS = {name: F2CMargin(margin) for name, margin in MARGINS.items()} | {
    "sv": F2CMargin(SVMargin(0.4), hard_weight=1.2, hard_margin=0.4)
}

_Kind = TypeVar("_Kind")


def margin_of(margin: str | Margin) -> Margin:
    """A margin of Partial FC, by its name where it is one.

    Raises:
        ValueError: an unknown name.
    """
    return _named(margin, MARGINS) if isinstance(margin, str) else margin


def f2c_margin_of(margin: str | Margin | F2CMargin) -> F2CMargin:
    """A margin of F²C, by its name where it is one.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(margin, str):
        return _named(margin, F2C_MARGINS)
    return F2CMargin(margin) if isinstance(margin, Margin) else margin


def _named(name: str, known: Mapping[str, _Kind]) -> _Kind:
    if name not in known:
        raise ValueError(f"unknown margin {name!r}: choose one of {', '.join(known)}, or pass a Margin")
    return known[name]
