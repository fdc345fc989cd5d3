"""AdaFace, CurricularFace, SV-softmax, the noise filter, purely random sampling: against the dense layer in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.head.initialization import initial_rows
from partial_fc.head.margin import Margin
from partial_fc.head.margin_softmax import AdaFace, CurricularFace, FixedMargin, MarginSoftmax, SVSoftmax
from partial_fc.head.partial_fc import PartialFC
from partial_fc.testing import LayerCase, LayerTrace, compare_with_dense, own_part, train_layer

MARGINS: dict[str, Margin | Callable[[], MarginSoftmax]] = {
    "AdaFace": AdaFace,
    "AdaFace, fast statistics": lambda: AdaFace(0.5, 0.8, alpha=0.3),
    "CurricularFace": CurricularFace,
    "CurricularFace, fast": lambda: CurricularFace(0.3, alpha=0.5),
    "SV": SVSoftmax,
    "CosFace": Margin(m3=0.4),
    "ArcFace": Margin(m2=0.5),
}
every_margin = pytest.mark.parametrize("margin", MARGINS.values(), ids=MARGINS.keys())


def train_on(ranks: int, case: LayerCase, **options: Any) -> list[LayerTrace]:
    return run_thread_ranks(ranks, lambda collectives: train_layer(case, collectives, **options))


def assert_as_dense(case: LayerCase, traces: list[LayerTrace]) -> None:
    errors = compare_with_dense(case, traces)
    assert errors.loss < 1e-5, errors
    assert max(errors.gradient_x, errors.gradient_w, errors.momentum, errors.weight) < 5e-5, errors


@every_margin
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("sample_ratio", [1.0, 0.3])
@pytest.mark.parametrize("filter_cosine", [None, 0.2])
def test_steps_are_those_of_the_dense_layer(
    margin: Any, ranks: int, sample_ratio: float, filter_cosine: float | None, blocks_form: dict[str, Any]
) -> None:
    case = LayerCase(23, margin=margin, sample_ratio=sample_ratio, filter_cosine=filter_cosine, steps=4)
    assert_as_dense(case, train_on(ranks, case, **blocks_form))


@every_margin
def test_every_form_of_the_layer_takes_the_same_steps(margin: Any, layer_form: dict[str, Any]) -> None:
    case = LayerCase(23, margin=margin, sample_ratio=0.6, filter_cosine=0.3)
    assert_as_dense(case, train_on(3, case, **layer_form))


@every_margin
@pytest.mark.parametrize(("scale", "samples", "size"), [(8.0, 33, 7), (301.0, 6, 17)])
def test_other_scales_and_odd_sizes(margin: Any, scale: float, samples: int, size: int) -> None:
    case = LayerCase(57, size, samples, margin=margin, scale=scale, sample_ratio=0.5)
    assert_as_dense(case, train_on(3, case))


@pytest.mark.parametrize("margin", [lambda: SVSoftmax(t=20.0), lambda: SVSoftmax(0.4, 4.0)])
@pytest.mark.parametrize("scale", [64.0, 300.0])
def test_hard_negatives_that_count_for_much_more_have_a_finite_loss(margin: Any, scale: float) -> None:
    case = LayerCase(23, margin=margin, scale=scale, steps=1)
    assert_as_dense(case, train_on(2, case))


@pytest.mark.parametrize("offset", [-1e-3, 1e-3])
def test_a_negative_is_hard_from_the_threshold_on_and_left_out_from_the_filter_on(form: str, offset: float) -> None:
    # A plane, the embedding along the first axis: its own center at 0.8, a negative beside where it becomes hard.
    own, scale, angle_m, m, t = math.cos(0.8), 4.0, math.cos(0.8 + 0.5), 0.4, 0.01 * math.cos(0.8)
    cases = {
        "sv": (SVSoftmax(), None, own - m, own - m, lambda cosine: 1.2 * cosine + 0.2),
        "curricularface": (CurricularFace(), None, angle_m, angle_m, lambda cosine: cosine * (t + cosine)),
        "filter": (Margin(m3=m), 0.3, 0.3, own - m, lambda cosine: -math.inf),
        "sv and filter": (SVSoftmax(), own - m, own - m, own - m, lambda cosine: -math.inf),
    }
    for name, (margin, filter_cosine, threshold, target, beyond) in cases.items():
        layer = PartialFC(2, 2, SingleProcess(), margin=margin, scale=scale, filter_cosine=filter_cosine, kernels=form)
        cosine = threshold + offset
        weight_CD = np.array([[own, math.sin(0.8)], [cosine, math.sqrt(1 - cosine**2)]], np.float32)
        layer.centers.put_rows(np.arange(2), {"weight": 3 * weight_CD})
        loss = layer.forward(mx.nd.array([[5.0, 0.0]]), layer.sample(np.array([0]), 0))
        negative = beyond(cosine) if offset > 0 else cosine
        assert loss == pytest.approx(math.log1p(math.exp(scale * (negative - target))), abs=1e-5), name


def test_the_cases_have_hard_negatives_and_some_above_the_filter() -> None:
    case = LayerCase(23)
    x_ND, label_N = case.batch(0)
    w_CD = initial_rows(case.seed, np.arange(23), case.embedding_size)
    unit_ND, unit_CD = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x_ND, w_CD))
    cosine_NC = unit_ND @ unit_CD.T
    own_N1 = np.take_along_axis(cosine_NC, label_N[:, None], axis=1)
    negative_NC = np.arange(23) != label_N[:, None]
    assert 20 < ((cosine_NC > own_N1 - 0.4) & negative_NC).sum() < 0.8 * negative_NC.sum()
    assert 10 < ((cosine_NC > 0.2) & negative_NC).sum() < 0.5 * negative_NC.sum()


# ---- purely random sampling


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("margin", [Margin(m3=0.4), AdaFace], ids=["CosFace", "AdaFace"])
def test_samples_whose_class_is_not_drawn_have_no_part_in_the_loss(
    ranks: int, margin: Any, blocks_form: dict[str, Any]
) -> None:
    case = LayerCase(23, samples=24, sample_ratio=0.4, margin=margin, sampler="uniform")
    traces = train_on(ranks, case, **blocks_form)
    for step in range(case.steps):
        sampled = np.concatenate([trace.sampled_classes[step] for trace in traces])
        present_N = np.isin(case.batch(step)[1], sampled)
        assert 0 < present_N.sum() < len(present_N)
        gradient_ND = np.concatenate([trace.gradient_x_BD[step] for trace in traces])
        assert not gradient_ND[~present_N].any() and gradient_ND[present_N].any(axis=1).all()
        for trace in traces:
            count = len(trace.weight_CD[0])
            assert len(trace.sampled_classes[step]) == max(round(0.4 * count), 1)
    assert_as_dense(case, traces)


def test_a_batch_of_which_no_class_is_drawn_has_no_loss_and_moves_nothing_but_by_decay() -> None:
    layer = PartialFC(
        1000, 8, SingleProcess(), margin=Margin(m3=0.4), sample_ratio=0.002, sampler="uniform", weight_decay=0.0
    )
    x_ND = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    sample = layer.sample(np.array([1, 2, 3]), 0)
    assert not np.isin([1, 2, 3], sample.row_S).any()
    assert layer.forward(mx.nd.array(x_ND), sample) == 0.0
    assert not layer.backward(0.1).asnumpy().any()
    weight_SD = layer.centers.stores[0].weight_RD.asnumpy()[sample.row_S]
    np.testing.assert_array_equal(weight_SD, initial_rows(0, sample.row_S, 8))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_an_embedding_that_is_no_number_has_no_loss_though_its_class_is_not_drawn(
    number: float, blocks_form: dict[str, Any]
) -> None:
    case = LayerCase(100, samples=8, sample_ratio=0.3, sampler="uniform")

    def loss_on(collectives: Collectives) -> float:
        x_ND, label_N = case.batch(0)
        layer = case.make_layer(collectives, **blocks_form)
        sample = layer.sample(label_N, 0)
        absent_N = collectives.all_gather(mx.nd.array(sample.columns.column_N[None]), "columns").asnumpy().max(0) < 0
        assert 0 < absent_N.sum() < 8
        x_ND[np.flatnonzero(absent_N)[0], 3] = number
        return layer.forward(mx.nd.array(own_part(x_ND, collectives)), sample)

    assert not np.isfinite(run_thread_ranks(2, loss_on)).any()


# ---- ratio schedules


def test_the_sample_ratio_follows_its_schedule() -> None:
    def sizes(collectives: Collectives) -> list[int]:
        steps = [(3, 0.25), (5, 1.0)]
        layer = PartialFC(40, 8, collectives, margin=Margin(), sample_ratio=0.5, sample_ratio_steps=steps)
        return [len(layer.sample(np.array([0]), update).row_S) for update in range(7)]

    assert run_thread_ranks(2, sizes) == [[10, 10, 10, 5, 5, 20, 20]] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_ratio_steps": [(3, 0.0)]}, r"sample ratio must lie in \(0, 1\], but is 0.0"),
        ({"sample_ratio_steps": [(0, 0.5)]}, "must ascend from 1 on, but are 0"),
        ({"sample_ratio_steps": [(5, 0.5), (5, 0.6)]}, "must ascend from 1 on, but are 5, 5"),
        ({"sampler": "PPRN"}, "must be one of pprn, uniform, but is 'PPRN'"),
        ({"sampler": "uniform", "margin": SVSoftmax()}, "SVSoftmax needs every sample's class"),
        ({"filter_cosine": 1.0}, "left out above .* but is 1.0"),
        ({"filter_cosine": math.nan}, "left out above .* but is nan"),
        ({"momentum": 1.0}, r"momentum .* must lie in \[0, 1\), but is 1.0"),
        ({"momentum": math.nan}, "momentum .* but is nan"),
        ({"weight_decay": -1e-4}, "weight decay must be finite and not negative, but is -0.0001"),
        ({"weight_decay": math.inf}, "weight decay .* but is inf"),
        ({"margin": 0.5}, "must be a name, a Margin or a margin softmax, but is 0.5"),
    ],
)
def test_an_argument_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartialFC(23, 16, SingleProcess(), **{"margin": Margin(), **options})


# ---- what margins keep


@pytest.mark.parametrize("make", [AdaFace, CurricularFace])
def test_statistics_are_those_of_all_ranks_and_only_of_updates_that_are_made(make: Callable[[], MarginSoftmax]) -> None:
    case = LayerCase(23, margin=make)

    def statistics(collectives: Collectives) -> list[dict[str, float]]:
        layer = case.make_layer(collectives)
        seen = [dict(layer.margin.statistics)]
        for step, bad in enumerate((False, True, False)):
            x_ND, label_N = case.batch(step)
            x_ND[5] = math.nan if bad else x_ND[5]
            loss = layer.forward(mx.nd.array(own_part(x_ND, collectives)), layer.sample(label_N, step))
            assert math.isfinite(loss) is not bad
            if not bad:
                layer.backward(case.learning_rate)
            seen.append(dict(layer.margin.statistics))
        return seen

    alone = run_thread_ranks(1, statistics)[0]
    assert alone[0] != alone[1] == alone[2] != alone[3]
    for ranks in (2, 3):
        for of_rank in run_thread_ranks(ranks, statistics):
            for expected, actual in zip(alone, of_rank, strict=True):
                assert actual == pytest.approx(expected, rel=1e-6)


def test_adaface_begins_with_the_statistics_of_its_authors_and_follows_the_batch() -> None:
    margin = AdaFace(alpha=0.9)
    batch = margin.for_batch(np.array([10.0, 20.0, 30.0]), None)
    assert batch.statistics == pytest.approx({"norm_mean": 0.9 * 20 + 0.1 * 20, "norm_deviation": 0.9 * 10 + 0.1 * 100})
    assert margin.statistics == {"norm_mean": 20.0, "norm_deviation": 100.0}


def test_adaface_is_cosface_for_the_worst_images_and_arcface_for_the_middle() -> None:
    # z = −1, 0, 1: ArcFace with −(−m), plain; CosFace 0, m, 2m (section 3.3 of the paper).
    margin, cosine = AdaFace(0.4, h=1e6, alpha=1.0), np.array([0.3, 0.3, 0.3])
    value, slope = margin.for_batch(np.array([1.0, 2.0, 3.0]), None).target(cosine)
    theta = math.acos(0.3)
    np.testing.assert_allclose(value, [math.cos(theta + 0.4), 0.3 - 0.4, math.cos(theta - 0.4) - 0.8], atol=1e-6)
    np.testing.assert_allclose(slope, np.sin(theta + np.array([0.4, 0, -0.4])) / math.sin(theta), rtol=1e-5)


def test_a_batch_of_one_image_has_no_deviation() -> None:
    batch = AdaFace().for_batch(np.array([7.0]), None)
    value, slope = batch.target(np.array([0.5]))
    assert np.isfinite([*value, *slope, *batch.statistics.values()]).all()


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0 + 3e-7])
@pytest.mark.parametrize("make", [AdaFace, CurricularFace, SVSoftmax])
def test_a_cosine_at_its_bound_gives_finite_numbers(make: Callable[[], MarginSoftmax], cosine: float) -> None:
    cosine_N = np.array([cosine, 0.0])
    value, slope = make().for_batch(np.array([0.0, 1e9]), cosine_N).target(cosine_N)
    assert np.isfinite(value).all() and np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaFace(-0.1), "m must lie in .*, but is -0.1"),
        (lambda: AdaFace(h=0.0), "h must be finite and positive, but is 0.0"),
        (lambda: AdaFace(alpha=0.0), r"alpha, .* must lie in \(0, 1\], but is 0.0"),
        (lambda: AdaFace(math.nan), "m must lie"),
        (lambda: CurricularFace(4.0), "m2"),
        (lambda: CurricularFace(alpha=1.5), "alpha, .* but is 1.5"),
        (lambda: SVSoftmax(1.0), "taken off a cosine"),
        (lambda: SVSoftmax(t=0.9), "at least 1, but t is 0.9"),
        (lambda: AdaFace().keep({"t": 1.0}), "AdaFace keeps norm_mean, norm_deviation"),
        (lambda: CurricularFace().keep({"t": math.nan}), "CurricularFace keeps t, all finite"),
    ],
)
def test_bad_values_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_margin_keeps_nothing() -> None:
    assert FixedMargin(Margin()).statistics == {}
