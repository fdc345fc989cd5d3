"""The sections of ``docs/claims.md``: a table, a plot, and what follows from them."""

from __future__ import annotations

from dataclasses import replace

from claims_figures import Runs
from claims_grid import FILTER_COSINE, RATIOS, Arm
from claims_sentences import NOISE_COLUMNS, SHARES, Section, capital, claim, compared, cosines, fewer, table


def _ratios(runs: Runs) -> Section:
    full = Arm("synthetic")
    conclusions = []
    for ratio in RATIOS[1:]:
        arm = Arm("synthetic", sample_ratio=ratio)
        conclusions += claim(fewer(capital(SHARES[ratio])), runs, arm, f"r = {ratio:g}", full, "r = 1")
    conclusions += cosines(runs, "", Arm("synthetic", sample_ratio=0.1), "r = 0.1", full, "r = 1")
    return Section(
        "Fewer and fewer centers",
        "Synthetic faces, CosFace, PPRN. Bands are ± a deviation over seeds.",
        "claims-curves.png",
        table(runs, {f"r = {ratio:g}": Arm("synthetic", sample_ratio=ratio) for ratio in RATIOS}),
        conclusions,
    )


def _longer(runs: Runs) -> Section:
    tenth, full = Arm("longer", sample_ratio=0.1), Arm("longer")
    conclusions = claim(fewer("Trained longer, a tenth of the centers"), runs, tenth, "r = 0.1", full, "r = 1")
    conclusions += cosines(runs, ", trained longer", tenth, "r = 0.1", full, "r = 1")
    rows = {f"r = {arm.sample_ratio:g}": arm for arm in (full, tenth)}
    text = "Does what is seen in so few steps stay? The same faces, CosFace, PPRN, three times the updates."
    return Section("Trained longer", text, "claims-longer.png", table(runs, rows), conclusions)


def _usual(runs: Runs) -> Section:
    rows, conclusions = {}, []
    for data, where in (("usual", "usual margin"), ("usual-longer", "usual margin, trained longer")):
        tenth, full = Arm(data, sample_ratio=0.1), Arm(data)
        rows |= {f"{data}, r = {arm.sample_ratio:g}": arm for arm in (full, tenth)}
        conclusions += claim(fewer(f"A tenth of the centers, {where}"), runs, tenth, "r = 0.1", full, "r = 1")
        conclusions += cosines(runs, f", {where}", tenth, "r = 0.1", full, "r = 1")
    return Section(
        "The usual scale and margin",
        "How much of this hangs on the small scale and margin, which suit so short a training? The same faces, "
        "CosFace, PPRN, with the s and m of long trainings."
        + (" The plot is of *usual-longer*." if runs.has(Arm("usual-longer")) else ""),
        "claims-usual.png",
        table(runs, rows),
        conclusions,
    )


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
        conclusions += claim(told, runs, pprn, "PPRN", uniform, "purely random sampling")
    pprn, uniform = (Arm("synthetic", sampler=sampler, sample_ratio=0.1) for sampler in ("pprn", "uniform"))
    conclusions += cosines(runs, ", r = 0.1", pprn, "PPRN", uniform, "purely random sampling")
    return Section(
        "Positives kept, or left to chance",
        "Synthetic faces, CosFace. Purely random sampling draws as many centers and does not look at the batch: an "
        "image whose own center is not drawn, a share 1 − r of all, has no part in the loss of that step.",
        "claims-ratios.png",
        table(runs, rows),
        conclusions,
    )


def _margins(runs: Runs) -> Section:
    rows = {f"{title}, r = {ratio:g}": Arm("synthetic", loss=loss, sample_ratio=ratio)
            for loss, title in (("cosface", "CosFace"), ("arcface", "ArcFace")) for ratio in (1.0, 0.1)}  # fmt: skip
    tenth, full = (Arm("synthetic", loss="arcface", sample_ratio=ratio) for ratio in (0.1, 1.0))
    conclusions = claim(fewer("ArcFace, a tenth of the centers"), runs, tenth, "r = 0.1", full, "r = 1")
    return Section(
        "Another margin",
        "Synthetic faces, PPRN. (The two losses are not compared with each other: their margins were not tuned.)",
        "",
        table(runs, rows) if conclusions else "",
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
        conclusions += claim(words, runs, tenth, "without the filter r = 0.1", full, "r = 1")
    return Section(
        "Noisy labels, and the filter",
        f"CosFace, PPRN; the filter leaves negatives with a cosine above {FILTER_COSINE:g} out of the softmax. Of a "
        "split identity each center is a negative for the images under the other one: without a filter they are "
        "pushed apart. The last two columns are shares of the fixed training images at the end of training: of those "
        "whose identity is split, how many have its other center above 0.4, which is what the filter is for; and of "
        "all, how many have any other center above 0.4. The filter leaves these out when they are sampled. Held-out "
        "pairs are the same, and clean, in all rows.",
        "claims-noise.png",
        table(runs, rows, NOISE_COLUMNS) if conclusions else "",
        conclusions,
    )


def _filter(runs: Runs, plain: Arm, filtered: Arm, where: str) -> list[str]:
    """What the filter changes at one ratio: accuracy, and the centers of split identities."""
    words = {
        0: f"{where}: the filter makes no difference in accuracy that is seen.",
        1: f"{where}: the filter helps.",
        -1: f"{where}: the filter harms.",
    }
    found = claim(words, runs, filtered, "with the filter training", plain, "without it")
    split = compared(runs, "split_centers", filtered, "the filter", plain, "none")
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
        conclusions += claim(fewer(f"LFW, {SHARES[ratio]}"), runs, arm, f"r = {ratio:g}", full, "r = 1")
    words = {
        0: "LFW, positives kept or not: no difference in accuracy is seen at r = 0.1.",
        1: "LFW: positives must be kept at r = 0.1.",
        -1: "LFW: positives need not be kept at r = 0.1.",
    }
    conclusions += claim(words, runs, tenth, "PPRN", uniform, "purely random sampling")
    conclusions += cosines(runs, ", LFW", tenth, "r = 0.1", full, "r = 1")
    text = (
        "CosFace. 4,038 people, of whom some 1,150 have more than one image. (The plot is that under "
        "*Positives kept, or left to chance*.)"
    )
    return Section("Real faces: LFW", text, "", table(runs, rows), conclusions)


SECTIONS = (_ratios, _longer, _usual, _samplers, _margins, _noise, _lfw)
"""Each makes its section of the runs."""
