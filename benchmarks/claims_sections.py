"""The sections of ``docs/claims.md``: a table, a plot, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from claims_figures import Runs, difference
from claims_grid import FILTER_COSINE, RATIOS, Arm

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
        self._title, self._text, self._plot, self._table = title, text, plot, table
        self._conclusions = conclusions

    def parts(self, plots: Sequence[str]) -> list[str]:
        """Its paragraphs; none where there are no runs."""
        if not self._table:
            return []
        picture = f"![{self._title}](images/{self._plot})" if self._plot in plots else ""
        found = "\n".join(f"- {line}" for line in self._conclusions)
        return [f"## {self._title}", self._text, self._table, picture, found]


def _table(runs: Runs, rows: dict[str, Arm], columns: dict[str, tuple[str, int]] = COLUMNS) -> str:
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


def _compared(runs: Runs, quantity: str, arm: Arm, name: str, other: Arm, other_name: str) -> str:
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


def _cosines(runs: Runs, where: str, arm: Arm, name: str, other: Arm, other_name: str) -> list[str]:
    """What the two cosines say of two arms."""
    found = [_compared(runs, quantity, arm, name, other, other_name) for quantity in ("own_center", "nearest_center")]
    return [f"**The two cosines{where}.** {found[0]}. {found[1]}."] if all(found) else []


def _claim(words: dict[int, str], runs: Runs, arm: Arm, name: str, other: Arm, other_name: str) -> list[str]:
    """A conclusion from accuracy: the words for its outcome, then the figures."""
    sentence = _compared(runs, "accuracy", arm, name, other, other_name)
    if not sentence:
        return []
    outcome = difference(runs, arm, other, "accuracy").outcome
    return [f"**{words[outcome]}** {_capital(sentence)}."]


def _capital(sentence: str) -> str:
    """The first letter in upper case, but for a symbol's."""
    return sentence if sentence.startswith("r =") else sentence[0].upper() + sentence[1:]


_SHARES = {0.5: "half of the centers", 0.1: "a tenth of the centers", 0.02: "a fiftieth of the centers"}
_FEWER = {
    0: "{}: no difference in accuracy is seen.",
    1: "{}: better than with all centers.",
    -1: "{}: worse than with all centers.",
}


def _fewer(share: str) -> dict[int, str]:
    return {outcome: words.format(share) for outcome, words in _FEWER.items()}


def _ratios(runs: Runs) -> Section:
    full = Arm("synthetic")
    conclusions = []
    for ratio in RATIOS[1:]:
        arm = Arm("synthetic", sample_ratio=ratio)
        conclusions += _claim(_fewer(_capital(_SHARES[ratio])), runs, arm, f"r = {ratio:g}", full, "r = 1")
    conclusions += _cosines(runs, "", Arm("synthetic", sample_ratio=0.1), "r = 0.1", full, "r = 1")
    return Section(
        "Fewer and fewer centers",
        "Synthetic faces, CosFace, PPRN. Bands are ± a deviation over seeds.",
        "claims-curves.png",
        _table(runs, {f"r = {ratio:g}": Arm("synthetic", sample_ratio=ratio) for ratio in RATIOS}),
        conclusions,
    )


def _longer(runs: Runs) -> Section:
    tenth, full = Arm("longer", sample_ratio=0.1), Arm("longer")
    conclusions = _claim(_fewer("Trained longer, a tenth of the centers"), runs, tenth, "r = 0.1", full, "r = 1")
    conclusions += _cosines(runs, ", trained longer", tenth, "r = 0.1", full, "r = 1")
    rows = {f"r = {arm.sample_ratio:g}": arm for arm in (full, tenth)}
    text = "Does what is seen in so few steps stay? The same faces, CosFace, PPRN, three times the updates."
    return Section("Trained longer", text, "claims-longer.png", _table(runs, rows), conclusions)


def _samplers(runs: Runs) -> Section:
    words = {
        0: "Positives kept or not: no difference in accuracy is seen at r = {}.",
        1: "Positives must be kept at r = {}.",
        -1: "Positives need not be kept at r = {}: purely random sampling is better.",
    }
    rows, conclusions = {}, []
    for ratio in RATIOS[1:]:
        pprn, uniform = Arm("synthetic", sample_ratio=ratio), Arm("synthetic", sampler="uniform", sample_ratio=ratio)
        if runs.has(uniform):
            rows |= {f"r = {ratio:g}, PPRN": pprn, f"r = {ratio:g}, purely random": uniform}
        told = {outcome: text.format(f"{ratio:g}") for outcome, text in words.items()}
        conclusions += _claim(told, runs, pprn, "PPRN", uniform, "purely random sampling")
    pprn, uniform = (Arm("synthetic", sampler=sampler, sample_ratio=0.1) for sampler in ("pprn", "uniform"))
    conclusions += _cosines(runs, ", r = 0.1", pprn, "PPRN", uniform, "purely random sampling")
    return Section(
        "Positives kept, or left to chance",
        "Synthetic faces, CosFace. Purely random sampling draws as many centers and does not look at the batch: an "
        "image whose own center is not drawn, a share 1 − r of all, has no part in the loss of that step.",
        "claims-ratios.png",
        _table(runs, rows),
        conclusions,
    )


