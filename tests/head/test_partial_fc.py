"""The classification layer on ranks that are threads, against the dense layer in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from partial_fc.center_storage import Storage
from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.head.initialization import initial_rows
from partial_fc.head.margin import Margin
from partial_fc.head.partial_fc import PartialFC
from partial_fc.testing import (
    LayerCase,
    LayerTrace,
    centers_of,
    compare_with_dense,
    dense_loss_and_gradients,
    own_part,
    relative_error,
    train_layer,
)

ARCFACE, COSFACE, COMBINED, ALL_THREE = (
    Margin(m2=0.5),
    Margin(m3=0.4),
    Margin(1.0, 0.3, 0.2),
    Margin(2.0, 0.5, 0.35),
)


def train_on(ranks: int, case: LayerCase, layer_form: dict[str, Any] | None = None) -> list[LayerTrace]:
    return run_thread_ranks(ranks, lambda collectives: train_layer(case, collectives, **(layer_form or {})))


def assert_as_dense(case: LayerCase, traces: list[LayerTrace]) -> None:
    errors = compare_with_dense(case, traces)
    assert errors.loss < 1e-5, errors
    assert max(errors.gradient_x, errors.gradient_w, errors.momentum, errors.weight) < 5e-5, errors


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("num_classes", [7, 23])
@pytest.mark.parametrize("margin", [ARCFACE, COSFACE, COMBINED, ALL_THREE])
@pytest.mark.parametrize("sample_ratio", [1.0, 0.3])
def test_three_steps_are_those_of_the_dense_layer(
    ranks: int, num_classes: int, margin: Margin, sample_ratio: float, blocks_form: dict[str, Any]
) -> None:
    case = LayerCase(num_classes, margin=margin, sample_ratio=sample_ratio)
    assert_as_dense(case, train_on(ranks, case, blocks_form))


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("sample_ratio", [1.0, 0.3])
def test_every_form_of_the_layer_takes_the_same_steps(
    ranks: int, sample_ratio: float, layer_form: dict[str, Any]
) -> None:
    case = LayerCase(23, sample_ratio=sample_ratio)
    assert_as_dense(case, train_on(ranks, case, layer_form))


def test_centers_in_files_take_the_same_steps(tmp_path: Path) -> None:
    case = LayerCase(23, sample_ratio=0.5)
    assert_as_dense(case, train_on(2, case, {"storage": Storage("file", directory=tmp_path)}))


@pytest.mark.parametrize("form", ["C", "NDArray"])
@pytest.mark.parametrize("types", ["float16", "float16/float16", "host:float16/int8", "float32/int8"])
def test_rows_of_fewer_bits_have_the_loss_and_gradients_of_the_rows_as_they_are_kept(form: str, types: str) -> None:
    case = LayerCase(23, sample_ratio=0.5)
    storage = Storage.parse(types)
    traces = train_on(3, case, {"kernels": form, "storage": storage, "block_rows": 3})
    errors = compare_with_dense(case, traces, restart=True)
    assert errors.loss < 1e-5, errors
    assert errors.gradient_x < 5e-5, errors
    # Momentum is off by its rounding, and by no more.
    momentum_tolerance = {"float32": 5e-5, "float16": 1e-3, "int8": 1 / 127}[storage.momentum]
    assert errors.momentum < momentum_tolerance, errors


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("margin", [ARCFACE, COSFACE, COMBINED, ALL_THREE])
@pytest.mark.parametrize("sample_ratio", [1.0, 0.1])
def test_three_steps_with_1000_classes_are_those_of_the_dense_layer(
    ranks: int, margin: Margin, sample_ratio: float
) -> None:
    case = LayerCase(1000, margin=margin, sample_ratio=sample_ratio)
    assert_as_dense(case, train_on(ranks, case, {"block_rows": 128}))


@pytest.mark.parametrize(("samples", "embedding_size"), [(6, 2), (33, 7), (12, 129)])
def test_odd_sizes(samples: int, embedding_size: int, layer_form: dict[str, Any]) -> None:
    case = LayerCase(23, embedding_size, samples, margin=COSFACE, sample_ratio=0.5)
    assert_as_dense(case, train_on(3, case, layer_form))


def test_embeddings_of_one_number_have_a_loss_but_no_gradient(layer_form: dict[str, Any]) -> None:
    # x/|x| is 1 or −1, whatever x is.
    case = LayerCase(23, embedding_size=1, margin=COSFACE, steps=1)
    trace = train_on(1, case, layer_form)[0]
    x_ND, label_N = case.batch(0)
    dense = dense_loss_and_gradients(x_ND, label_N, trace.weight_CD[0], margin=COSFACE, scale=case.scale)
    assert trace.loss[0] == pytest.approx(dense.loss, rel=1e-5)
    assert np.abs(trace.gradient_x_BD[0] * x_ND).max() < 1e-5


@pytest.mark.parametrize("scale", [1.0, 8.0, 301.0])
def test_other_scales(scale: float, layer_form: dict[str, Any]) -> None:
    case = LayerCase(23, scale=scale, sample_ratio=0.5)
    assert_as_dense(case, train_on(3, case, layer_form))


def test_the_cases_reach_every_branch_of_the_margin() -> None:
    case = LayerCase(23, margin=ALL_THREE)
    cosines = []
    for step in range(case.steps):
        x_ND, label_N = case.batch(step)
        w_ND = initial_rows(case.seed, label_N, case.embedding_size)
        cosines.extend((x_ND * w_ND).sum(axis=1) / np.linalg.norm(x_ND, axis=1) / np.linalg.norm(w_ND, axis=1))
    for margin in (ARCFACE, ALL_THREE):
        past_pi = margin.m1 * np.arccos(cosines) + margin.m2 > np.pi
        assert 3 < past_pi.sum() < len(cosines) - 3
    assert max(cosines) > 0.9


LABELS = {
    "one label": (5,),
    "all on the last rank": (20, 21, 22),
    "none on rank 1": (0, 1, 2, 20, 21),
    "more than the sample size": (0, 1, 2, 3, 4, 5, 6, 7),
}


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("sample_ratio", [1.0, 0.1])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_any_distribution_of_labels(
    labels: tuple[int, ...], sample_ratio: float, ranks: int, blocks_form: dict[str, Any]
) -> None:
    case = LayerCase(23, samples=24, labels=labels, sample_ratio=sample_ratio)
    traces = train_on(ranks, case, blocks_form)
    assert_as_dense(case, traces)
    for step in range(case.steps):
        sampled = np.concatenate([trace.sampled_classes[step] for trace in traces])
        assert np.isin(case.batch(step)[1], sampled).all()


@pytest.mark.parametrize("sample_ratio", [0.01, 0.3, 1.0])
def test_each_rank_samples_its_share_or_its_positives(sample_ratio: float) -> None:
    case = LayerCase(23, samples=24, sample_ratio=sample_ratio)
    for trace in train_on(3, case):
        count = len(trace.weight_CD[0])
        for step, sampled in enumerate(trace.sampled_classes):
            own = np.arange(trace.first_class, trace.first_class + count)
            positives = np.intersect1d(case.batch(step)[1], own)
            assert np.isin(positives, sampled).all() and np.isin(sampled, own).all()
            assert len(sampled) == max(round(sample_ratio * count), len(positives), 1)


def test_negatives_change_from_step_to_step_and_rank_to_rank() -> None:
    case = LayerCase(300, samples=3, labels=(0,), sample_ratio=0.2)
    traces = train_on(3, case)
    within = [tuple(part - trace.first_class) for trace in traces for part in trace.sampled_classes]
    assert len(set(within)) == len(within)
    assert [part.tolist() for trace in train_on(3, case) for part in trace.sampled_classes] == [
        part.tolist() for trace in traces for part in trace.sampled_classes
    ]


@pytest.mark.parametrize("ranks", [1, 3])
def test_rows_outside_the_sample_stay_as_they_are_bit_for_bit(ranks: int, layer_form: dict[str, Any]) -> None:
    case = LayerCase(23, sample_ratio=0.2, labels=(0, 1, 9))
    untouched = 0
    for trace in train_on(ranks, case, layer_form):
        for step, sampled in enumerate(trace.sampled_classes):
            others = np.setdiff1d(np.arange(len(trace.weight_CD[0])), sampled - trace.first_class)
            untouched += len(others)
            for held in (trace.weight_CD, trace.momentum_CD):
                assert held[step][others].tobytes() == held[step + 1][others].tobytes()
                rows = sampled - trace.first_class
                assert (held[step][rows] != held[step + 1][rows]).any(axis=1).all()
    assert untouched > 20


def test_the_result_does_not_depend_on_the_rank_count(layer_form: dict[str, Any]) -> None:
    case = LayerCase(23)
    alone, *others = (train_on(ranks, case, layer_form) for ranks in (1, 2, 3, 4))
    for traces in others:
        np.testing.assert_array_equal(np.concatenate([t.weight_CD[0] for t in traces]), alone[0].weight_CD[0])
        for trace in traces:
            np.testing.assert_allclose(trace.loss, alone[0].loss, rtol=1e-6)
        for held in ("weight_CD", "momentum_CD"):
            whole = np.concatenate([getattr(trace, held)[-1] for trace in traces])
            assert relative_error(whole, getattr(alone[0], held)[-1]) < 1e-5
        for step in range(case.steps):
            gradient_x_ND = np.concatenate([trace.gradient_x_BD[step] for trace in traces])
            assert relative_error(gradient_x_ND, alone[0].gradient_x_BD[step]) < 1e-5


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("sample_ratio", [1.0, 0.3])
def test_logits_times_1000(ranks: int, sample_ratio: float, layer_form: dict[str, Any]) -> None:
    case = LayerCase(23, scale=64_000.0, steps=1, sample_ratio=sample_ratio)
    assert_as_dense(case, train_on(ranks, case, layer_form))


@pytest.mark.parametrize(("scale", "with_max"), [(64.0, False), (300.0, False), (301.0, True)])
def test_three_collectives_a_step_of_the_documented_size(scale: float, with_max: bool) -> None:
    case = LayerCase(23, embedding_size=16, samples=12, scale=scale, sample_ratio=0.5)
    expected = {
        "head.embeddings": ("all_gather", 1, 4 * 4 * 16),
        "head.softmax_sum": ("all_reduce", 1, 2 * 8 * 12),
        "head.embedding_gradients": ("reduce_scatter", 1, 4 * 12 * 16),
    }
    if with_max:
        expected["head.softmax_max"] = ("all_reduce", 1, 8 * 12)
    for trace in train_on(3, case):
        for traffic in trace.traffic:
            assert {name: (entry.kind, entry.calls, entry.bytes) for name, entry in traffic.items()} == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scale", [64.0, 64_000.0])
def test_an_embedding_that_is_no_number_is_seen_on_all_ranks_before_a_row_changes(
    bad: float, scale: float, layer_form: dict[str, Any]
) -> None:
    case = LayerCase(23, sample_ratio=0.5, scale=scale)

    def step_over_a_bad_batch(collectives: Collectives) -> tuple[float, bool, float]:
        layer = case.make_layer(collectives, **layer_form)
        before = centers_of(layer)
        x_ND, label_N = case.batch(0)
        x_ND[5, 3] = bad  # a sample of rank 1
        loss = layer.forward(mx.nd.array(own_part(x_ND, collectives)), layer.sample(label_N, 0))
        unchanged = all(a.tobytes() == b.tobytes() for a, b in zip(before, centers_of(layer), strict=True))
        x_ND, label_N = case.batch(1)
        next_loss = layer.forward(mx.nd.array(own_part(x_ND, collectives)), layer.sample(label_N, 1))
        layer.backward(case.learning_rate)
        return loss, unchanged, next_loss

    results = run_thread_ranks(3, step_over_a_bad_batch)
    assert not any(np.isfinite(loss) for loss, _, _ in results)
    assert all(unchanged for _, unchanged, _ in results)
    assert len({next_loss for _, _, next_loss in results}) == 1 and np.isfinite(results[0][2])


def test_an_embedding_of_zeros_has_no_direction_and_no_gradient(layer_form: dict[str, Any]) -> None:
    case = LayerCase(23)
    x_ND, label_N = case.batch(0)
    x_ND[3] = 0
    layer = case.make_layer(SingleProcess(), **layer_form)
    loss = layer.forward(mx.nd.array(x_ND), layer.sample(label_N, 0))
    gradient_x_ND = layer.backward(case.learning_rate).asnumpy()
    assert np.isfinite(loss)
    np.testing.assert_array_equal(gradient_x_ND[3], 0)
    assert np.isfinite(gradient_x_ND).all() and np.abs(gradient_x_ND[2]).max() > 0


def test_an_embedding_that_lies_on_its_center_has_finite_gradients(layer_form: dict[str, Any]) -> None:
    case = LayerCase(23, margin=ARCFACE)
    x_ND, label_N = case.batch(0)
    w_ND = initial_rows(case.seed, label_N, case.embedding_size)
    x_ND[::2], x_ND[1::2] = 30 * w_ND[::2], -30 * w_ND[1::2]
    layer = case.make_layer(SingleProcess(), **layer_form)
    assert np.isfinite(layer.forward(mx.nd.array(x_ND), layer.sample(label_N, 0)))
    assert np.isfinite(layer.backward(case.learning_rate).asnumpy()).all()
    assert all(np.isfinite(part).all() for part in centers_of(layer))


def test_one_step_is_exact_where_steps_before_used_other_sizes(layer_form: dict[str, Any]) -> None:
    # The buffers of a step are those of the step before: a larger one must leave nothing in a smaller one.
    case = LayerCase(23, sample_ratio=0.2, learning_rate=1e-12, momentum=0.0)
    layer = case.make_layer(SingleProcess(), **layer_form)
    for step, samples in enumerate((24, 5, 40, 1)):
        x_ND, label_N = replace(case, samples=samples).batch(step)
        sample = layer.sample(label_N, step)
        loss = layer.forward(mx.nd.array(x_ND), sample)
        gradient_x_ND = layer.backward(case.learning_rate).asnumpy()
        expected = dense_loss_and_gradients(
            x_ND, label_N, centers_of(layer)[0], sample.row_S, margin=case.margin, scale=case.scale
        )
        assert loss == pytest.approx(expected.loss, rel=1e-5)
        assert relative_error(gradient_x_ND, expected.gradient_x_ND) < 5e-5


@pytest.mark.parametrize("label", [-1, 23, 2**40])
def test_a_label_outside_the_classes_is_refused_on_every_rank(label: int) -> None:
    case = LayerCase(23)
    label_N = case.batch(0)[1]
    label_N[4] = label

    def refusal(collectives: Collectives) -> str:
        with pytest.raises(ValueError) as caught:
            case.make_layer(collectives).sample(label_N, 0)
        return str(caught.value)

    messages = run_thread_ranks(3, refusal)
    assert len(set(messages)) == 1
    assert f"must lie in [0, 23), but one is {label}" in messages[0]


def test_fewer_identities_than_ranks_are_refused_on_every_rank() -> None:
    def refusal(collectives: Collectives) -> str:
        with pytest.raises(ValueError) as caught:
            LayerCase(2).make_layer(collectives)
        return str(caught.value)

    assert all("2 identities for 3 ranks" in message for message in run_thread_ranks(3, refusal))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_ratio": 0.0}, r"sample ratio must lie in \(0, 1\], but is 0.0"),
        ({"sample_ratio": 1.1}, "sample ratio"),
        ({"sample_ratio": float("nan")}, "sample ratio"),
        ({"scale": 0.0}, "scale of the logits must be .*positive, but is 0.0"),
        ({"scale": float("nan")}, "scale"),
        ({"scale": float("inf")}, "scale"),
    ],
)
def test_an_argument_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartialFC(23, 16, SingleProcess(), margin=ARCFACE, **options)


def test_a_layer_dropped_while_its_rows_load_frees_no_memory_that_is_in_use() -> None:
    for _ in range(3):
        head = PartialFC(200_003, 64, SingleProcess(), margin=Margin(1.0, 0.0, 0.4), sample_ratio=0.5)
        head.sample(np.arange(16, dtype=np.int64), 0)  # its rows are given values and gathered meanwhile
        del head
    mx.nd.waitall()
