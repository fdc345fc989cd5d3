"""Plots of results as PNG: curves of all models on a target, histograms of scores. Drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from partial_fc.evaluation.targets import Curve, ScoreHistogram

_AXES = {
    "roc": ("false-accept rate", "true-accept rate", True),
    "dir": ("false-positive identification rate", "true-positive identification rate", True),
    "cmc": ("rank", "identification rate", False),
}
_LEFTMOST_RATE = 1e-6
_DOTS_PER_INCH = 110


def draw_curves(kind: str, curves: Sequence[tuple[str, Curve]], title: str) -> bytes:
    """PNG of curves of one kind, (model, curve) each; FAR and FPIR on a logarithmic axis.

    The axis starts at the smallest rate above 0 of any of the curves, 1e-6 at the lowest; what a curve has at a
    rate of 0 is drawn as a line from the left edge.
    """
    x_name, y_name, is_logarithmic = _AXES[kind]
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    left = _left_edge([curve for _, curve in curves])
    for model, curve in curves:
        x_K = np.clip(curve.x_K, left, None) if is_logarithmic else curve.x_K
        axes.plot(x_K, curve.y_K, label=model, linewidth=1.5)
    if is_logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(left, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel=x_name, ylabel=y_name, title=title)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(loc="lower right")
    return _png(figure)


def draw_histogram(histogram: ScoreHistogram, title: str) -> bytes:
    """PNG of the positive and negative pairs' scores, each as a share of its own kind."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for counts_K, name, colour in (
        (histogram.positives_K, "one person", "tab:green"),
        (histogram.negatives_K, "two people", "tab:red"),
    ):
        share_K = counts_K / max(1, counts_K.sum())
        axes.stairs(share_K, histogram.edges, fill=True, alpha=0.45, color=colour, label=f"{name} ({counts_K.sum():,})")
    filled = np.flatnonzero(histogram.positives_K + histogram.negatives_K)
    if len(filled):
        last = min(len(histogram.edges) - 1, filled[-1] + 3)
        axes.set_xlim(histogram.edges[max(0, filled[0] - 2)], histogram.edges[last])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="score", ylabel="share of the pairs", title=title)
    axes.grid(True, alpha=0.25)
    axes.legend()
    return _png(figure)


def _left_edge(curves: Sequence[Curve]) -> float:
    above = [x for curve in curves for x in curve.x_K[curve.x_K > 0][:1]]
    return float(np.clip(min(above, default=1e-3), _LEFTMOST_RATE, 0.1))


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=_DOTS_PER_INCH)
    return out.getvalue()
