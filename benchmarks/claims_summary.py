"""The table that ``docs/claims.md`` begins with: each claim, where it was tried, what is seen."""

from __future__ import annotations

from dataclasses import replace

from claims_figures import Runs, difference, signed
from claims_grid import FILTER_COSINE, RATIOS, Arm

SEEN = {1: "better", 0: "no difference", -1: "worse"}


def summary(runs: Runs) -> str:
    """How often each claim was seen, then the table: both accuracies, their difference and what is seen."""
    lines = ["| claim | where | accuracy, % | against | difference | seen |", "|---|---|---|---|---|---|"]
    places: dict[str, dict[int, list[str]]] = {}
    for claim, where, (name, arm), (other_name, other) in _tried():
        if not (runs.has(arm) and runs.has(other)):
            continue
        found = difference(runs, arm, other, "accuracy")
        interval = f" ({found.interval(2)})" if found.low is not None else ""
        first, second = f"{name}: {runs.text(arm, 'accuracy', 2)}", f"{other_name}: {runs.text(other, 'accuracy', 2)}"
        seen = SEEN[found.outcome]
        lines.append(f"| {claim} | {where} | {first} | {second} | {signed(found.mean, 2)}{interval} | {seen} |")
        places.setdefault(claim, {outcome: [] for outcome in SEEN})[found.outcome].append(where)
    return "\n".join([*(_counted(claim, outcomes) for claim, outcomes in places.items()), "", *lines])


def _counted(claim: str, outcomes: dict[int, list[str]]) -> str:
    """A claim, and in how many places which outcome was seen."""
    total = sum(map(len, outcomes.values()))
    parts = [f"{SEEN[outcome]} in {len(there)} ({'; '.join(there)})" for outcome, there in outcomes.items() if there]
    return f"- **{claim[0].upper()}{claim[1:]}**, {total} comparison{'s' if total > 1 else ''}: {', '.join(parts)}."


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
