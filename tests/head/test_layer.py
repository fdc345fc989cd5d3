"""PartialFC as a layer of a network: autograd, backward() and step() against the dense layer in float64."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

import default
from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.head.margin import Margin
from partial_fc.head.margin_names import MARGIN_SOFTMAXES, MARGINS
from partial_fc.head.partial_fc import PartialFC
from partial_fc.testing import (
    LayerCase,
    LayerTrace,
    centers_of,
    compare_with_dense,
    dense_loss_and_gradients,
    own_part,
    relative_error,
)

CASE = LayerCase(23, margin=Margin(m2=0.5), sample_ratio=0.3)
ONE_STEP = replace(CASE, sample_ratio=1.0, momentum=0.0, weight_decay=0.0)


def batch_of(case: LayerCase, collectives: Collectives, step: int = 0) -> tuple[nd.NDArray, np.ndarray]:
    """The rank's embeddings of a step, with memory for their gradient, and its labels."""
    x_ND, label_N = case.batch(step)
    x_BD = nd.array(own_part(x_ND, collectives))
    x_BD.attach_grad()
    return x_BD, own_part(label_N, collectives)


def train_by_calls(case: LayerCase, collectives: Collectives, loss_scale: float = 1.0, **options: Any) -> LayerTrace:
    """The case's steps, each by a call, backward() and step()."""
    head = case.make_layer(collectives, learning_rate=case.learning_rate, **options)
    trace = LayerTrace(head.first_class)
    trace.weight_CD, trace.momentum_CD = ([part] for part in centers_of(head))
    for step in range(case.steps):
        x_BD, label_B = batch_of(case, collectives, step)
        trace.sampled_classes.append(head.first_class + head.sample(case.batch(step)[1], step).row_S)
        with autograd.record():
            loss = head(x_BD, label_B)
            scaled = loss * loss_scale
        scaled.backward()
        assert head.step(loss_scale=loss_scale)
        trace.loss.append(loss.asscalar())
        trace.gradient_x_BD.append(x_BD.grad.asnumpy() / loss_scale)
        for held, part in zip((trace.weight_CD, trace.momentum_CD), centers_of(head), strict=True):
            held.append(part)
    assert head.update == case.steps
    return trace


def assert_as_dense(case: LayerCase, traces: list[LayerTrace]) -> None:
    errors = compare_with_dense(case, traces)
    assert errors.loss < 1e-5, errors
    assert max(errors.gradient_x, errors.gradient_w, errors.momentum, errors.weight) < 5e-5, errors


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("sample_ratio", [1.0, 0.3])
def test_three_steps_are_those_of_the_dense_layer(
    ranks: int, sample_ratio: float, layer_form: dict[str, Any]
) -> None:
    case = replace(CASE, sample_ratio=sample_ratio)
    assert_as_dense(case, run_thread_ranks(ranks, lambda collectives: train_by_calls(case, collectives, **layer_form)))


@pytest.mark.parametrize(("samples", "embedding_size"), [(6, 2), (34, 7), (12, 129)])
def test_odd_sizes(samples: int, embedding_size: int) -> None:
    case = replace(CASE, embedding_size=embedding_size, samples=samples, margin=Margin(m3=0.4))
    assert_as_dense(case, run_thread_ranks(2, lambda collectives: train_by_calls(case, collectives)))


def test_a_loss_scale_leaves_the_steps_as_they_are() -> None:
    traces = run_thread_ranks(2, lambda collectives: train_by_calls(CASE, collectives, loss_scale=1024.0))
    assert_as_dense(CASE, traces)


def test_the_gradient_is_that_of_what_backward_is_called_on() -> None:
    def change_of(factor: float) -> tuple[np.ndarray, np.ndarray]:
        head = ONE_STEP.make_layer(SingleProcess())
        before = centers_of(head)[0]
        x_ND, label_N = batch_of(ONE_STEP, SingleProcess())
        with autograd.record():
            total = head(x_ND, label_N) * factor + nd.sum(x_ND * x_ND)
        total.backward()
        head.step(0.001)
        return x_ND.grad.asnumpy() - 2 * x_ND.asnumpy(), centers_of(head)[0] - before

    (once_x, once_w), (thrice_x, thrice_w) = change_of(1.0), change_of(3.0)
    assert relative_error(thrice_x, 3 * once_x) < 1e-4
    assert relative_error(thrice_w, 3 * once_w) < 1e-4


