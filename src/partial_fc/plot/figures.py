"""What the figures show: which numbers of which runs, as lines in panels.

One run: its verification sets, or the parts of its step, are lines of one panel. Several: each set and part has a panel
in which the runs are the lines, so that a colour means the same run everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from partial_fc.plot.palette import Style
from partial_fc.plot.runs import Run
from partial_fc.plot.series import Points, smoothed

_WIDE = 30.0
_MARK = "skipped update, or no finite loss"


@dataclass(frozen=True)
class Line:
    """A series as it is drawn.

    Attributes:
        points: its line.
        raw: what is drawn pale behind it, where the line is smoothed.
        marks_M: updates to mark at the bottom of the panel.
    """

    style: Style
    points: Points
    raw: Points | None
    marks_M: np.ndarray


@dataclass(frozen=True)
class Panel:
    """Lines that share axes; the title is empty where the figure's says all."""

    title: str
    lines: list[Line]


@dataclass(frozen=True)
class FigureContent:
    """A figure.

    Attributes:
        name: of its file.
        unit: what the values are, for the axis.
        legend: (name, style) of its lines; empty where there is but one, and nothing to say.
        mark: what the marks at the bottom mean; empty where there are none.
        logarithm: the base of that of the axis of the values; 0 where it is linear.
        from_zero: whether the axis begins at 0.
        notes: what one must know to read it.
    """

    name: str
    title: str
    unit: str
    panels: list[Panel]
    legend: list[tuple[str, Style]]
    mark: str = ""
    logarithm: int = 0
    from_zero: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Kind:
    """A figure that there may be: the field of the log, and how it is drawn."""

    field: str
    name: str
    title: str
    unit: str
    factor: float = 1.0
    from_zero: bool = False
    is_noisy: bool = False
    logarithm: int = 0


_KINDS = (
    _Kind("loss", "loss", "Loss", "nats", is_noisy=True),
    _Kind("accuracy", "accuracy", "Accuracy", "% of the pairs", factor=100.0),
    _Kind("images_per_second", "images-per-second", "Speed", "images a second", from_zero=True, is_noisy=True),
    _Kind("milliseconds", "milliseconds", "Where a step's time goes", "milliseconds", from_zero=True, is_noisy=True),
    _Kind("learning_rate", "learning-rate", "Learning rate", "", logarithm=10),
    _Kind("loss_scale", "loss-scale", "Loss scale", "", logarithm=2),
)


def figure_titles() -> list[str]:
    """Of all figures that there may be."""
    return [kind.title for kind in _KINDS]


def make_figures(runs: Sequence[Run], smooth: int = 1) -> list[FigureContent]:
    """The figures for which a run has numbers.

    Args:
        smooth: updates over which the lines of loss, speed and times are means.
    """
    figures = [_make(kind, runs, smooth) for kind in _KINDS]
    return [figure for figure in figures if figure is not None]


def _make(kind: _Kind, runs: Sequence[Run], smooth: int) -> FigureContent | None:
    names = list(dict.fromkeys(name for run in runs for name in run.log.names(kind.field)))
    lines: dict[tuple[int, str], Line] = {}
    for place, run in enumerate(runs):
        for number, name in enumerate(names):
            line = _line(kind, run, name, Style(number if len(runs) == 1 else place), smooth)
            if line is not None:
                lines[place, name] = line
    if not lines:
        return None
    if len(runs) == 1:
        panels = [Panel("", list(lines.values()))]
        legend = [(name, line.style) for (_, name), line in lines.items() if name]
    else:
        panels = [Panel(name, [line for (_, own), line in lines.items() if own == name]) for name in names]
        panels = [panel for panel in panels if panel.lines]
        with_lines = {place for place, _ in lines}
        legend = [(run.name, Style(place)) for place, run in enumerate(runs) if place in with_lines]
    return FigureContent(
        kind.name,
        kind.title,
        kind.unit,
        panels,
        legend,
        mark=_MARK if any(len(line.marks_M) for line in lines.values()) else "",
        logarithm=kind.logarithm if _is_wide(lines.values()) else 0,
        from_zero=kind.from_zero,
        notes=_notes(kind, lines.values(), smooth),
    )


def _line(kind: _Kind, run: Run, name: str, style: Style, smooth: int) -> Line | None:
    series = run.log.series.get((kind.field, name))
    if series is None:
        return None
    points = _times(series.points(), kind.factor)
    marks_M = _marks(run, points) if kind.field == "loss" else np.empty(0)
    if series.finite == 0 and len(marks_M) == 0:
        return None
    if kind.is_noisy and smooth > 1:
        return Line(style, smoothed(points, smooth), points, marks_M)
    return Line(style, points, None, marks_M)


def _times(points: Points, factor: float) -> Points:
    if factor == 1.0:
        return points
    values = (factor * points.value_K, factor * points.low_K, factor * points.high_K)
    return Points(points.update_K, *values, points.entries_K)


def _marks(run: Run, loss: Points) -> np.ndarray:
    """The updates of entries that tell of a skipped update, or have no finite loss."""
    marks = [loss.update_K[loss.entries_K == 0]]
    if ("skipped", "") in run.log.series:
        skipped = run.log.series["skipped", ""].points()
        marks.append(skipped.update_K[skipped.high_K > 0])
    return np.unique(np.concatenate(marks))


def _is_wide(lines: Iterable[Line]) -> bool:
    """Whether the values are positive and differ by so large a factor that a linear axis hides the small ones."""
    all_points = [line.points for line in lines]
    lowest, highest = min(points.lowest for points in all_points), max(points.highest for points in all_points)
    return 0 < lowest and highest >= _WIDE * lowest


def _notes(kind: _Kind, lines: Iterable[Line], smooth: int) -> tuple[str, ...]:
    if not kind.is_noisy:
        return ()
    notes = []
    if smooth > 1:
        notes.append(f"Lines are means over the last {smooth:,} updates; pale: as logged.")
    if any(line.points.is_thinned for line in lines):
        notes.append("Each point is the mean of several entries; the band shows their range.")
    return tuple(notes)
