"""The table above the figures: the last figures of each run, and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from partial_fc.plot.names import clean
from partial_fc.plot.runs import Run, tell_broken
from partial_fc.plot.settings import as_text

# What one looks for first.
_FIRST = (
    *("network", "loss", "head", "dataset", "identities", "ranks", "batch_size", "accumulate", "sample_ratio"),
    *("queue_size", "embedding_size", "lr", "schedule", "lr_steps", "max_update", "momentum", "weight_decay", "fp16"),
    *("storage", "seed"),
)
# Where a run lies and what it writes: another value of these makes no other run.
_ASIDE = (
    *("models_root", "resume", "stop_update", "save_every_updates", "keep", "save_memory_mib", "workers"),
    *("log_every_updates", "verify_every_updates", "stall_timeout_seconds"),
)
_DASH = "–"
_UNKNOWN = "?"
_PERCENT = "\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Row:
    """A line of a table: a cell a run.

    Attributes:
        differs: whether the runs differ in it, those left aside of which it is not known.
        common: the cell of all runs, where they do not differ.
    """

    name: str
    cells: list[str]

    @property
    def differs(self) -> bool:
        return len(set(self.cells) - {_UNKNOWN}) > 1

    @property
    def common(self) -> str:
        return next(cell for cell in self.cells if cell != _UNKNOWN)


def last_figures(runs: Sequence[Run]) -> list[Row]:
    """What the logs end with."""
    rows = [Row("updates", [_updates(run) for run in runs])]
    if any(run.log.last_epoch is not None for run in runs):
        epochs = [run.log.last_epoch for run in runs]
        rows.append(Row("epoch", [_DASH if epoch is None else f"{epoch:,}" for epoch in epochs]))
    rows.append(Row("loss", [_last(run, "loss", lowest=True) for run in runs]))
    for name in dict.fromkeys(name for run in runs for name in run.log.names("accuracy")):
        rows.append(Row(f"accuracy on {name}", [_accuracy(run, name) for run in runs]))
    rows.append(Row("images a second", [_mean(run, "images_per_second") for run in runs]))
    for part in dict.fromkeys(name for run in runs for name in run.log.names("milliseconds")):
        rows.append(Row(f"{part}, ms a step", [_milliseconds(run, part) for run in runs]))
    rows.append(Row("learning rate", [_last(run, "learning_rate") for run in runs]))
    rows.append(Row("loss scale", [_last(run, "loss_scale") for run in runs]))
    rows.append(Row("skipped updates", [_skipped(run) for run in runs]))
    return [row for row in rows if any(cell != _DASH for cell in row.cells)]


def settings_rows(runs: Sequence[Run]) -> tuple[list[Row], list[Row]]:
    """The settings that matter most, or in which the runs differ; and the others."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    ordered = [name for name in _FIRST if name in names] + [name for name in names if name not in _FIRST]
    rows = [Row(clean(name), [_setting(run, name) for run in runs]) for name in ordered]
    rows = [row for row in rows if row.differs or row.common != _DASH]
    first = [row for row in rows if row.name in _FIRST or (row.differs and row.name not in _ASIDE)]
    return first, [row for row in rows if row not in first]


def remarks(run: Run) -> list[str]:
    """What is to be known of how a run's log was read."""
    log, found = run.log, []
    if log.broken:
        found.append(tell_broken(log))
    if log.replaced:
        entries = "entry is" if log.replaced == 1 else "entries are"
        found.append(f"{log.replaced:,} {entries} of updates that a resumed run made once more: the later ones count")
    loss = log.series.get(("loss", ""))
    if loss is not None and loss.not_finite:
        found.append(f"the loss is not finite in {loss.not_finite:,} of {loss.not_finite + loss.finite:,} entries")
    found += [f"only the first names of {field} are drawn: there are too many" for field in sorted(log.left_out)]
    if not run.settings:
        found.append("its settings are not known: they are written with its first checkpoint")
    return found


def _setting(run: Run, name: str) -> str:
    if not run.settings:
        return _UNKNOWN
    return as_text(run.settings[name]) if name in run.settings else _DASH


def _updates(run: Run) -> str:
    planned = run.settings.get("max_update")
    last = run.log.last_update
    if type(planned) is int and planned >= last > 0:
        return f"{last:,} of {planned:,}"
    return f"{last:,}"


def _last(run: Run, field: str, *, lowest: bool = False) -> str:
    series = run.log.series.get((field, ""))
    if series is None or series.last is None:
        return _DASH
    text = _number(series.last[1])
    if lowest and series.lowest[0] != series.last[0]:
        text += f" (lowest {_number(series.lowest[1])}, update {series.lowest[0]:,})"
    return text


def _accuracy(run: Run, name: str) -> str:
    series = run.log.series.get(("accuracy", name))
    if series is None or series.last is None:
        return _DASH
    update, accuracy = series.last
    text = f"{100 * accuracy:.2f}{_PERCENT}"
    deviation = run.log.series.get(("accuracy_std", name))
    if deviation is not None and deviation.last is not None and deviation.last[0] == update:
        text += f" ± {100 * deviation.last[1]:.2f}"
    if series.highest[1] > accuracy:
        text += f" (best {100 * series.highest[1]:.2f}{_PERCENT}, update {series.highest[0]:,})"
    return text


def _mean(run: Run, field: str) -> str:
    series = run.log.series.get((field, ""))
    return _DASH if series is None or series.last is None else f"{_short(series.last[1])} (mean {_short(series.mean)})"


def _milliseconds(run: Run, part: str) -> str:
    series = run.log.series.get(("milliseconds", part))
    if series is None or series.mean is None:
        return _DASH
    means = [run.log.series["milliseconds", name].mean or 0.0 for name in run.log.names("milliseconds")]
    share = f" ({100 * series.mean / sum(means):.0f}{_PERCENT})" if sum(means) > 0 else ""
    return f"{_short(series.mean)}{share}"


def _skipped(run: Run) -> str:
    series = run.log.series.get(("skipped", ""))
    return _DASH if series is None or series.mean is None else f"{series.total:,.0f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.4g}"


def _short(value: float) -> str:
    """With three digits, and all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