def test_a_hybridized_network_learns_by_the_dense_gradient_and_another_loss() -> None:
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Dense(9, activation="tanh"), gluon.nn.Dense(16, use_bias=False))
    net.initialize(mx.init.Xavier())
    net.hybridize()
    head = ONE_STEP.make_layer(SingleProcess())
    data, label_N = nd.random.normal(shape=(12, 5)), ONE_STEP.batch(0)[1]
    with autograd.record():
        embedding = net(data)
        total = head(embedding, label_N) * 3 + nd.mean(embedding * embedding)
    total.backward()
    weight_CD = centers_of(head)[0]
    x_ND = embedding.asnumpy().astype(np.float64)
    dense = dense_loss_and_gradients(x_ND, label_N, weight_CD, margin=ONE_STEP.margin, scale=head.scale)
    gradient_ND = 3 * dense.gradient_x_ND + 2 * x_ND / x_ND.size
    hidden_ND = net[0](data).asnumpy()
    assert total.asscalar() == pytest.approx(3 * dense.loss + (x_ND**2).mean(), rel=1e-5)
    assert relative_error(net[1].weight.grad().asnumpy(), gradient_ND.T @ hidden_ND) < 5e-5


def test_float16_embeddings_get_a_float16_gradient() -> None:
    head = ONE_STEP.make_layer(SingleProcess())
    x_ND, label_N = ONE_STEP.batch(0)
    half_ND = nd.array(x_ND, dtype="float16")
    half_ND.attach_grad()
    with autograd.record():
        loss = head(half_ND, label_N) * 8
    loss.backward()
    dense = dense_loss_and_gradients(
        half_ND.asnumpy().astype(np.float64), label_N, centers_of(head)[0], margin=ONE_STEP.margin, scale=head.scale
    )
    assert half_ND.grad.dtype == np.float16
    assert loss.asscalar() == pytest.approx(8 * dense.loss, rel=1e-5)
    assert relative_error(half_ND.grad.asnumpy(), 8 * dense.gradient_x_ND) < 1e-3


def test_embeddings_of_numpy_form_get_their_gradient() -> None:
    x_ND, label_N = ONE_STEP.batch(0)
    gradients = []
    for make in (nd.array, mx.np.array):
        head, x = ONE_STEP.make_layer(SingleProcess()), make(x_ND)
        x.attach_grad()
        with autograd.record():
            loss = head(x, label_N)
        loss.backward()
        gradients.append(x.grad.asnumpy())
    np.testing.assert_array_equal(*gradients)


def test_centers_learn_beside_a_network_that_does_not() -> None:
    head = CASE.make_layer(SingleProcess())
    before = centers_of(head)[0]
    with autograd.record():
        loss = head(nd.array(CASE.batch(0)[0]), CASE.batch(0)[1])
    loss.backward()
    assert head.step()
    assert (centers_of(head)[0] != before).any()


def test_without_record_the_loss_is_all_there_is(layer_form: dict[str, Any]) -> None:
    def losses(collectives: Collectives) -> tuple[float, float, bool]:
        head = CASE.make_layer(collectives, **layer_form)
        x_BD, label_B = batch_of(CASE, collectives)
        before = centers_of(head)
        evaluated = head(x_BD, label_B).asscalar()
        same = all(a.tobytes() == b.tobytes() for a, b in zip(before, centers_of(head), strict=True))
        with pytest.raises(ValueError, match="belongs to a call of it under autograd.record"):
            head.step()
        with autograd.record():
            loss = head(x_BD, label_B)
        loss.backward()
        return evaluated, loss.asscalar(), same and head.update == 0

    for evaluated, recorded, same in run_thread_ranks(2, losses):
        assert evaluated == recorded and same


