"""Unsampled class centers that move on: the sampled layer with lazy updates is the dense update of all rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from partial_fc.center_storage import Storage
from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.head import row_store
from partial_fc.head.initialization import initial_rows
from partial_fc.head.partial_fc import PartialFC
from partial_fc.testing import (
    LayerCase,
    centers_of,
    dense_loss_and_gradients,
    dense_sgd_momentum,
    own_part,
    relative_error,
)

STEPS = 9
SKIPPED = (2, 5)  # their loss is not finite
ALL_ROWS = (6,)  # after steps on a few


@dataclass
class Trace:
    """One rank's steps: the losses, gradients and sampled classes, and the centers of all classes at the end."""

    loss: list[float] = field(default_factory=list)
    gradient_x_BD: list[np.ndarray] = field(default_factory=list)
    sampled: list[np.ndarray] = field(default_factory=list)
    weight_CD: np.ndarray | None = None
    momentum_CD: np.ndarray | None = None


def learning_rate(step: int) -> float:
    return 0.001 / (1 + step)


def make_case(**options: Any) -> LayerCase:
    return LayerCase(**{"num_classes": 41, "samples": 4, "sample_ratio": 0.1, **options})


def take_steps(case: LayerCase, collectives: Collectives, **options: Any) -> Trace:
    ratios = [(step, 1.0 if step in ALL_ROWS else case.sample_ratio) for step in range(1, STEPS)]
    layer = case.make_layer(collectives, lazy_updates=True, sample_ratio_steps=ratios, **options)
    trace = Trace()
    for step in range(STEPS):
        x_ND, label_N = case.batch(step)
        sample = layer.sample(label_N, step)
        assert (len(sample.row_S) == layer.centers.count) == (step in ALL_ROWS)
        if step in SKIPPED:
            x_ND = np.full_like(x_ND, np.nan)
        trace.loss.append(layer.forward(mx.nd.array(own_part(x_ND, collectives)), sample))
        trace.sampled.append(layer.first_class + sample.row_S)
        if step not in SKIPPED:
            trace.gradient_x_BD.append(layer.backward(learning_rate(step)).asnumpy())
    layer.centers.settle_all()
    trace.weight_CD, trace.momentum_CD = centers_of(layer)
    return trace


@dataclass
class DenseRun:
    """The dense layer's steps: every row is updated each time, the gradient being that of the sampled classes."""

    loss: list[float]
    gradient_x_ND: list[np.ndarray]
    weight_CD: np.ndarray
    momentum_CD: np.ndarray
    initial_CD: np.ndarray


def dense_run(case: LayerCase, traces: list[Trace]) -> DenseRun:
    everything = np.arange(case.num_classes)
    w_CD = initial_rows(case.seed, everything, case.embedding_size).astype(np.float64)
    run = DenseRun([], [], w_CD, np.zeros_like(w_CD), w_CD)
    for step in range(STEPS):
        if step in SKIPPED:
            continue
        x_ND, label_N = case.batch(step)
        columns = np.concatenate([trace.sampled[step] for trace in traces])
        dense = dense_loss_and_gradients(x_ND, label_N, run.weight_CD, columns, margin=case.margin, scale=case.scale)
        run.loss.append(dense.loss)
        run.gradient_x_ND.append(dense.gradient_x_ND)
        run.weight_CD, run.momentum_CD = dense_sgd_momentum(
            run.weight_CD, run.momentum_CD, dense.gradient_w_CD, everything,
            learning_rate=learning_rate(step), momentum=case.momentum, weight_decay=case.weight_decay,
        )  # fmt: skip
    return run


