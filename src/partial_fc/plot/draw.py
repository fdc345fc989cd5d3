"""Figures as PNG, with their title and legend, and as SVG for a page, which has both as text."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from partial_fc.plot.figures import FigureContent, Line, Panel
from partial_fc.plot.palette import ALARM, AXIS, GRID, GROUND, TEXT, Style, variables
from partial_fc.plot.series import Points

_POINTS_PER_INCH = 72
_PNG_DOTS_PER_INCH = 144
_FEW_POINTS = 40
"""So many and fewer are dots on their line."""
_FEW_DECADES = 1000.0
"""A logarithmic axis of no more has numbers between the powers of ten."""


@dataclass(frozen=True)
class Layout:
    """How a figure is laid out; lengths in CSS pixels, of which text is 10 high.

    Attributes:
        width: of the whole.
        height: of a row of panels, where there is but one.
        row_height: of one of several.
        columns: the most panels in a row.
    """

    width: int
    height: int
    row_height: int
    columns: int


FULL = Layout(1320, 300, 240, 4)
HALF = Layout(640, 300, 190, 2)
PHONE = Layout(360, 250, 180, 1)


def draw_png(content: FigureContent) -> bytes:
    """The figure with title and legend, on white."""
    with _style():
        figure = _draw(content, HALF, title=content.title)
        _add_legend(figure, content)
        FigureCanvasAgg(figure)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=_PNG_DOTS_PER_INCH, facecolor=GROUND[0])
    return out.getvalue()


def draw_svg(content: FigureContent, layout: Layout) -> str:
    """An ``<svg>`` element for HTML: text as text, colours as the page's CSS variables, no reference outside itself."""
    with _style(salt=f"{content.name}-{layout.width}"):
        figure = _draw(content, layout)
        FigureCanvasSVG(figure)
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return _for_html(out.getvalue(), content.title)


@contextmanager
def _style(salt: str = "") -> Iterator[None]:
    """Equal input gives equal bytes: the ids in an SVG come from `salt`, which must differ between those of a page."""
    own = {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "text.color": TEXT[0],
        "axes.labelcolor": TEXT[0],
        "axes.edgecolor": AXIS[0],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": AXIS[0],
        "ytick.color": AXIS[0],
        "xtick.labelcolor": TEXT[0],
        "ytick.labelcolor": TEXT[0],
        "grid.color": GRID[0],
        "path.simplify": True,
    }
    with matplotlib.style.context(["default", own]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from current font")  # of a name in another script
        yield


def _draw(content: FigureContent, layout: Layout, title: str = "") -> Figure:
    panels = content.panels
    columns = min(layout.columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = layout.height if rows == 1 else rows * layout.row_height
    inches = (layout.width / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
    figure = Figure(figsize=inches, dpi=_POINTS_PER_INCH, layout="constrained")
    ticks = max(4, layout.width // columns // 80)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        _draw_panel(axes, panel, content)
        axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True, steps=[1, 2, 2.5, 5, 10]))
        is_lowest = number + columns >= len(panels)
        axes.set_xlabel("update" if is_lowest else "")
        axes.set_ylabel(content.unit if number % columns == 0 else "")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    return figure


def _draw_panel(axes: Axes, panel: Panel, content: FigureContent) -> None:
    for line in panel.lines:
        _draw_line(axes, line)
    axes.grid(True, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)
    if panel.title:
        axes.set_title(panel.title, loc="left", fontsize=10, parse_math=False)
    plain = FuncFormatter(lambda value, _: format_value(value))
    axes.xaxis.set_major_formatter(plain)
    lowest = min(line.points.lowest for line in panel.lines)
    highest = max(line.points.highest for line in panel.lines)
    if content.logarithm:
        axes.set_yscale("log", base=content.logarithm)
        axes.yaxis.set_minor_formatter(NullFormatter())
        if content.logarithm == 10 and highest > _FEW_DECADES * lowest:
            return  # powers, as matplotlib writes them
        if content.logarithm == 10:
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    elif lowest == highest > 0 and not content.unit:  # a setting that stayed what it was
        axes.set_yticks([0.0, lowest, 2 * lowest])
    elif content.from_zero:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(plain)


def _draw_line(axes: Axes, line: Line) -> None:
    colour = line.style.colour
    if line.raw is not None:
        axes.plot(line.raw.update_K, line.raw.value_K, color=colour, alpha=0.25, linewidth=0.8)
    if line.points.is_thinned:
        points = line.points
        axes.fill_between(points.update_K, points.low_K, points.high_K, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        line.points.update_K,
        line.points.value_K,
        **_line_style(line.style),
        marker="o",
        markersize=3.2,
        markevery=np.flatnonzero(_dots(line.points)).tolist(),
    )
    if len(line.marks_M):
        bottom = np.full(len(line.marks_M), 0.02)
        axes.plot(line.marks_M, bottom, transform=axes.get_xaxis_transform(), **_MARKS)


_MARKS = {"linestyle": "none", "marker": "|", "markersize": 7.0, "markeredgewidth": 1.2, "color": ALARM[0]}


def _line_style(style: Style) -> dict[str, object]:
    return {"color": style.colour, "linewidth": 1.6, "linestyle": (0, style.dashes) if style.dashes else "-"}


def _dots(points: Points) -> np.ndarray:
    """Which points are dots: all of a few, and those that no line leads to."""
    is_there_K = np.isfinite(points.value_K)
    if is_there_K.sum() <= _FEW_POINTS:
        return is_there_K
    beside = np.zeros_like(is_there_K)
    beside[1:] |= is_there_K[:-1]
    beside[:-1] |= is_there_K[1:]
    return is_there_K & ~beside


def format_value(value: float) -> str:
    """A tick: 0.25, 87.5, 1,500, 65,536, 25k, 1.2M."""
    for factor, letter, least in ((1e6, "M", 1e6), (1e3, "k", 1e4)):
        rounded = round(value / factor, 2)
        if least <= abs(value) < 1e10 and rounded * factor == value:
            return f"{rounded:,g}{letter}"
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.4g}"


def _add_legend(figure: Figure, content: FigureContent) -> None:
    handles = [Line2D([], [], **_line_style(style)) for _, style in content.legend]
    names = [name for name, _ in content.legend]
    if content.mark:
        handles.append(Line2D([], [], **_MARKS))
        names.append(content.mark)
    if not handles:
        return
    columns = max(1, min(4, 100 // (6 + max(map(len, names)))))
    # A name that begins with an underscore is none for matplotlib, and one with dollars a formula: set afterwards.
    legend = figure.legend(
        handles, ["name"] * len(names), loc="outside lower left", ncols=columns, frameon=False, fontsize=9
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _for_html(svg: str, title: str) -> str:
    body = svg[svg.index("<svg") :]
    view_box = re.search(r'viewBox="([^"]+)"', body)
    assert view_box is not None
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", body)
    for variable, (light, _) in variables().items():
        body = body.replace(light, f"var({variable})")
    return f'<svg viewBox="{view_box[1]}" role="img" aria-label="{title}">{body.strip()}'