def test_a_loss_that_is_no_number_changes_nothing_on_any_rank(layer_form: dict[str, Any]) -> None:
    def train_over_it(collectives: Collectives) -> tuple[bool, ...]:
        head = CASE.make_layer(collectives, **layer_form)
        before = centers_of(head)
        x_BD, label_B = batch_of(CASE, collectives)
        if collectives.rank == 1:
            x_BD[2, 3] = np.nan
        with autograd.record():
            loss = head(x_BD, label_B)
        loss.backward()
        stepped = head.step()
        same = all(a.tobytes() == b.tobytes() for a, b in zip(before, centers_of(head), strict=True))
        no_number = not np.isfinite(loss.asscalar()) and np.isnan(x_BD.grad.asnumpy()).all()
        x_BD, label_B = batch_of(CASE, collectives, 1)
        with autograd.record():
            loss = head(x_BD, label_B)
        loss.backward()
        return stepped, same, bool(no_number), head.step() and np.isfinite(loss.asscalar()), head.update == 2

    assert run_thread_ranks(2, train_over_it) == [(False, True, True, True, True)] * 2


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_changes_no_center(weight: float) -> None:
    head = CASE.make_layer(SingleProcess())
    before = centers_of(head)[0]
    x_ND, label_N = batch_of(CASE, SingleProcess())
    with autograd.record():
        loss = head(x_ND, label_N) * weight
    loss.backward()
    assert not head.step()
    np.testing.assert_array_equal(centers_of(head)[0], before)


def test_a_second_backward_pass_needs_the_graph_and_gives_the_same() -> None:
    centers = []
    for passes in (1, 2):
        head = CASE.make_layer(SingleProcess())
        x_ND, label_N = batch_of(CASE, SingleProcess())
        with autograd.record():
            loss = head(x_ND, label_N)
        for _ in range(passes - 1):
            loss.backward(retain_graph=True)
        loss.backward()
        with pytest.raises(mx.MXNetError, match="retain_graph"):
            loss.backward()
        head.step()
        centers.append((x_ND.grad.asnumpy(), *centers_of(head)))
    for once, twice in zip(*centers, strict=True):
        np.testing.assert_array_equal(once, twice)


def test_a_step_takes_the_last_call_alone() -> None:
    stepped = []
    for earlier_steps in ((), (5,)):
        head = replace(CASE, sample_ratio=1.0).make_layer(SingleProcess())
        for step in (*earlier_steps, 0):
            x_ND, label_N = batch_of(CASE, SingleProcess(), step)
            with autograd.record():
                loss = head(x_ND, label_N)
            loss.backward()
        head.step()
        stepped.append(centers_of(head)[0])
    np.testing.assert_array_equal(*stepped)


def test_the_rate_of_a_step_is_given_or_set() -> None:
    changed = []
    for form in ("argument", "setter", "constructor"):
        head = ONE_STEP.make_layer(SingleProcess(), learning_rate=0.25 if form == "constructor" else 0.1)
        if form == "setter":
            head.set_learning_rate(0.25)
        x_ND, label_N = batch_of(ONE_STEP, SingleProcess())
        with autograd.record():
            loss = head(x_ND, label_N)
        loss.backward()
        head.step(*([0.25] if form == "argument" else []))
        changed.append(centers_of(head)[0])
    np.testing.assert_array_equal(changed[0], changed[1])
    np.testing.assert_array_equal(changed[0], changed[2])


@pytest.mark.parametrize("make", [list, np.array, nd.array, lambda labels: nd.array(labels, dtype="int32")[:, None]])
def test_labels_may_be_of_any_form(make: Any) -> None:
    x_ND, label_N = CASE.batch(0)
    head = CASE.make_layer(SingleProcess())
    assert head(nd.array(x_ND), make(label_N)).asscalar() == head(nd.array(x_ND), label_N).asscalar()


def test_the_collectives_of_a_call_and_a_step() -> None:
    def traffic(collectives: Collectives) -> dict[str, tuple[str, int, int]]:
        head = CASE.make_layer(collectives)
        x_BD, label_B = batch_of(CASE, collectives)
        with autograd.record():
            loss = head(x_BD, label_B)
        loss.backward()
        head.step()
        return {name: (entry.kind, entry.calls, entry.bytes) for name, entry in collectives.traffic.items()}

    for carried in run_thread_ranks(3, traffic):
        assert carried == {
            "head.labels": ("all_gather", 1, 8 * (1 + 4)),
            "head.embeddings": ("all_gather", 1, 4 * 4 * 16),
            "head.softmax_sum": ("all_reduce", 1, 2 * 8 * 12),
            "head.embedding_gradients": ("reduce_scatter", 1, 4 * 12 * 16),
        }


