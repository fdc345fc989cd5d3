"""The plots of ``docs/claims.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from claims_figures import Runs
from claims_grid import RATIOS, Arm
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

QUANTITIES = {
    "accuracy": "accuracy on held-out pairs, %",
    "own_center": "cos(embedding, its own center)",
    "nearest_center": "largest cos with another center",
}
COLORS = {1.0: "#1b1b1b", 0.5: "#1f77b4", 0.1: "#2ca02c", 0.02: "#d62728"}


def write_plots(runs: Runs, directory: Path) -> list[str]:
    """Draws what there are runs for; the names of the files."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = {
        "claims-curves.png": curves(runs, "synthetic"),
        "claims-longer.png": curves(runs, "longer"),
        "claims-usual.png": curves(runs, "usual-longer" if runs.has(Arm("usual-longer")) else "usual"),
        "claims-ratios.png": over_ratios(runs),
        "claims-noise.png": noise(runs),
    }
    for name, figure in drawn.items():
        if figure is not None:
            unfinished = directory / f".{name}.unfinished"
            FigureCanvasAgg(figure).print_png(str(unfinished))
            unfinished.replace(directory / name)
    return [name for name, figure in drawn.items() if figure is not None]


def curves(runs: Runs, data: str) -> Figure | None:
    """What a run passes through, for each sample ratio: mean over seeds, ± their deviation as a band."""
    arms = [arm for ratio in RATIOS if runs.has(arm := Arm(data, sample_ratio=ratio))]
    if not arms:
        return None
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (quantity, label) in zip(figure.subplots(1, 3), QUANTITIES.items(), strict=True):
        for arm in arms:
            images_P, values_SP = runs.curve(arm, quantity)
            mean_P, color = values_SP.mean(axis=0), COLORS[arm.sample_ratio]
            axes.plot(images_P / 1e3, mean_P, "o-", color=color, markersize=3, label=f"r = {arm.sample_ratio:g}")
            if len(values_SP) > 1:
                spread_P = values_SP.std(axis=0, ddof=1)
                axes.fill_between(images_P / 1e3, mean_P - spread_P, mean_P + spread_P, color=color, alpha=0.15)
        axes.set(xlabel="thousand images seen", title=label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    return figure


def over_ratios(runs: Runs) -> Figure | None:
    """The end of a run over the sample ratio, by sampler and loss, on both data sets."""
    series = {
        "CosFace, PPRN": ("o-", "#1f77b4", {}),
        "CosFace, uniform": ("s--", "#d62728", {"sampler": "uniform"}),
        "ArcFace, PPRN": ("^:", "#2ca02c", {"loss": "arcface"}),
    }
    names = {"synthetic": "synthetic faces", "lfw": "LFW"}
    data = [name for name in names if any(runs.has(Arm(name, sample_ratio=r)) for r in RATIOS)]
    if not data:
        return None
    figure = Figure(figsize=(11, 3.4 * len(data)), layout="constrained")
    rows = figure.subplots(len(data), 3, squeeze=False)
    for name, row in zip(data, rows, strict=True):
        row[0].set_ylabel(names[name])
        for axes, (quantity, label) in zip(row, QUANTITIES.items(), strict=True):
            for legend, (style, color, choice) in series.items():
                arms = [arm for r in RATIOS if runs.has(arm := Arm(name, sample_ratio=r, **choice))]
                _points(axes, [arm.sample_ratio for arm in arms], runs, arms, quantity, style, color, legend)
            axes.set(title=label, xlabel="sample ratio r", xscale="log")
            axes.title.set_fontsize(10)
            axes.xaxis.set_major_locator(FixedLocator(RATIOS))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.grid(alpha=0.3)
    rows[0][0].legend(fontsize=8)
    return figure


def noise(runs: Runs) -> Figure | None:
    """What the filter does with wrong labels and split identities."""
    rows = [
        (clean, noisy) for clean, noisy in (("synthetic", "noisy"), ("longer", "noisy-longer")) if runs.has(Arm(noisy))
    ]
    if not rows:
        return None
    quantities = QUANTITIES | {"split_centers": "cos of the two centers of an identity"}
    figure = Figure(figsize=(12, 3.3 * len(rows)), layout="constrained")
    for (clean, noisy), panels in zip(rows, figure.subplots(len(rows), 4, squeeze=False), strict=True):
        for axes, (quantity, label) in zip(panels, quantities.items(), strict=True):
            for legend, style, color, offset, data, filter_cosine in (
                ("clean labels", "o", "#1b1b1b", -0.15, clean, None),
                ("noise", "s", "#d62728", 0.0, noisy, None),
                ("noise, cos > 0.4 left out", "^", "#2ca02c", 0.15, noisy, 0.4),
            ):
                if data == clean and quantity == "split_centers":
                    continue
                arms = [
                    arm for r in (1.0, 0.1) if runs.has(arm := Arm(data, sample_ratio=r, filter_cosine=filter_cosine))
                ]
                places = [(0 if arm.sample_ratio == 1.0 else 1) + offset for arm in arms]
                _points(axes, places, runs, arms, quantity, style, color, legend)
            axes.set(title=label, xlim=(-0.5, 1.5))
            axes.title.set_fontsize(10)
            axes.set_xticks((0, 1), ("r = 1", "r = 0.1"))
            axes.grid(alpha=0.3, axis="y")
        panels[0].set_ylabel(noisy)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
    return figure


def _points(
    axes: Axes,
    places: Sequence[float],
    runs: Runs,
    arms: Sequence[Arm],
    quantity: str,
    style: str,
    color: str,
    legend: str,
) -> None:
    """Means of arms with their deviations as bars."""
    if not arms:
        return
    values = [runs.values(arm, quantity) for arm in arms]
    spread = [part.std(ddof=1) if len(part) > 1 else 0.0 for part in values]
    mean = [np.mean(part) for part in values]
    axes.errorbar(places, mean, yerr=spread, fmt=style, color=color, capsize=3, markersize=5, label=legend)
