"""The classification layer on real ranks, over Horovod, against the dense layer in float64."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from partial_fc.head.margin import Margin
from partial_fc.head.margin_softmax import AdaFace, CurricularFace, SVSoftmax
from partial_fc.testing import LayerCase, compare_with_dense

ARCFACE, COSFACE, COMBINED, ALL_THREE = (
    Margin(m2=0.5),
    Margin(m3=0.4),
    Margin(1.0, 0.3, 0.2),
    Margin(2.0, 0.5, 0.35),
)

CASES = {
    "arcface, 7 classes": LayerCase(7, margin=ARCFACE),
    "arcface, 7 classes, sampled": LayerCase(7, margin=ARCFACE, sample_ratio=0.3),
    "cosface, 23 classes": LayerCase(23, margin=COSFACE),
    "cosface, 23 classes, sampled": LayerCase(23, margin=COSFACE, sample_ratio=0.3),
    "combined, 1000 classes": LayerCase(1000, margin=COMBINED),
    "combined, 1000 classes, sampled": LayerCase(1000, margin=COMBINED, sample_ratio=0.1),
    "m1, m2 and m3": LayerCase(23, margin=ALL_THREE, sample_ratio=0.5),
    "all labels on one rank": LayerCase(23, samples=24, labels=(20, 21, 22), sample_ratio=0.1),
    "scale above 300": LayerCase(23, scale=301.0, sample_ratio=0.5),
    "logits times 1000": LayerCase(23, scale=64_000.0, steps=1),
    "adaface": LayerCase(23, margin=AdaFace),
    "curricularface, sampled and filtered": LayerCase(23, margin=CurricularFace, sample_ratio=0.5, filter_cosine=0.2),
    "sv, sampled": LayerCase(23, margin=SVSoftmax, sample_ratio=0.5),
    "sampled without the positives": LayerCase(23, margin=COSFACE, sample_ratio=0.5, sampler="uniform"),
}


@pytest.fixture(
    scope="module", params=[("mpi", 2), ("gloo", 2), ("mpi", 3)], ids=lambda p: f"{p[1]} ranks by {p[0]}"
)
def results(
    request: pytest.FixtureRequest, run_ranks: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What every rank of one launch did with all cases, in rank order."""
    launcher, size = request.param
    directory = tmp_path_factory.mktemp(f"{launcher}-{size}")
    (directory / "cases.pickle").write_bytes(pickle.dumps(CASES))
    program = request.path.parent / "program_layer.py"
    run = run_ranks(size, program, directory / "cases.pickle", directory, launcher=launcher)
    assert run.status == 0, run
    results = [pickle.loads((directory / f"rank-{rank}.pickle").read_bytes()) for rank in range(size)]
    assert [result["size"] for result in results] == [size] * size
    return results


@pytest.mark.parametrize("name", CASES)
def test_the_steps_are_those_of_the_dense_layer(results: list[dict[str, Any]], name: str) -> None:
    errors = compare_with_dense(CASES[name], [result["traces"][name] for result in results])
    assert errors.loss < 1e-5, errors
    assert max(errors.gradient_x, errors.gradient_w, errors.momentum, errors.weight) < 5e-5, errors


def test_the_loss_is_the_same_number_on_every_rank(results: list[dict[str, Any]]) -> None:
    for name in CASES:
        assert len({tuple(result["traces"][name].loss) for result in results}) == 1


def test_an_embedding_that_is_no_number_is_seen_on_all_ranks(results: list[dict[str, Any]]) -> None:
    losses, unchanged = zip(*(result["bad batch"] for result in results), strict=True)
    assert not np.isfinite(losses).any()
    assert all(unchanged)


@pytest.mark.parametrize("name", CASES)
def test_the_collectives_of_a_step_are_those_documented(results: list[dict[str, Any]], name: str) -> None:
    case, size = CASES[name], len(results)
    samples, embedding_bytes = case.samples, 4 * case.embedding_size
    expected = {
        "head.embeddings": ("all_gather", 1, samples // size * embedding_bytes),
        "head.softmax_sum": ("all_reduce", 1, (16 if case.sampler == "pprn" else 24) * samples),
        "head.embedding_gradients": ("reduce_scatter", 1, samples * embedding_bytes),
    }
    if case.scale > 300:
        expected["head.softmax_max"] = ("all_reduce", 1, 8 * samples)
    if case.margin in (CurricularFace, SVSoftmax):
        expected["head.target_cosines"] = ("all_reduce", 1, 8 * samples)
    for result in results:
        for traffic in result["traces"][name].traffic:
            assert {key: (entry.kind, entry.calls, entry.bytes) for key, entry in traffic.items()} == expected