# ---- what is refused ----


def test_a_step_without_a_backward_pass_is_refused() -> None:
    head = CASE.make_layer(SingleProcess())
    with pytest.raises(ValueError, match=r"step\(\) of PartialFC belongs to a call of it under autograd.record\(\)"):
        head.step()
    x_ND, label_N = batch_of(CASE, SingleProcess())
    with autograd.record():
        loss = head(x_ND, label_N)
    with pytest.raises(ValueError, match=r"needs the gradient of its loss: call loss.backward\(\)"):
        head.step()
    loss.backward()
    head.step()
    with pytest.raises(ValueError, match="there was none since the last step"):
        head.step()
    with autograd.record():
        loss = head(x_ND, label_N)
    loss.backward()
    head.forget()
    with pytest.raises(ValueError, match="there was none"):
        head.step()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": nd.ones((4, 7))}, r"shape \(batch, 16\), but these have \(4, 7\)"),
        ({"embedding": nd.ones((4, 16, 1))}, r"these have \(4, 16, 1\)"),
        ({"embedding": np.ones((4, 16))}, "as an NDArray, but is given a ndarray"),
        ({"label": [1, 2, 3]}, r"a label for each of 4 embeddings, but the labels have \(3,\)"),
        ({"label": nd.array([1, 2, 3, 0.5])}, "must be whole numbers"),
        ({"label": nd.array([1, 2, 3, np.nan])}, "must be whole numbers"),
        ({"label": nd.array([1, 2, 3, 2**24])}, "float32 holds labels exactly up to 16,777,216"),
        ({"label": nd.array([1, 2, 3, 2049], dtype="float16")}, "float16 holds labels exactly up to 2,048"),
        ({"label": [1, 2, 3, np.inf]}, "float64 holds labels exactly"),
        ({"label": ["a", "b", "c", "d"]}, "labels must be whole numbers"),
        ({"label": [1, 2, 3, 23]}, r"labels must lie in \[0, 23\), but one is 23"),
        ({"label": [1, 2, 3, -1]}, r"but one is -1"),
    ],
)
def test_what_no_head_takes_is_refused_on_every_rank(change: dict[str, Any], message: str) -> None:
    def refusal(collectives: Collectives) -> str:
        arguments = {"embedding": nd.ones((4, 16)), "label": [1, 2, 3, 4]}
        if collectives.rank == 1:
            arguments |= change
        head = CASE.make_layer(collectives)
        with pytest.raises(ValueError, match=message) as caught:
            head(*arguments.values())
        assert np.isfinite(head(nd.ones((4, 16)), [1, 2, 3, 4]).asscalar())
        return str(caught.value)

    assert len(set(run_thread_ranks(2, refusal))) == 1


def test_other_batch_sizes_on_other_ranks_are_refused_on_every_rank() -> None:
    def refusal(collectives: Collectives) -> str:
        size = 4 - collectives.rank
        with pytest.raises(ValueError) as caught:
            CASE.make_layer(collectives)(nd.ones((size, 16)), [1] * size)
        return str(caught.value)

    (message,) = set(run_thread_ranks(3, refusal))
    assert "every rank must pass as many embeddings, but they pass 4, 3, 2" in message


def test_rates_scales_and_names_out_of_their_range_are_refused() -> None:
    head = CASE.make_layer(SingleProcess())
    for rate in (-0.1, np.inf, np.nan):
        with pytest.raises(ValueError, match="the learning rate must be finite and not negative"):
            head.set_learning_rate(rate)
        with pytest.raises(ValueError, match="the learning rate must"):
            head.step(rate)
        with pytest.raises(ValueError, match="the learning rate must"):
            PartialFC(23, 16, learning_rate=rate)
    with pytest.raises(ValueError, match="unknown margin 'arc': choose one of arcface, cosface"):
        PartialFC(23, 16, margin="arc")
    x_ND, label_N = batch_of(CASE, SingleProcess())
    with autograd.record():
        loss = head(x_ND, label_N)
    loss.backward()
    for loss_scale in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="the loss scale must be finite and positive"):
            head.step(loss_scale=loss_scale)
    assert head.step()


