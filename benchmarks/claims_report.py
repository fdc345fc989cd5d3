"""``docs/claims.md``, written from the results of ``claims.py``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from claims_figures import Runs, difference
from claims_grid import FILTER_COSINE, RATIOS, Arm
from claims_plots import write_plots

WIDTH = 120
COLUMNS = {
    "accuracy": ("accuracy, %", 2, ""),
    "own_center": ("cos to own center", 3, ""),
    "nearest_center": ("largest cos between centers", 3, ""),
}
NOISE_COLUMNS = COLUMNS | {
    "split_centers": ("cos of an identity's two centers", 3, ""),
    "conflicts": ("images with a negative above 0.4", 3, ""),
}


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


_NUMBERS = tuple(f"{number}. " for number in range(1, 10))


def _wrapped(text: str) -> str:
    """Prose and list items in lines of the width that the other pages have."""
    lines: list[str] = []
    for line in _joined(text):
        if not line or line.startswith(("|", "#", "!", "    ")):
            lines.append(line)
        else:
            indent = "  " if line.startswith("- ") else "   " if line.startswith(_NUMBERS) else ""
            options = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": indent}
            lines += textwrap.wrap(line, WIDTH, **options)
    return "\n".join(lines)


def _joined(text: str) -> list[str]:
    """Lines, those of one paragraph or list item as one."""
    lines: list[str] = []
    begins = ("|", "#", "!", "    ", "- ", *_NUMBERS)
    for line in text.splitlines():
        if lines and lines[-1] and line and not line.startswith(begins) and not lines[-1].startswith(begins[:4]):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return lines


def _page(runs: Runs, plots: Sequence[str]) -> list[str]:
    sections = [_ratios(runs), _longer(runs), _samplers(runs), _margins(runs), _noise(runs), _lfw(runs)]
    conclusions = [line for section in sections for line in section.conclusions]
    return [
        "# The paper's claims, tried",
        _INTRODUCTION,
        "## In short",
        "\n".join(f"- {line}" for line in conclusions),
        _NOTE_ON_DIFFERENCES,
        "## How it is measured",
        _method(runs),
        *(part for section in sections for part in section.parts(plots)),
        "## What this does not show",
        _LIMITS,
        "## Run it again",
        _AGAIN,
    ]


_INTRODUCTION = """\
*Partial FC* ([arXiv 2010.05222](https://arxiv.org/abs/2010.05222)) trains a face recognition network by classification
over all its identities, and lets only a part of the class centers take part in each step: those of the batch's own
identities, and randomly drawn others up to a share `r` of all (*positive plus randomly negative*, PPRN). It claims that

1. a tenth of the centers is enough: the network is as good as with all of them;
2. what matters is that the positive centers are always among them: purely random sampling is worse;
3. the reason shows in two cosines. Embeddings come as close to the centers of their own identities as with all
   centers, and the centers are as far from each other;
4. this does not hang on one margin: it holds for CosFace and for ArcFace.

Its second paper (*Killing Two Birds with One Stone*, CVPR 2022,
[arXiv 2203.15565](https://arxiv.org/abs/2203.15565)) adds that sampling helps with noisy labels: a negative center
that is in truth of the same person pushes embeddings the wrong way, and fewer negatives hold fewer of those. Negatives
with a cosine above 0.4 can be left out of the softmax altogether.

This page tries these claims with this project's own parts, on networks and data that two CPU cores train in about an
hour, and says what came out."""

_NOTE_ON_DIFFERENCES = """\
*mean ± deviation* is over seeds (the sample's, divisor n − 1). The interval behind a difference of means is its 95 %
interval by Welch's t; where it holds 0, the seeds do not tell the two apart, which is not the same as their being
equal. There are some twenty such intervals on this page: about one of them may miss by chance."""

_LIMITS = """\
Small networks, small images, some eight images of an identity (*longer*: 23), and some 10,000 identities: the
embeddings are far from what longer training would give, as their cosines to their own centers say, and a difference
that grows or vanishes later is not seen here. The paper trains on 360,232 identities and more, where a tenth of the
centers still is 36,000 negatives a step; a tenth of 10,000 is 1,000. What a given *number* of negatives does is closer
to what is measured here than what a given *share* does. One rank holds all centers: with several ranks each samples
from its own part, as the paper does, which changes which negatives are drawn and not how many."""

_AGAIN = """\
    python benchmarks/claims.py                     all runs that are missing, then this page
    python benchmarks/claims.py --only noisy        a part of them
    python benchmarks/claims.py --report-only       this page from the finished runs
    python benchmarks/claims.py --quick             all of it in miniature, elsewhere: that it works

The figures of every run are in `benchmarks/results/claims/`, a JSON file each, with what it was made from; a run that
is there is not run again, so that the command goes on where it was killed."""


class _Section:
    """A part of the page.

    Attributes:
        conclusions: sentences, which the page begins with, too.
    """

    def __init__(self, title: str, text: str, plot: str, table: str, conclusions: list[str]) -> None:
        self._title, self._text, self._plot, self._table = title, text, plot, table
        self.conclusions = conclusions

    def parts(self, plots: Sequence[str]) -> list[str]:
        """Its paragraphs; none where there are no runs."""
        if not self._table:
            return []
        picture = f"![{self._title}](images/{self._plot})" if self._plot in plots else ""
        return [f"## {self._title}", self._text, self._table, picture]


def _method(runs: Runs) -> str:
    """The data and the recipe, in the numbers that the runs were made with."""
    by_data = {result["case"]["data"]["name"]: result for result in runs.results}
    lines = []
    for name, result in by_data.items():
        data, recipe = result["case"]["data"], result["case"]["data"]["recipe"]
        seen = recipe["updates"] * recipe["batch_size"]
        size = f"{result['training_images']:,} images of {result['identities']:,} labels, {seen:,} images seen"
        views = f"{seen / result['training_images']:.1f} epochs, {seen / result['identities']:.1f} of a label"
        lines.append(f"- **{name}**: {_DATA[name].format(**data)} {size} ({views}).")
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
    return "\n".join(lines) + "\n\n" + _RECIPE.format(**conditions | recipe | texts)


_DATA = {
    "synthetic": "faces that the project draws itself (`partial_fc.data.synthetic_faces`);",
    "noisy": "the same images with noisy labels: {wrong_labels:.0%} of the images carry the label of another identity, "
    "drawn at random, and {split_identities:.0%} of the identities are split, every second image of them under a "
    "second label, as when two collections with the same people are joined;",
    "longer": "as synthetic, trained longer;",
    "lfw": "Labeled Faces in the Wild, `peopleDevTrain`, verified on 1,200 pairs of `peopleDevTest`; most of its "
    "people have one image;",
}
_RECIPE = """\
Every arm on a data set is trained by one recipe: an IResNet with {units} units of {channels} channels on
{image_size}×{image_size} pixels, embeddings of {embedding_size} numbers, batches of {batch_size}, SGD with momentum
{momentum:g} and weight decay {weight_decay:g}, a learning rate that falls from {learning_rate:g} to 0 {falls}, and
s = {scale:g}; the margin is m = {m_cosface:g} for CosFace and m = {m_arcface:g} for ArcFace, smaller than in long
training, and alike for all arms. The seeds are {seeds}: a seed decides the first weights, the order of the images, their mirroring and the
sampled negatives; arms of one seed see the same images in the same order. `PartialFC`, `Backbone`, `SGD`,
`TrainingLoader` and `Trainer` are those that `partial_fc.train` is made of; a run is one process, one rank, one thread.

Measured at the end, and on the way for the curves:

- *accuracy* on held-out pairs of people that training does not see: ten folds, each judged by the threshold that is
best on the other nine;
- *cos to own center*: mean over {own_images:,} fixed training images (of those whose label is right) of the cosine
between the image's embedding and the center of its label, whether the image has had its turn in training or not;
- *largest cos between centers*: mean over {nearest_centers:,} fixed centers of the largest cosine with any other of all
centers. Lower is further apart.

{runs} runs took {minutes} minutes of a processor ({cpu}, {cores} cores, MXNet {mxnet}), {least} to {most} seconds each.
"""


def _table(runs: Runs, rows: dict[str, Arm], columns: dict[str, tuple[str, int, str]] = COLUMNS) -> str:
    """Markdown; empty where there are no runs."""
    there = {label: arm for label, arm in rows.items() if runs.has(arm)}
    if not there:
        return ""
    lines = ["| | " + " | ".join(title for title, _, _ in columns.values()) + " |", "|---|" + "---|" * len(columns)]
    for label, arm in there.items():
        cells = [runs.text(arm, quantity, digits, sign) for quantity, (_, digits, sign) in columns.items()]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _compared(runs: Runs, quantity: str, arm: Arm, name: str, other: Arm, other_name: str) -> str:
    """«r = 0.1 reaches 85.1 ± 0.4 % and r = 1 85.9 ± 0.3 %: 0.8 less …»; empty where one of them has no run."""
    if not (runs.has(arm) and runs.has(other)):
        return ""
    digits, unit = (2, "\u00a0%") if quantity == "accuracy" else (3, "")
    found = difference(runs, arm, other, quantity)
    size = f"{abs(found.mean):.{digits}f} {'more' if found.mean > 0 else 'less'}"
    if found.low is None:
        told = "one seed has no deviation"
    else:
        interval = f"{found.low:+.{digits}f} to {found.high:+.{digits}f}".replace("-", "−")
        told = f"{interval}: " + ("the seeds tell them apart" if found.outcome else "the seeds do not tell them apart")
    values = [runs.text(part, quantity, digits, unit) for part in (arm, other)]
    return f"{name} {_VERBS[quantity]} {values[0]}, {other_name} {values[1]}; {size} ({told})"


_VERBS = {
    "accuracy": "reaches",
    "own_center": "brings embeddings to their own centers up to",
    "nearest_center": "leaves centers at",
    "split_centers": "leaves the two centers of a split identity at",
}


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


_FEWER = {
    0: "{}: no difference in accuracy is seen.",
    1: "{}: better than with all centers.",
    -1: "{}: worse than with all centers.",
}


def _fewer(share: str) -> dict[int, str]:
    return {outcome: words.format(share) for outcome, words in _FEWER.items()}


def _ratios(runs: Runs) -> _Section:
    full = Arm("synthetic")
    names = {0.5: "Half of the centers", 0.1: "A tenth of the centers", 0.02: "A fiftieth of the centers"}
    conclusions = []
    for ratio in RATIOS[1:]:
        arm = Arm("synthetic", sample_ratio=ratio)
        conclusions += _claim(_fewer(names[ratio]), runs, arm, f"r = {ratio:g}", full, "r = 1")
    tenth = Arm("synthetic", sample_ratio=0.1)
    cosines = [
        _compared(runs, quantity, tenth, "r = 0.1", full, "r = 1") for quantity in ("own_center", "nearest_center")
    ]
    if all(cosines):
        conclusions.append(f"**The two cosines.** {cosines[0]}. {cosines[1]}.")
    return _Section(
        "Fewer and fewer centers",
        "Synthetic faces, CosFace, PPRN. Bands are ± a deviation over seeds.",
        "claims-curves.png",
        _table(runs, {f"r = {ratio:g}": Arm("synthetic", sample_ratio=ratio) for ratio in RATIOS}),
        conclusions,
    )


def _longer(runs: Runs) -> _Section:
    tenth, full = Arm("longer", sample_ratio=0.1), Arm("longer")
    conclusions = _claim(_fewer("Trained longer, a tenth of the centers"), runs, tenth, "r = 0.1", full, "r = 1")
    rows = {f"r = {arm.sample_ratio:g}": arm for arm in (full, tenth)}
    text = "Does what is seen after a few epochs stay? The same faces, CosFace, PPRN, more updates."
    return _Section("Trained longer", text, "claims-longer.png", _table(runs, rows), conclusions)


def _samplers(runs: Runs) -> _Section:
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
    return _Section(
        "Positives kept, or left to chance",
        "Synthetic faces, CosFace. Purely random sampling draws as many centers and does not look at the batch: an "
        "image whose own center is not drawn, a share 1 − r of all, has no part in the loss of that step.",
        "claims-ratios.png",
        _table(runs, rows),
        conclusions,
    )


def _margins(runs: Runs) -> _Section:
    rows = {f"{title}, r = {ratio:g}": Arm("synthetic", loss=loss, sample_ratio=ratio)
            for loss, title in (("cosface", "CosFace"), ("arcface", "ArcFace")) for ratio in (1.0, 0.1)}  # fmt: skip
    tenth, full = (Arm("synthetic", loss="arcface", sample_ratio=ratio) for ratio in (0.1, 1.0))
    conclusions = _claim(_fewer("ArcFace, a tenth of the centers"), runs, tenth, "r = 0.1", full, "r = 1")
    return _Section(
        "Another margin",
        "Synthetic faces, PPRN. (The two losses are not compared with each other: their margins were not tuned.)",
        "",
        _table(runs, rows) if conclusions else "",
        conclusions,
    )


def _noise(runs: Runs) -> _Section:
    rows, conclusions = {}, []
    for ratio in (1.0, 0.1):
        clean, plain, filtered = (
            Arm("synthetic", sample_ratio=ratio),
            Arm("noisy", sample_ratio=ratio),
            Arm("noisy", sample_ratio=ratio, filter_cosine=FILTER_COSINE),
        )
        rows |= {
            f"r = {ratio:g}, clean labels": clean,
            f"r = {ratio:g}, noise": plain,
            f"r = {ratio:g}, noise, filter": filtered,
        }
        words = {
            0: f"Noise, r = {ratio:g}: the filter makes no difference that is seen.",
            1: f"Noise, r = {ratio:g}: the filter helps.",
            -1: f"Noise, r = {ratio:g}: the filter harms.",
        }
        found = _claim(words, runs, filtered, "with the filter training", plain, "without it")
        if found:
            split = _compared(runs, "split_centers", filtered, "The filter", plain, "without it they are at")
            conclusions += [f"{found[0]} {split}."]
    words = {
        0: "Noise: a tenth of the centers makes no difference that is seen.",
        1: "Noise: a tenth of the centers is better than all.",
        -1: "Noise: a tenth of the centers is worse than all.",
    }
    conclusions += _below_the_filter(runs)
    tenth, full = Arm("noisy", sample_ratio=0.1), Arm("noisy")
    conclusions += _claim(words, runs, tenth, "without the filter r = 0.1", full, "r = 1")
    return _Section(
        "Noisy labels, and the filter",
        f"CosFace, PPRN; the filter leaves negatives with a cosine above {FILTER_COSINE:g} out of the softmax. Of a "
        "split identity each center is a negative for the images under the other one: without a filter they are "
        "pushed apart. The last column is the share of the fixed training images that have any other center above "
        "0.4, which the filter can act on, when that center is sampled. Held-out pairs are the same, and clean, in all "
        "rows.",
        "claims-noise.png",
        _table(runs, rows, NOISE_COLUMNS) if conclusions else "",
        conclusions,
    )


def _below_the_filter(runs: Runs) -> list[str]:
    """A remark for embeddings that do not come near the cosine that the filter begins at."""
    arms = [Arm("noisy", sample_ratio=ratio, filter_cosine=FILTER_COSINE) for ratio in (1.0, 0.1)]
    means = [runs.values(arm, name).mean() for arm in arms if runs.has(arm) for name in ("own_center", "split_centers")]
    if not means or max(means) >= FILTER_COSINE:
        return []
    return [
        "**The filter's own case hardly occurs here.** Embeddings have a mean cosine of "
        f"{max(means[0::2]):.2f} at most to the center of their own label, and the two centers of a split identity "
        f"{max(means[1::2]):.2f} at most to each other: both are below {FILTER_COSINE:g}. The centers above it that the "
        "filter leaves out will mostly be those of other people, so this says little of what it does to well-trained "
        "embeddings."
    ]


def _lfw(runs: Runs) -> _Section:
    rows = {f"r = {ratio:g}": Arm("lfw", sample_ratio=ratio) for ratio in RATIOS}
    uniform, tenth, full = Arm("lfw", sampler="uniform", sample_ratio=0.1), Arm("lfw", sample_ratio=0.1), Arm("lfw")
    rows["r = 0.1, purely random"] = uniform
    conclusions = _claim(_fewer("LFW, a tenth of the centers"), runs, tenth, "r = 0.1", full, "r = 1")
    words = {
        0: "LFW, positives kept or not: no difference in accuracy is seen at r = 0.1.",
        1: "LFW: positives must be kept at r = 0.1.",
        -1: "LFW: positives need not be kept at r = 0.1.",
    }
    conclusions += _claim(words, runs, tenth, "PPRN", uniform, "purely random sampling")
    return _Section("Real faces: LFW", "CosFace. 4,038 people, of whom some 1,150 have more than one image.", "",
                    _table(runs, rows), conclusions)  # fmt: skip
