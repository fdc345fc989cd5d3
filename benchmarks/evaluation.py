"""The time of evaluation's protocols on random embeddings, each beside its floor in the same run.

    python benchmarks/evaluation.py --json
    python benchmarks/evaluation.py --full --results benchmarks/results

The floor is the matrix product of the very tiles whose scores the protocol needs, by the same library, nothing done
with them. Both alternate; times are medians over rounds, the quotient is the median of the rounds' quotients.

    ijbc_1_1   15.7 million pairs of 3,531 enrolled templates with 19,593 probes (23,124 in all), TAR at six FARs
    ijbc_1_n   19,593 probes × 3,531 enrolled, two galleries: ranks, TPIR at FPIR
    megaface   3,530 probes × 100,000 distractors: Rank-1 and TAR at FAR 1e-6
    all_pairs  TAR at FAR 1e-6 over all pairs of 100,000 embeddings (5·10⁹), none of the scores stored
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "src")]

import numpy as np  # noqa: E402
from results import DIRECTORY, write_results  # noqa: E402

from partial_fc.collectives import SingleProcess  # noqa: E402
from partial_fc.evaluation.all_pairs import all_pairs  # noqa: E402
from partial_fc.evaluation.distractor_search import search_distractors  # noqa: E402
from partial_fc.evaluation.identification import find_mates, rank_rates, search, tpir_at_fpir  # noqa: E402
from partial_fc.evaluation.negative_scores import negative_scores, operating_points  # noqa: E402
from partial_fc.evaluation.pair_scores import PairPlan, pair_scores  # noqa: E402
from partial_fc.evaluation.score_blocks import normalize_rows, score_tiles, tiles_of, upper_tiles  # noqa: E402

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
ALONE = SingleProcess()


@dataclass(frozen=True)
class Sizes:
    """How large each problem is."""

    pairs: int = 15_700_000
    enrolled: int = 3_531
    probes: int = 19_593
    facescrub: int = 3_530
    distractors: int = 20_000
    images: int = 20_000
    dimension: int = 512


FULL = Sizes(distractors=100_000, images=100_000)


@dataclass(frozen=True)
class Problem:
    """A protocol, its floor, and what it computes a score for."""

    name: str
    run: Callable[[], object]
    floor: Callable[[], object]
    scores: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes the results where asked to."""
    options = parse(arguments)
    sizes = FULL if options.full else Sizes()
    if options.scale != 1:
        sizes = scaled(sizes, options.scale)
    numbers: dict[str, object] = {"full": options.full, "threads": int(os.environ["OMP_NUM_THREADS"])}
    rows = []
    for make in (ijbc_1_1, ijbc_1_n, megaface, all_pairs_tar):
        problem = make(sizes)
        row = measure(problem, options.rounds)
        rows.append(row)
        numbers |= {f"{problem.name}_{key}": row[key] for key in ("s", "gemm_s", "over_gemm", "scores")}
        if not options.json:
            line = "{name:10s} {scores:>14,d} scores {s:8.3f} s, product {gemm_s:8.3f} s, {over_gemm:.2f} ×"
            print(line.format(**row), flush=True)
    numbers["megaface_per_million_s"] = numbers["megaface_s"] * 1e6 / sizes.distractors
    numbers["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if options.results:
        write_results("evaluation", rows, options.results)
    if options.json:
        print(json.dumps(numbers))
    else:
        print("MegaFace with a million distractors: {:.1f} s".format(numbers["megaface_per_million_s"]))
        print("peak memory: {:.0f} MiB".format(numbers["peak_memory_mib"]))
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object, and nothing else")
    parser.add_argument("--full", action="store_true", help="100,000 distractors and 100,000 images (20,000)")
    parser.add_argument("--rounds", type=int, default=3, help="of protocol and floor (%(default)s)")
    parser.add_argument("--scale", type=float, default=1, help="of all sizes, for a trial (%(default)s)")
    parser.add_argument("--results", type=Path, nargs="?", const=DIRECTORY, help="write evaluation.csv there")
    return parser.parse_args(arguments)


def scaled(sizes: Sizes, scale: float) -> Sizes:
    """Smaller problems of the same form."""
    small = {name: max(20, int(value * scale)) for name, value in vars(sizes).items()}
    return Sizes(**{**small, "pairs": max(1000, int(sizes.pairs * scale * scale)), "dimension": sizes.dimension})


def measure(problem: Problem, rounds: int) -> dict[str, object]:
    """Seconds of the protocol and of its floor, in turn."""
    problem.floor()  # threads and memory are there
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        times.append((timed(problem.run), timed(problem.floor)))
    return {
        "name": problem.name,
        "scores": problem.scores,
        "s": statistics.median(one for one, _ in times),
        "gemm_s": statistics.median(one for _, one in times),
        "over_gemm": statistics.median(one / other for one, other in times),
    }


def timed(function: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def exhaust(left_AD: np.ndarray, right_BD: np.ndarray, tiles: Sequence[tuple[slice, slice]]) -> None:
    """The products alone."""
    for _ in score_tiles(left_AD, right_BD, tiles):
        pass


def faces(people: int, images: int, dimension: int, seed: int) -> np.ndarray:
    """(people · images, D) unit rows; two of a person have a cosine of about 0.5."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((people * images, dimension), dtype=np.float32)
    rows += np.repeat(rng.standard_normal((people, dimension), dtype=np.float32), images, axis=0)
    return normalize_rows(rows, "faces")


def templates(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Enrolled templates, then probes, and the subject of each."""
    rng = np.random.default_rng(0)
    subject = np.r_[np.arange(sizes.enrolled), rng.integers(0, sizes.enrolled, sizes.probes)]
    rows = rng.standard_normal((sizes.enrolled, sizes.dimension), dtype=np.float32)[subject]
    rows += rng.standard_normal(rows.shape, dtype=np.float32)
    return normalize_rows(rows, "templates"), subject


def ijbc_1_1(sizes: Sizes) -> Problem:
    unit_TD, subject = templates(sizes)
    rng = np.random.default_rng(1)
    first = rng.integers(0, sizes.enrolled, sizes.pairs)
    second = rng.integers(sizes.enrolled, len(unit_TD), sizes.pairs)
    mates = slice(0, sizes.probes)
    first[mates], second[mates] = subject[sizes.enrolled :], np.arange(sizes.enrolled, len(unit_TD))
    is_same = subject[first] == subject[second]
    plan = PairPlan(len(unit_TD), first, second)  # a part of reading the list
    same_places = np.flatnonzero(is_same[plan.order_P])
    left_AD, right_BD = unit_TD[plan.rows], unit_TD[plan.columns]

    def run() -> None:
        scores = pair_scores(unit_TD, plan, ALONE, "ijbc")
        positives = scores[same_places]
        scores[same_places] = -np.inf
        count = len(scores) - len(positives)
        operating_points(positives, negative_scores(lambda: [scores], count, FARS, ALONE, "ijbc"))

    return Problem("ijbc_1_1", run, lambda: exhaust(left_AD, right_BD, plan.tiles), sizes.pairs)


def ijbc_1_n(sizes: Sizes) -> Problem:
    unit_TD, subject = templates(sizes)
    gallery_GD, probe_PD = unit_TD[: sizes.enrolled], unit_TD[sizes.enrolled :]
    mate_P = find_mates(subject[sizes.enrolled :], subject[: sizes.enrolled])
    parts = [slice(0, sizes.enrolled // 2), slice(sizes.enrolled // 2, sizes.enrolled)]

    def run() -> None:
        result = search(probe_PD, gallery_GD, mate_P, parts, ALONE, "ijbc")
        rank_rates(result, (1, 5, 10))
        tpir_at_fpir(result, parts, (0.01, 0.1))

    tiles = tiles_of(sizes.probes, sizes.enrolled)
    return Problem(
        "ijbc_1_n", run, lambda: exhaust(probe_PD, gallery_GD, tiles), sizes.probes * sizes.enrolled
    )


def megaface(sizes: Sizes) -> Problem:
    people = max(2, sizes.facescrub // 44)
    probe_PD = faces(people, sizes.facescrub // people, sizes.dimension, 2)
    identity_P = np.repeat(np.arange(people), sizes.facescrub // people)
    distractor_MD = faces(sizes.distractors, 1, sizes.dimension, 3)

    def run() -> None:
        load = distractor_MD.__getitem__
        search_distractors(probe_PD, identity_P, load, sizes.distractors, [1e-6], ALONE, "megaface")

    tiles = tiles_of(len(probe_PD), sizes.distractors)
    return Problem(
        "megaface", run, lambda: exhaust(probe_PD, distractor_MD, tiles), len(probe_PD) * sizes.distractors
    )


def all_pairs_tar(sizes: Sizes) -> Problem:
    people = sizes.images // 5
    unit_ND = faces(people, 5, sizes.dimension, 4)
    identity_N = np.repeat(np.arange(people), 5)
    tiles = upper_tiles(len(unit_ND))
    return Problem(
        "all_pairs",
        lambda: all_pairs(unit_ND, identity_N, [1e-6], ALONE, "all"),
        lambda: exhaust(unit_ND, unit_ND, tiles),
        len(unit_ND) * (len(unit_ND) - 1) // 2,
    )


if __name__ == "__main__":
    sys.exit(main())
