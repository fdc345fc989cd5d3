"""Margins by the names that the field has for them."""

from __future__ import annotations

from collections.abc import Iterable

from partial_fc.head.f2c_margin import F2CMargin
from partial_fc.head.margin import Margin, SVMargin
from partial_fc.head.margin_softmax import AdaFace, CurricularFace, MarginSoftmax, SVSoftmax

MARGINS = {"arcface": Margin(m2=0.5), "cosface": Margin(m3=0.4), "combined": Margin(m2=0.3, m3=0.2)}
MARGIN_SOFTMAXES = {"sv": SVSoftmax, "adaface": AdaFace, "curricularface": CurricularFace}
F2C_MARGINS = {name: F2CMargin(margin) for name, margin in MARGINS.items()} | {
    "sv": F2CMargin(SVMargin(0.4), hard_weight=1.2, hard_margin=0.4)
}


def margin_of(margin: str | Margin | MarginSoftmax) -> Margin | MarginSoftmax:
    """A margin of Partial FC; by its name a new one, since some keep statistics.

    Raises:
        ValueError: an unknown name, or no margin.
    """
    if not isinstance(margin, str):
        if not isinstance(margin, Margin) and not hasattr(margin, "for_batch"):
            raise ValueError(f"the margin must be a name, a Margin or a margin softmax, but is {margin!r}")
        return margin
    _check_name(margin, [*MARGINS, *MARGIN_SOFTMAXES])
    return MARGINS[margin] if margin in MARGINS else MARGIN_SOFTMAXES[margin]()


def f2c_margin_of(margin: str | Margin | F2CMargin) -> F2CMargin:
    """A margin of F²C, by its name where it is one.

    Raises:
        ValueError: an unknown name, or no margin of F²C.
    """
    if isinstance(margin, str):
        _check_name(margin, F2C_MARGINS)
        return F2C_MARGINS[margin]
    if not isinstance(margin, Margin | F2CMargin):
        raise ValueError(f"F²C's margin must be a name, a Margin or an F2CMargin, but is {margin!r}")
    return F2CMargin(margin) if isinstance(margin, Margin) else margin


def _check_name(name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"unknown margin {name!r}: choose one of {', '.join(known)}")