# ---- alone ----


def test_two_numbers_make_a_head() -> None:
    head = PartialFC(10, 4)
    assert head.margin.for_batch(None, None).target == Margin(m3=0.4)
    assert head.scale == 64.0 and head.centers.count == 10


def test_margins_have_the_names_and_values_of_the_recipes() -> None:
    for name, margin in MARGINS.items():
        recipe = default.LOSSES[name]
        assert margin == Margin(*(recipe[f"loss_m{number}"] for number in (1, 2, 3)))
    sv, ada, curricular = (MARGIN_SOFTMAXES[name]() for name in ("sv", "adaface", "curricularface"))
    assert (sv.m, sv.t) == (default.LOSSES["sv"]["loss_m3"], default.LOSSES["sv"]["hard_negatives"])
    assert (ada.m, ada.h) == (default.LOSSES["adaface"]["loss_m2"], default.LOSSES["adaface"]["adaface_h"])
    assert curricular.margin.m2 == default.LOSSES["curricularface"]["loss_m2"]
    assert PartialFC(5, 4, margin="adaface").margin is not PartialFC(5, 4, margin="adaface").margin


@pytest.mark.parametrize("options", [{"margin": "adaface"}, {"lazy_updates": True}, {"filter_cosine": 0.2}])
def test_what_a_step_keeps_is_kept_by_a_call_and_a_step_too(options: dict[str, Any]) -> None:
    def train(collectives: Collectives) -> list[tuple[np.ndarray, ...]]:
        heads = [
            PartialFC(23, 16, collectives, sample_ratio=0.3, **options),
            PartialFC(23, 16, collectives, sample_ratio=0.3, **options),
        ]
        for step in range(4):
            x_BD, label_B = batch_of(CASE, collectives, step)
            heads[0].forward(x_BD, heads[0].sample(CASE.batch(step)[1], step))
            heads[0].backward(0.001)
            with autograd.record():
                loss = heads[1](x_BD, label_B)
            loss.backward()
            heads[1].step(0.001)
        statistics = [np.array(list(head.margin.statistics.values())) for head in heads]
        return list(zip((*centers_of(heads[0]), statistics[0]), (*centers_of(heads[1]), statistics[1]), strict=True))

    for of_rank in run_thread_ranks(2, train):
        for trainers, layers in of_rank:
            np.testing.assert_allclose(layers, trainers, rtol=1e-4, atol=1e-6)


AMP = """
import mxnet as mx
from mxnet import autograd, gluon, nd
from mxnet.contrib import amp
from partial_fc.collectives import SingleProcess
from partial_fc.testing import LayerCase, centers_of
import numpy as np

def train(form, with_amp):
    case = LayerCase(23, margin=LayerCase(23).margin, samples=12)
    head = case.make_layer(SingleProcess(), kernels=form)
    factor = gluon.Parameter("factor", shape=(1, 16), init="ones")
    factor.initialize()
    trainer = gluon.Trainer([factor], "sgd", {"learning_rate": 0.1}, kvstore=None)
    if with_amp:
        amp.init_trainer(trainer)
    for step in range(3):
        x_ND, label_N = case.batch(step)
        with autograd.record():
            loss = head(nd.broadcast_mul(nd.array(x_ND), factor.data()), label_N)
            if with_amp:
                with amp.scale_loss(loss, trainer) as scaled:
                    autograd.backward(scaled)
        if not with_amp:
            loss.backward()
        head.step(0.001, loss_scale=trainer._amp_loss_scaler.loss_scale if with_amp else 1.0)
        trainer.step(1)
    return loss.asscalar(), factor.data().asnumpy(), *centers_of(head)

forms = ("C", "NDArray")
before = [train(form, False) for form in forms]
amp.init()
for expected, form in zip(before, forms):
    for a, b in zip(expected, train(form, True)):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-6)
print("the same")
"""


def test_amp_changes_neither_the_layer_nor_its_steps() -> None:
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", AMP], cwd=root, capture_output=True, text=True, timeout=120,
                         env={"PYTHONPATH": f"{root}:{root / 'src'}", "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert run.returncode == 0 and run.stdout.endswith("the same\n"), run.stderr