def errors_of(case: LayerCase, traces: list[Trace]) -> dict[str, float]:
    """How far the steps are from the dense ones'."""
    dense = dense_run(case, traces)
    losses = [[loss for step, loss in enumerate(trace.loss) if step not in SKIPPED] for trace in traces]
    assert all(np.isnan(trace.loss[step]) for trace in traces for step in SKIPPED)
    gradients = zip(*(trace.gradient_x_BD for trace in traces), strict=True)
    weight_CD, momentum_CD = (
        np.concatenate([vars(trace)[name] for trace in traces]) for name in ("weight_CD", "momentum_CD")
    )
    change = np.abs(dense.weight_CD - dense.initial_CD).max()
    return {
        "loss": max(relative_error(loss, dense.loss) for loss in losses),
        "gradient": max(
            relative_error(np.concatenate(parts), expected)
            for parts, expected in zip(gradients, dense.gradient_x_ND, strict=True)
        ),
        "weight": float(np.abs(weight_CD - dense.weight_CD).max() / change),
        "momentum": relative_error(momentum_CD, dense.momentum_CD),
    }


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_all_rows_are_those_of_the_dense_update(ranks: int, layer_form: dict[str, Any]) -> None:
    case = make_case()
    traces = run_thread_ranks(ranks, lambda collectives: take_steps(case, collectives, **layer_form))
    sampled = np.bincount(np.concatenate([part for trace in traces for part in trace.sampled]))
    assert sampled.min() == len(ALL_ROWS) and sampled.max() > 2, "some rows are touched in one step alone"
    errors = errors_of(case, traces)
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("form", ["C", "NDArray"])
def test_rows_that_no_step_samples_decay_from_the_first_update_on(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As far as steps on all rows do not touch them: leave these out. Rows in stores of 8.
    monkeypatch.setattr(row_store, "LARGEST_STORE_ELEMENTS", 8 * 16)
    monkeypatch.setattr(f"{__name__}.ALL_ROWS", ())
    case = make_case()
    traces = run_thread_ranks(2, lambda collectives: take_steps(case, collectives, kernels=form))
    never = np.setdiff1d(np.arange(41), np.concatenate([part for trace in traces for part in trace.sampled]))
    assert len(never) > 5
    errors = errors_of(case, traces)
    assert max(errors.values()) < 1e-5, errors
    assert np.abs(traces[0].momentum_CD).min() > 0, "weight decay has moved every element"


# A row is rounded whenever it is written, to so many bits of its largest numbers, and the next steps start from there:
# over 7 updates that is a few roundings' worth, of W beside the change that the steps make in it.
TOLERANCES = {
    "float32/float16": 2e-3,
    "float32/int8": 5e-2,
    "float16/float32": 5e-3,
    "host:float16/float16": 5e-3,
    "host:float16/int8": 5e-2,
}


@pytest.mark.parametrize("form", ["C", "NDArray"])
@pytest.mark.parametrize("types", TOLERANCES)
def test_rows_of_fewer_bits_are_those_of_the_dense_update_up_to_their_rounding(form: str, types: str) -> None:
    case = make_case()
    options = {"kernels": form, "storage": Storage.parse(types)}
    errors = errors_of(case, run_thread_ranks(2, lambda collectives: take_steps(case, collectives, **options)))
    assert max(errors.values()) < TOLERANCES[types], errors


def test_without_the_option_rows_outside_the_sample_stay() -> None:
    case = make_case()
    layer = case.make_layer(SingleProcess())
    x_ND, label_N = case.batch(0)
    sample = layer.sample(label_N, 0)
    layer.forward(mx.nd.array(x_ND), sample)
    layer.backward(0.1)
    layer.centers.settle_all()
    others = np.setdiff1d(np.arange(41), sample.row_S)
    np.testing.assert_array_equal(centers_of(layer)[0][others], initial_rows(0, others, 16))


def stepped(case: LayerCase, steps: int, **options: Any) -> PartialFC:
    layer = case.make_layer(SingleProcess(), lazy_updates=True, **options)
    for step in range(steps):
        x_ND, label_N = case.batch(step)
        layer.forward(mx.nd.array(x_ND), layer.sample(label_N, step))
        layer.backward(0.001)
    return layer


def test_a_skipped_step_and_a_look_ahead_change_no_row(form: str) -> None:
    layer = stepped(make_case(), 3, kernels=form)
    layer.centers.initialize_all()
    before = centers_of(layer)
    for update in (3, 4):
        layer.sample(np.arange(4), update)
    mx.nd.waitall()
    for old, new in zip(before, centers_of(layer), strict=True):
        np.testing.assert_array_equal(new, old)


def test_settling_twice_is_settling_once_and_says_which_rows_change() -> None:
    layer = stepped(make_case(), 3)
    centers = layer.centers
    changed: list[int] = []
    (store,) = centers.stores
    behind = np.flatnonzero(store.last_R < 3)
    assert 0 < len(behind) < 41
    store.before_change = lambda rows: changed.extend(rows.tolist())
    centers.settle_all()
    once = centers_of(layer)
    centers.settle_all()
    for old, new in zip(once, centers_of(layer), strict=True):
        np.testing.assert_array_equal(new, old)
    assert changed == behind.tolist()
    np.testing.assert_allclose(store.inverse_norm_R.asnumpy(), 1 / np.linalg.norm(once[0], axis=1), rtol=1e-6)


def test_all_rows_are_used_where_they_are_once_they_are_up_to_date(layer_form: dict[str, Any]) -> None:
    case = make_case(sample_ratio=1.0)
    layer = stepped(case, 2, **layer_form)
    blocks = layer.centers.blocks(np.arange(41))
    assert all(block.factors_B4 is None for block in blocks)
    plain = case.make_layer(SingleProcess(), **layer_form).centers.blocks(np.arange(41))
    assert [type(block.rows) for block in blocks] == [type(block.rows) for block in plain]