def _margins(runs: Runs) -> Section:
    rows = {f"{title}, r = {ratio:g}": Arm("synthetic", loss=loss, sample_ratio=ratio)
            for loss, title in (("cosface", "CosFace"), ("arcface", "ArcFace")) for ratio in (1.0, 0.1)}  # fmt: skip
    tenth, full = (Arm("synthetic", loss="arcface", sample_ratio=ratio) for ratio in (0.1, 1.0))
    conclusions = _claim(_fewer("ArcFace, a tenth of the centers"), runs, tenth, "r = 0.1", full, "r = 1")
    return Section(
        "Another margin",
        "Synthetic faces, PPRN. (The two losses are not compared with each other: their margins were not tuned.)",
        "",
        _table(runs, rows) if conclusions else "",
        conclusions,
    )


NOISE_SETS = {"synthetic": ("noisy", "noise"), "longer": ("noisy-longer", "noise, trained longer")}


def _noise(runs: Runs) -> Section:
    rows, conclusions = {}, []
    for clean, (noisy, where) in NOISE_SETS.items():
        for ratio in (1.0, 0.1):
            plain = Arm(noisy, sample_ratio=ratio)
            filtered = replace(plain, filter_cosine=FILTER_COSINE)
            if runs.has(plain) or runs.has(filtered):
                rows[f"{clean}, r = {ratio:g}"] = Arm(clean, sample_ratio=ratio)
                rows |= {f"{noisy}, r = {ratio:g}": plain, f"{noisy}, r = {ratio:g}, filter": filtered}
            conclusions += _filter(runs, plain, filtered, f"{where[0].upper()}{where[1:]}, r = {ratio:g}")
        conclusions += _what_the_filter_meets(runs, noisy, where)
        words = {
            0: f"A tenth of the centers, {where}: no difference in accuracy is seen.",
            1: f"A tenth of the centers, {where}: better than with all centers.",
            -1: f"A tenth of the centers, {where}: worse than with all centers.",
        }
        tenth, full = Arm(noisy, sample_ratio=0.1), Arm(noisy)
        conclusions += _claim(words, runs, tenth, "without the filter r = 0.1", full, "r = 1")
    return Section(
        "Noisy labels, and the filter",
        f"CosFace, PPRN; the filter leaves negatives with a cosine above {FILTER_COSINE:g} out of the softmax. Of a "
        "split identity each center is a negative for the images under the other one: without a filter they are "
        "pushed apart. The last two columns are shares of the fixed training images at the end of training: of those "
        "whose identity is split, how many have its other center above 0.4, which is what the filter is for; and of "
        "all, how many have any other center above 0.4. The filter leaves these out when they are sampled. Held-out "
        "pairs are the same, and clean, in all rows.",
        "claims-noise.png",
        _table(runs, rows, NOISE_COLUMNS) if conclusions else "",
        conclusions,
    )


def _filter(runs: Runs, plain: Arm, filtered: Arm, where: str) -> list[str]:
    """What the filter changes at one ratio: accuracy, and the centers of split identities."""
    words = {
        0: f"{where}: the filter makes no difference in accuracy that is seen.",
        1: f"{where}: the filter helps.",
        -1: f"{where}: the filter harms.",
    }
    found = _claim(words, runs, filtered, "with the filter training", plain, "without it")
    split = _compared(runs, "split_centers", filtered, "the filter", plain, "none")
    return [f"{found[0]} {split}."] if found else []


def _what_the_filter_meets(runs: Runs, noisy: str, where: str) -> list[str]:
    """How many images have a center above the filter's cosine at the end, and whose it is."""
    plain, filtered = Arm(noisy), Arm(noisy, filter_cosine=FILTER_COSINE)
    if not (runs.knows(plain, "other_half") and runs.knows(filtered, "other_half")):
        return []
    half, any_other = (
        [100 * runs.values(arm, name).mean() for arm in (filtered, plain)] for name in ("other_half", "conflicts")
    )
    seldom = " What it leaves out is seldom the center that it is meant for." if 10 * half[0] < any_other[0] else ""
    return [
        f"**What the filter meets, {where}.** At the end of training with r = 1, {half[0]:.1f}\u00a0% of the images of "
        f"split identities have their identity's other center above {FILTER_COSINE:g} ({half[1]:.1f}\u00a0% without "
        f"the filter), and {any_other[0]:.1f}\u00a0% of all images have some other center above it "
        f"({any_other[1]:.1f}\u00a0% without the filter).{seldom}"
    ]


def _lfw(runs: Runs) -> Section:
    rows = {f"r = {ratio:g}": Arm("lfw", sample_ratio=ratio) for ratio in RATIOS}
    uniform, tenth, full = Arm("lfw", sampler="uniform", sample_ratio=0.1), Arm("lfw", sample_ratio=0.1), Arm("lfw")
    rows["r = 0.1, purely random"] = uniform
    conclusions = []
    for ratio in RATIOS[1:]:
        arm = Arm("lfw", sample_ratio=ratio)
        conclusions += _claim(_fewer(f"LFW, {_SHARES[ratio]}"), runs, arm, f"r = {ratio:g}", full, "r = 1")
    words = {
        0: "LFW, positives kept or not: no difference in accuracy is seen at r = 0.1.",
        1: "LFW: positives must be kept at r = 0.1.",
        -1: "LFW: positives need not be kept at r = 0.1.",
    }
    conclusions += _claim(words, runs, tenth, "PPRN", uniform, "purely random sampling")
    conclusions += _cosines(runs, ", LFW", tenth, "r = 0.1", full, "r = 1")
    text = (
        "CosFace. 4,038 people, of whom some 1,150 have more than one image. (The plot is that under "
        "*Positives kept, or left to chance*.)"
    )
    return Section("Real faces: LFW", text, "", _table(runs, rows), conclusions)


SECTIONS = (_ratios, _longer, _samplers, _margins, _noise, _lfw)
"""Each makes its section of the runs."""
