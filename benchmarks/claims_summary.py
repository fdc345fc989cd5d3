"""The table that ``docs/claims.md`` begins with: each claim, where it was tried, what is seen."""

from __future__ import annotations

from dataclasses import replace

from claims_figures import Runs, difference, signed
from claims_grid import FILTER_COSINE, RATIOS, Arm


def summary(runs: Runs) -> str:
    """A table of the claims: for each where it was tried, both accuracies, their difference and what is seen."""
    lines = ["| claim | where | accuracy, % | against | difference | seen |", "|---|---|---|---|---|---|"]
    for claim, where, (name, arm), (other_name, other) in _tried():
        if runs.has(arm) and runs.has(other):
            found = difference(runs, arm, other, "accuracy")
            interval = f" ({found.interval(2)})" if found.low is not None else ""
            seen = {0: "no difference", 1: "better", -1: "worse"}[found.outcome]
            first, second = (f"{label}: {runs.text(part, 'accuracy', 2)}"
                             for label, part in ((name, arm), (other_name, other)))  # fmt: skip
            lines.append(f"| {claim} | {where} | {first} | {second} | {signed(found.mean, 2)}{interval} | {seen} |")
    return "\n".join(lines)


def _tried() -> list[tuple[str, str, tuple[str, Arm], tuple[str, Arm]]]:
    """(claim, where, the arm that it is about, what it is compared with), the last two with their names."""
    places = {
        "CosFace": Arm("synthetic"),
        "CosFace, trained longer": Arm("longer"),
        "CosFace, usual s and m": Arm("usual"),
        "CosFace, usual s and m, trained longer": Arm("usual-longer"),
        "ArcFace": Arm("synthetic", loss="arcface"),
        "noisy labels": Arm("noisy"),
        "noisy labels, trained longer": Arm("noisy-longer"),
        "LFW": Arm("lfw"),
    }
    tried = [("a tenth of the centers is enough", where, ("r = 0.1", replace(arm, sample_ratio=0.1)), ("r = 1", arm))
             for where, arm in places.items()]  # fmt: skip
    for where, data, ratios in (("", "synthetic", RATIOS[1:]), ("LFW, ", "lfw", (0.1,))):
        for ratio in ratios:
            arm = Arm(data, sample_ratio=ratio)
            other = ("random", replace(arm, sampler="uniform"))
            tried.append(("positives must be kept", f"{where}r = {ratio:g}", ("PPRN", arm), other))
    for where, data in (("", "noisy"), (", trained longer", "noisy-longer")):
        for ratio in (1.0, 0.1):
            arm = Arm(data, sample_ratio=ratio)
            filtered = ("filter", replace(arm, filter_cosine=FILTER_COSINE))
            tried.append(("the filter helps with noisy labels", f"r = {ratio:g}{where}", filtered, ("none", arm)))
    return tried
