"""``docs/claims.md``, written from the results of ``claims.py``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from claims_figures import Runs
from claims_plots import write_plots
from claims_sections import SECTIONS
from claims_summary import summary
from claims_text import AGAIN, DATA, INTRODUCTION, LIMITS, NOTE_ON_DIFFERENCES, RECIPE

WIDTH = 120


def write_report(results: Sequence[dict[str, Any]], docs: Path) -> Path:
    """Writes ``claims.md`` and its plots into ``docs``; the path of the page."""
    runs = Runs(results)
    docs.mkdir(parents=True, exist_ok=True)
    plots = write_plots(runs, docs / "images")
    text = "\n\n".join(_wrapped(part) for part in _page(runs, plots) if part) + "\n"
    path = docs / "claims.md"
    unfinished = path.with_suffix(".md.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    return path


_KEPT = ("|", "#", "!", "    ", "```", "python benchmarks/")  # tables, headings, pictures, commands: as they are
_NUMBERS = tuple(f"{number}. " for number in range(1, 10))


def _wrapped(text: str) -> str:
    """Prose and list items in lines of the width that the other pages have."""
    lines: list[str] = []
    for line in _joined(text):
        if not line or line.startswith(_KEPT):
            lines.append(line)
        else:
            indent = "  " if line.startswith("- ") else "   " if line.startswith(_NUMBERS) else ""
            options = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": indent}
            lines += textwrap.wrap(_held_together(line), WIDTH, **options)
    return "\n".join(lines)


def _held_together(line: str) -> str:
    """No line ends within ``r = 0.1`` or ``86.42 ± 0.96``."""
    return re.sub(r" ([=±]) ", "\u00a0\\1\u00a0", line)


def _joined(text: str) -> list[str]:
    """Lines, those of one paragraph or list item as one."""
    lines: list[str] = []
    begins = (*_KEPT, "- ", *_NUMBERS)
    for line in text.splitlines():
        if lines and lines[-1] and line and not line.startswith(begins) and not lines[-1].startswith(_KEPT):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return lines


def _page(runs: Runs, plots: Sequence[str]) -> list[str]:
    sections = [section_of(runs) for section_of in SECTIONS]
    return [
        "# The paper's claims, tried",
        INTRODUCTION,
        "## In short",
        summary(runs),
        NOTE_ON_DIFFERENCES,
        "## How it is measured",
        _method(runs),
        *(part for section in sections for part in section.parts(plots)),
        "## What this does not show",
        LIMITS,
        "## Run it again",
        AGAIN,
    ]


def _method(runs: Runs) -> str:
    """The data and the recipe, in the numbers that the runs were made with."""
    by_data = {result["case"]["data"]["name"]: result for result in runs.results}
    lines = []
    for name, result in by_data.items():
        data, recipe = result["case"]["data"], result["case"]["data"]["recipe"]
        seen = recipe["updates"] * recipe["batch_size"]
        size = f"{result['training_images']:,} images of {result['identities']:,} labels, {seen:,} images seen"
        views = f"{seen / result['training_images']:.1f} epochs, {seen / result['identities']:.1f} of a label"
        lines.append(f"- **{name}**: {DATA[name].format(**data)} {size} ({views}).")
    recipe = next(iter(by_data.values()))["case"]["data"]["recipe"]
    seeds = sorted({result["case"]["seed"] for result in runs.results})
    seconds = [result["processor_seconds"] for result in runs.results]
    conditions = runs.results[0]["conditions"]
    powers = {1.0: "in a straight line", 2.0: "with the square of what is left"}
    texts = {
        "units": " + ".join(map(str, recipe["units"])),
        "channels": ", ".join(map(str, recipe["channels"][1:])),
        "falls": powers.get(recipe["power"], f"with the power {recipe['power']:g} of what is left"),
        "m_cosface": recipe["cosface"][2],
        "m_arcface": recipe["arcface"][1],
        "seeds": ", ".join(map(str, seeds)),
        "runs": len(runs.results),
        "minutes": f"{sum(seconds) / 60:.0f}",
        "least": f"{min(seconds):.0f}",
        "most": f"{max(seconds):.0f}",
    }
    return "\n".join(lines) + "\n\n" + RECIPE.format(**conditions | recipe | texts)
