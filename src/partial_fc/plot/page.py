"""One HTML page with everything: tables, figures as SVG, style. It fetches nothing and runs no script.

Its own policy forbids both, so that a page which was sent to somebody stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from partial_fc.plot.draw import FULL, HALF, PHONE, draw_svg
from partial_fc.plot.figures import FigureContent, figure_titles
from partial_fc.plot.palette import Style, variables
from partial_fc.plot.runs import Run
from partial_fc.plot.table import Row, last_figures, remarks, settings_rows

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE_SHEET = Path(__file__).with_name("page.css")


def make_page(runs: Sequence[Run], figures: Sequence[FigureContent], title: str) -> str:
    """The page's HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{_variables()}
{_STYLE_SHEET.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(_subtitle(runs))}</p>
</header>
<main>
{_overview(runs)}
<section class="figures">
{"".join(_figure(figure, is_full) for figure, is_full in zip(figures, _are_full(figures), strict=True))}</section>
{_missing(figures)}</main>
</body>
</html>
"""


def _variables() -> str:
    light = "; ".join(f"{name}: {pair[0]}" for name, pair in variables().items())
    dark = "; ".join(f"{name}: {pair[1]}" for name, pair in variables().items())
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def _subtitle(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs, up to update {max(run.log.last_update for run in runs):,}"
    log = runs[0].log
    return f"{log.path}, updates {log.first_update:,} to {log.last_update:,}, {log.entries:,} entries"


def _overview(runs: Sequence[Run]) -> str:
    first, others = settings_rows(runs)
    last = last_figures(runs)
    parts = [_block("Last figures", _table(runs, last) if len(runs) > 1 else _tiles(last), is_broad=len(runs) == 1)]
    if first:
        differing, same = _split(first)
        if differing:
            parts.append(_block("Settings that differ", _table(runs, differing)))
        title = "Settings" if len(runs) == 1 else "Settings in common"
        parts.append(_block(title, _tiles(same), is_broad=True) if same else "")
    if others:
        differing, same = _split(others)
        inside = (_table(runs, differing) if differing else "") + (_tiles(same) if same else "")
        parts.append(f"<details><summary>All other settings</summary>{inside}</details>")
    notes = [(run.name, remark) for run in runs for remark in remarks(run)]
    if notes:
        items = "".join(f"<li>{escape(_remark(len(runs), name, remark))}</li>" for name, remark in notes)
        parts.append(f'<ul class="remarks">{items}</ul>')
    return f'<section class="card overview">\n{"".join(parts)}\n</section>'


def _block(title: str, content: str, *, is_broad: bool = False) -> str:
    return f'<div class="block{" broad" if is_broad else ""}"><h2>{escape(title)}</h2>{content}</div>'


def _split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    return [row for row in rows if row.differs], [row for row in rows if not row.differs]


def _remark(runs: int, name: str, remark: str) -> str:
    return f"{name}: {remark}" if runs > 1 else remark[0].upper() + remark[1:]


def _table(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    """With a column a run."""
    heading = "".join(
        f'<th scope="col">{_swatch(Style(number))}{escape(run.name)}</th>' for number, run in enumerate(runs)
    )
    lines = []
    for row in rows:
        cells = "".join(f"<td>{_with_aside(cell)}</td>" for cell in row.cells)
        lines.append(f'<tr><th scope="row">{_breakable(row.name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr><td></td>{heading}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _tiles(rows: Sequence[Row]) -> str:
    """Of rows with one value for all."""
    tiles = (f"<div><dt>{_breakable(row.name)}</dt><dd>{_with_aside(row.common)}</dd></div>" for row in rows)
    return f'<dl class="tiles">{"".join(tiles)}</dl>'


def _with_aside(cell: str) -> str:
    """What stands in brackets at the end of a cell is less than what stands before."""
    main, bracket, rest = cell.partition(" (")
    if bracket and cell.endswith(")"):
        return f"{_breakable(main)} <small>{_breakable(rest[:-1])}</small>"
    return _breakable(cell)


def _breakable(text: str) -> str:
    """Text whose lines may break within a path."""
    return escape(text).replace("/", "/<wbr>")


def _are_full(figures: Sequence[FigureContent]) -> list[bool]:
    """Which figures take the whole width: those of many panels, and the first where its half would stay empty."""
    are_full = [len(figure.panels) > 2 for figure in figures]
    if are_full.count(False) % 2 == 1:
        are_full[are_full.index(False)] = True
    return are_full


def _figure(figure: FigureContent, is_full: bool) -> str:
    entries = [f"<li>{_swatch(style)}{escape(name)}</li>" for name, style in figure.legend]
    if figure.mark:
        entries.append(f"<li>{_swatch_of('M11 0V8', '--alarm')}{escape(figure.mark)}</li>")
    legend = f'<ul class="legend">{"".join(entries)}</ul>' if entries else ""
    notes = f'<p class="note">{escape(" ".join(figure.notes))}</p>' if figure.notes else ""
    layouts = {"half": HALF, "phone": PHONE} | ({"full": FULL} if is_full else {})
    drawings = "".join(f'<div class="{name}">{draw_svg(figure, layout)}</div>\n' for name, layout in layouts.items())
    return f"""<figure class="card{" is-full" if is_full else ""}" id="{figure.name}">
<figcaption><h2>{escape(figure.title)}</h2>{legend}</figcaption>
{drawings}{notes}</figure>
"""


def _swatch(style: Style) -> str:
    return _swatch_of("M1 4H21", style.variable, style.dashes)


def _swatch_of(path: str, variable: str, dashes: Sequence[float] = ()) -> str:
    pattern = f' stroke-dasharray="{" ".join(f"{2 * length:g}" for length in dashes)}"' if dashes else ""
    return (
        '<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true">'
        f'<path d="{path}" stroke="var({variable})"{pattern}/></svg>'
    )


def _missing(figures: Sequence[FigureContent]) -> str:
    missing = [title for title in figure_titles() if title not in {figure.title for figure in figures}]
    return f'<p class="note">Not in the log: {escape(", ".join(missing).lower())}.</p>\n' if missing else ""
