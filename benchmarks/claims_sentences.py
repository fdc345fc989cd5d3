"""What the sections of ``docs/claims.md`` are made of: tables, and sentences that say what the figures say."""

from __future__ import annotations

from collections.abc import Sequence

from claims_figures import Runs, difference
from claims_grid import Arm

COLUMNS = {
    "accuracy": ("accuracy, %", 2),
    "own_center": ("cos to own center", 3),
    "nearest_center": ("largest cos between centers", 3),
}
NOISE_COLUMNS = COLUMNS | {
    "split_centers": ("cos of an identity's two centers", 3),
    "other_half": ("other center of the identity above 0.4", 3),
    "conflicts": ("any other center above 0.4", 3),
}


class Section:
    """A part of the page: what is compared, a table, a plot, and sentences of what follows."""

    def __init__(self, title: str, text: str, plot: str, table: str, conclusions: list[str]) -> None:
        self._title, self._text, self._plot, self.table = title, text, plot, table
        self._conclusions = conclusions

    def parts(self, plots: Sequence[str]) -> list[str]:
        """Its paragraphs; none where there are no runs."""
        if not self.table:
            return []
        picture = f"![{self._title}](images/{self._plot})" if self._plot in plots else ""
        found = "\n".join(f"- {line}" for line in self._conclusions)
        return [f"## {self._title}", self._text, self.table, picture, found]


def table(runs: Runs, rows: dict[str, Arm], columns: dict[str, tuple[str, int]] = COLUMNS) -> str:
    """Markdown; empty where there are no runs."""
    there = {label: arm for label, arm in rows.items() if runs.has(arm)}
    if not there:
        return ""
    lines = ["| | " + " | ".join(title for title, _ in columns.values()) + " |", "|---|" + "---|" * len(columns)]
    for label, arm in there.items():
        cells = [runs.text(arm, quantity, digits) for quantity, (_, digits) in columns.items()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


_TITLES = {
    "own_center": "Mean cosine to the own center",
    "nearest_center": "Largest cosine between centers",
    "split_centers": "Cosine of a split identity's two centers",
}


def compared(runs: Runs, quantity: str, arm: Arm, name: str, other: Arm, other_name: str) -> str:
    """«r = 0.1 reaches 85.10 ± 0.40 %, r = 1 85.90 ± 0.30 %; 0.80 less (…)»; empty where one of them has no run."""
    if not (runs.knows(arm, quantity) and runs.knows(other, quantity)):
        return ""
    digits, unit = (2, "\u00a0%") if quantity == "accuracy" else (3, "")
    found = difference(runs, arm, other, quantity)
    size = f"{abs(found.mean):.{digits}f} {'more' if found.mean > 0 else 'less'}"
    if found.low is None:
        told = "one seed has no deviation"
    else:
        told = "the seeds tell them apart" if found.outcome else "the seeds do not tell them apart"
        told = f"{found.interval(digits)}: {told}"
    value, other_value = (runs.text(part, quantity, digits, unit) for part in (arm, other))
    if quantity == "accuracy":
        return f"{name} reaches {value}, {other_name} {other_value}; {size} ({told})"
    return f"{_TITLES[quantity]}: {value} with {name}, {other_value} with {other_name}; {size} ({told})"


def cosines(runs: Runs, where: str, arm: Arm, name: str, other: Arm, other_name: str) -> list[str]:
    """What the two cosines say of two arms."""
    found = [compared(runs, quantity, arm, name, other, other_name) for quantity in ("own_center", "nearest_center")]
    return [f"**The two cosines{where}.** {found[0]}. {found[1]}."] if all(found) else []


def claim(words: dict[int, str], runs: Runs, arm: Arm, name: str, other: Arm, other_name: str) -> list[str]:
    """A conclusion from accuracy: the words for its outcome, then the figures."""
    sentence = compared(runs, "accuracy", arm, name, other, other_name)
    if not sentence:
        return []
    outcome = difference(runs, arm, other, "accuracy").outcome
    return [f"**{words[outcome]}** {capital(sentence)}."]


def capital(sentence: str) -> str:
    """The first letter in upper case, but for a symbol's."""
    return sentence if sentence.startswith("r =") else sentence[0].upper() + sentence[1:]


SHARES = {0.5: "half of the centers", 0.1: "a tenth of the centers", 0.02: "a fiftieth of the centers"}
_FEWER = {
    0: "{}: no difference in accuracy is seen.",
    1: "{}: better than with all centers.",
    -1: "{}: worse than with all centers.",
}


def fewer(share: str) -> dict[int, str]:
    """The words for what fewer centers than all do."""
    return {outcome: words.format(share) for outcome, words in _FEWER.items()}
