"""Results of models on targets as text: a table for a terminal, Markdown, CSV, JSON.

Targets that have the same metrics share a table; a row is a target and a model, and, for a comparison, what was
published on that target.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from partial_fc.evaluation.published import Published
from partial_fc.evaluation.targets import Metric, TargetResult

UNRESOLVED = "* without a single false accept: the set has too few pairs of two people for this rate"


@dataclass(frozen=True)
class Evaluated:
    """A model and what the targets say of it.

    Attributes:
        about: what the model is: file, input, embedding size; JSON values.
    """

    model: str
    results: tuple[TargetResult, ...]
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Cells as text, the first row the heading; the first `names` columns are text and the others numbers."""

    rows: list[list[str]]
    names: int

    def text(self) -> str:
        """For a terminal: names to the left, numbers to the right."""
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        lines = []
        for row in self.rows:
            cells = [
                cell.ljust(width) if place < self.names else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        """As Markdown's table."""
        heading, *rows = ([cell.replace("|", "\\|") for cell in row] for row in self.rows)
        rule = ["---" if place < self.names else "---:" for place in range(len(heading))]
        return "\n".join(f"| {' | '.join(row)} |" for row in [heading, rule, *rows])


def tables(evaluated: Sequence[Evaluated], published: Sequence[Published] = ()) -> list[Table]:
    """A table for each set of metrics, in the order of the targets."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for result in evaluated[0].results:
        groups.setdefault(tuple(metric.name for metric in result.metrics), []).append(result.target)
    return [_table(metrics, targets, evaluated, published) for metrics, targets in groups.items()]


def text_report(evaluated: Sequence[Evaluated], published: Sequence[Published] = ()) -> str:
    """What the terminal shows."""
    parts = [table.text() for table in tables(evaluated, published)]
    if _has_unresolved(evaluated):
        parts[-1] += f"\n{UNRESOLVED}"
    return "\n\n".join(parts)


def markdown_report(
    evaluated: Sequence[Evaluated], published: Sequence[Published], pictures: Sequence[tuple[str, str]]
) -> str:
    """The tables, what was counted and how, and the pictures, (title, file) each."""
    parts = ["# Evaluation", *(table.markdown() for table in tables(evaluated, published))]
    if _has_unresolved(evaluated):
        parts.append(UNRESOLVED.replace("*", "\\*", 1))
    for result in evaluated[0].results:
        counts = ", ".join(f"{count:,} {what}" for what, count in result.counts.items())
        parts.append(f"**{result.target}** ({result.kind}): {result.protocol}. {counts[0].upper()}{counts[1:]}.")
    sources = dict.fromkeys(f"{row.model}: {row.source}" for row in published)
    if sources:
        parts.append("Published: " + "; ".join(sources) + ".")
    parts += [f"## {title}\n\n![{title}]({file})" for title, file in pictures]
    return "\n\n".join(parts) + "\n"


def csv_report(evaluated: Sequence[Evaluated], published: Sequence[Published] = ()) -> str:
    """A line a model, target and metric; rates from 0 to 1."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "target", "kind", "metric", "value", "deviation", "is_rate", "is_resolved", "source"])
    for one in evaluated:
        for result in one.results:
            for metric in result.metrics:
                deviation = "" if metric.deviation is None else repr(metric.deviation)
                flags = [str(flag).lower() for flag in (metric.is_rate, metric.is_resolved)]
                row = [one.model, result.target, result.kind, metric.name, repr(metric.value), deviation, *flags]
                writer.writerow([*row, "measured"])
    for row in published:
        for (kind, name), percent in row.percent.items():
            targets = [result.target for result in evaluated[0].results if result.kind == kind]
            for target in targets:
                writer.writerow([row.model, target, kind, name, repr(percent / 100), "", "true", "true", row.source])
    return out.getvalue()


def json_report(evaluated: Sequence[Evaluated], published: Sequence[Published] = ()) -> dict[str, Any]:
    """`{"models": {MODEL: {…, "targets": {TARGET: {…}}}}, "published": […]}`; rates from 0 to 1."""
    models = {
        one.model: {**one.about, "targets": {result.target: _json_result(result) for result in one.results}}
        for one in evaluated
    }
    rows = [
        {
            "model": row.model,
            "source": row.source,
            "values": [
                {"kind": kind, "metric": name, "value": percent / 100} for (kind, name), percent in row.percent.items()
            ],
        }
        for row in published
    ]
    return {"models": models, "published": rows}


def _json_result(result: TargetResult) -> dict[str, Any]:
    metrics = {}
    for metric in result.metrics:
        entry: dict[str, Any] = {"value": metric.value, "is_rate": metric.is_rate}
        if metric.deviation is not None:
            entry["deviation"] = metric.deviation
        metrics[metric.name] = {**metric.details, **entry, "is_resolved": metric.is_resolved}
    return {
        "kind": result.kind,
        "protocol": result.protocol,
        "counts": dict(result.counts),
        "metrics": metrics,
        "details": dict(result.details),
    }


def _table(
    metrics: tuple[str, ...],
    targets: Sequence[str],
    evaluated: Sequence[Evaluated],
    published: Sequence[Published],
) -> Table:
    count = _first_count(evaluated[0], targets)
    with_models = len(evaluated) > 1 or bool(published)
    rows = [["target", *(["model"] if with_models else []), count, *metrics]]
    for target in targets:
        kind = ""
        for one in evaluated:
            result = next(result for result in one.results if result.target == target)
            kind = result.kind
            cells = [_cell(metric) for metric in result.metrics]
            rows.append([target, *([one.model] if with_models else []), str(result.counts.get(count, "")), *cells])
        for row in published:
            percents = [row.percent.get((kind, name)) for name in metrics]
            if any(percent is not None for percent in percents):
                cells = ["" if percent is None else f"{percent:.2f} " for percent in percents]
                rows.append([target, row.model, "", *cells])
    return Table(rows, 1 + with_models)


def _first_count(one: Evaluated, targets: Sequence[str]) -> str:
    result = next(result for result in one.results if result.target == targets[0])
    return next(iter(result.counts), "count")


def _cell(metric: Metric) -> str:
    if not metric.is_rate:
        return f"{metric.value:.2f} "
    deviation = "" if metric.deviation is None else f" ± {100 * metric.deviation:.2f}"
    return f"{100 * metric.value:.2f}{deviation}{' ' if metric.is_resolved else '*'}"


def _has_unresolved(evaluated: Sequence[Evaluated]) -> bool:
    return any(not metric.is_resolved for one in evaluated for result in one.results for metric in result.metrics)
