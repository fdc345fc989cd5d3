"""The benchmark of the paper's claims: noise and figures as they say, runs that go on where they were killed."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PARTS = ("claims", *(f"claims_{part}" for part in ("grid", "noise", "measure", "run", "figures", "plots", "text")))
PARTS += ("claims_sentences", "claims_sections", "claims_summary", "claims_report", "results")


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in PARTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return SimpleNamespace(**{name.removeprefix("claims_"): importlib.import_module(name) for name in PARTS[:-1]})


def result(claims, arm, seed, **figures):
    case = claims.grid.Case(arm, claims.grid.quick_data_sets()[arm.data], seed)
    return {"case": case.description(), "points": [{"update": 4, "images": 64, **figures}]}


def test_noise_is_as_large_as_it_says_and_the_same_each_time(claims):
    rng = np.random.default_rng(3)
    true_N = rng.permutation(np.repeat(np.arange(53), 7))
    options = {"wrong_labels": 0.2, "split_identities": 0.3}
    noisy_N, kept_N, split_K2 = claims.noise.noisy_labels(true_N, 53, **options)
    assert np.count_nonzero(~kept_N) == round(0.2 * 53 * 7)
    assert split_K2.shape == (16, 2) and sorted(split_K2[:, 1]) == list(range(53, 69))
    second = dict(split_K2.tolist())
    for true, noisy, kept in zip(true_N, noisy_N, kept_N, strict=True):
        assert (noisy in (true, second.get(true))) if kept else (noisy != true and noisy < 53)
    for first, other in split_K2:  # every second image, but for those that are wrong
        moved = np.count_nonzero((noisy_N == other) & kept_N) + np.count_nonzero(~kept_N & (true_N == first))
        assert 3 <= moved <= 7 and np.count_nonzero(noisy_N == other) <= 3
    again = claims.noise.noisy_labels(true_N, 53, **options)
    assert all(np.array_equal(a, b) for a, b in zip(again, (noisy_N, kept_N, split_K2), strict=True))


def test_cosines_are_those_of_a_plain_loop(claims):
    rng = np.random.default_rng(4)
    x_MD, w_CD = (claims.measure.unit_rows(rng.standard_normal((rows, 3))) for rows in (11, 7))
    label_M, center_J = rng.integers(0, 7, 11), np.array([1, 4, 6])
    found = claims.measure.cosine_figures(x_MD, label_M, w_CD, center_J, np.array([[0, 5], [2, 3]]))
    others = [[x @ w for c, w in enumerate(w_CD) if c != label] for x, label in zip(x_MD, label_M, strict=True)]
    other = {0: 5, 5: 0, 2: 3, 3: 2}
    halves = [x @ w_CD[other[label]] for x, label in zip(x_MD, label_M, strict=True) if label in other]
    wanted = {
        "other_half": np.mean([cosine > 0.4 for cosine in halves]),
        "own_center": np.mean([x @ w_CD[label] for x, label in zip(x_MD, label_M, strict=True)]),
        "nearest_center": np.mean([max(w_CD[j] @ w for c, w in enumerate(w_CD) if c != j) for j in center_J]),
        "conflicts": np.mean([max(cosines) > 0.4 for cosines in others]),
        "split_centers": (w_CD[0] @ w_CD[5] + w_CD[2] @ w_CD[3]) / 2,
    }
    assert found == pytest.approx(wanted)
    assert 0 < found["conflicts"] < 1 and 0 < found["other_half"] < 1


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_arms_are_told_apart_as_welch_tells_them(claims, shift):
    arms = [claims.grid.Arm("synthetic", sample_ratio=r) for r in (1.0, 0.1)]
    values = [np.array([80.1, 79.6, 80.3]), np.array([79.9, 80.2, 80.0]) + shift]
    pairs = [(arm, seed, v) for arm, part in zip(arms, values, strict=True) for seed, v in enumerate(part)]
    runs = claims.figures.Runs([result(claims, arm, seed, accuracy=value) for arm, seed, value in pairs])
    found = claims.figures.difference(runs, arms[1], arms[0], "accuracy")
    told_apart = stats.ttest_ind(values[1], values[0], equal_var=False).pvalue < 0.05
    assert bool(found.outcome) == told_apart == (shift == 2.0)
    assert found.mean == pytest.approx(values[1].mean() - values[0].mean())
    assert found.low < found.mean < found.high
    assert runs.text(arms[0], "accuracy", 2) == f"{values[0].mean():.2f} ± {values[0].std(ddof=1):.2f}"


def test_the_conclusion_follows_the_figures_whichever_way_they_fall(claims, tmp_path):
    def page(tenth: float) -> str:
        arms = {claims.grid.Arm("synthetic"): 80.0, claims.grid.Arm("synthetic", sample_ratio=0.1): tenth}
        results = [
            result(claims, arm, seed, accuracy=value + 0.1 * seed, own_center=0.5, nearest_center=0.3 + 0.01 * seed)
            | {"training_images": 240, "identities": 60, "processor_seconds": 1.0}
            | {"conditions": {"cpu": "none", "cores": 2, "mxnet": "1.9.1"}}
            for arm, value in arms.items()
            for seed in range(3)
        ]
        return claims.report.write_report(results, tmp_path).read_text().replace("\u00a0", " ")

    assert "**A tenth of the centers: worse than with all centers.** r = 0.1 reaches 70.10 ± 0.10 %" in page(70.0)
    better = page(81.0)
    assert "**A tenth of the centers: better than with all centers.**" in better
    assert "| r = 0.1: 81.10 ± 0.10 | r = 1: 80.10 ± 0.10 | +1.00 (+0.77 to +1.23) | better |" in better
    assert "- **A tenth of the centers is enough**, 1 comparison: better in 1 (CosFace)." in better
    equal = page(80.0)
    assert "**A tenth of the centers: no difference in accuracy is seen.**" in equal
    assert "| r = 0.1 | 80.10 ± 0.10 | 0.500 ± 0.000 | 0.310 ± 0.010 |" in equal
    assert "Noisy labels" not in equal and (tmp_path / "images" / "claims-curves.png").stat().st_size > 10_000


def test_a_finished_run_counts_as_long_as_its_recipe_is_the_same(claims, tmp_path):
    arm = claims.grid.Arm("synthetic", sample_ratio=0.02)
    quick, shipped = (sets["synthetic"] for sets in (claims.grid.quick_data_sets(), claims.grid.shipped_data_sets()))
    case = claims.grid.Case(arm, quick, 1)
    assert claims.claims.finished(tmp_path, case) is None
    claims.run.save(result(claims, arm, 1, accuracy=50.0), tmp_path / f"{case.name}.json")
    assert claims.claims.finished(tmp_path, case)["points"][-1]["accuracy"] == 50.0
    assert claims.claims.finished(tmp_path, claims.grid.Case(arm, shipped, 1)) is None
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic-cosface-pprn-r0.02-seed1.json"]


def test_killed_in_the_middle_the_same_command_goes_on(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "claims.py"), "--quick", "--work", str(tmp_path)]
    command += ["--lfw", str(tmp_path), "--seeds", "2", "--jobs", "1", "--only", "synthetic-cosface-pprn-r0.1"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMPI_", "PMIX_"))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as process:
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("1/2 ") for line in lines), process.stderr.read()
        process.send_signal(signal.SIGKILL)
    results = tmp_path / "quick" / "results"
    first = results / "synthetic-cosface-pprn-r0.1-seed0.json"
    before = first.stat().st_mtime_ns
    done = subprocess.run(command, **pipes, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.match(r"2 runs, [12] of them finished", done.stdout)
    assert first.stat().st_mtime_ns == before
    accuracy = [json.loads(path.read_text())["points"][-1]["accuracy"] for path in sorted(results.glob("*.json"))]
    page = (tmp_path / "quick" / "docs" / "claims.md").read_text()
    assert f"| r = 0.1 | {np.mean(accuracy):.2f} ± {np.std(accuracy, ddof=1):.2f} |" in page


def test_a_run_that_is_not_there_is_a_mistake_of_the_command_line(claims, tmp_path, capsys):
    arguments = ["--quick", "--work", str(tmp_path), "--lfw", str(tmp_path), "--only", "glint"]
    assert claims.claims.main(arguments) == 1
    assert "no case has 'glint' in its name" in capsys.readouterr().err
