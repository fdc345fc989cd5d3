from __future__ import annotations

import numpy as np
import pytest

from partial_fc.collectives import Collectives, run_thread_ranks
from partial_fc.head.margin import Margin
from partial_fc.head.softmax import LARGEST_SCALE_WITHOUT_MAX, MergedSoftmax, merge_softmax

NO_MARGIN = Margin()
NO_TARGET = -1


def merge(cosine_NS: np.ndarray, column_N: np.ndarray, margin: Margin, scale: float, collectives: Collectives):
    """What a rank finds in its own logits, one sample at a time, and merges with the others."""
    samples = len(cosine_NS)
    owned_N = column_N != NO_TARGET
    max_N, sum_N, target_N = np.empty(samples), np.empty(samples), np.full(samples, 77.0)
    for n in range(samples):
        others = scale * np.delete(cosine_NS[n], column_N[n : n + 1][owned_N[n : n + 1]])
        max_N[n] = others.max(initial=-1e30)
        sum_N[n] = np.exp(others - max_N[n]).sum()
        if owned_N[n]:
            target_N[n] = scale * cosine_NS[n, column_N[n]]
    return merge_softmax(max_N, sum_N, target_N, owned_N, margin=margin, scale=scale, collectives=collectives)


def merge_on_ranks(cosine_NC: np.ndarray, label_N: np.ndarray, margin: Margin, scale: float, ends: list[int]):
    """Cuts the classes at ``ends`` and merges on as many ranks; gives what each of them got."""
    starts = [0, *ends[:-1]]

    def rank_part(collectives: Collectives) -> MergedSoftmax:
        start, stop = starts[collectives.rank], ends[collectives.rank]
        column_N = np.where((label_N >= start) & (label_N < stop), label_N - start, NO_TARGET)
        return merge(cosine_NC[:, start:stop], column_N, margin, scale, collectives)

    return run_thread_ranks(len(ends), rank_part)


def random_case(samples: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, size=(samples, classes)), rng.integers(classes, size=samples)


def assert_softmax(
    parts: list[MergedSoftmax], cosine_NC: np.ndarray, label_N: np.ndarray, margin: Margin, scale: float
):
    """Compares with the softmax over all classes at once, in float64."""
    samples = np.arange(len(label_N))
    value_N, slope_N = margin(cosine_NC[samples, label_N])
    logits_NC = scale * cosine_NC
    logits_NC[samples, label_N] = scale * value_N
    lse_N = np.logaddexp.reduce(logits_NC, axis=1)
    log_p_N = logits_NC[samples, label_N] - lse_N
    for part in parts:
        assert part.loss == pytest.approx(-log_p_N.mean(), rel=1e-12)
        np.testing.assert_allclose(part.lse_N, lse_N, rtol=1e-12)
    # Exactly one rank owns a target and has its gradient.
    gradient_RN = np.array([part.target_gradient_N for part in parts])
    assert (np.count_nonzero(gradient_RN, axis=0) <= 1).all()
    np.testing.assert_allclose(gradient_RN.sum(axis=0), (np.exp(log_p_N) - 1) * slope_N, rtol=1e-9, atol=1e-12)
    assert len({part.loss for part in parts}) == 1


@pytest.mark.parametrize("ends", [[23], [12, 23], [8, 16, 23], [1, 2, 22, 23]])
@pytest.mark.parametrize("margin", [NO_MARGIN, Margin(m2=0.5), Margin(1.5, 0.3, 0.2)])
@pytest.mark.parametrize("scale", [1.0, 64.0, 300.0, 301.0, 64_000.0])
def test_ranks_merge_to_the_softmax_over_all_classes(ends: list[int], margin: Margin, scale: float) -> None:
    case = random_case(13, 23)
    assert_softmax(merge_on_ranks(*case, margin, scale, ends), *case, margin, scale)


@pytest.mark.parametrize("scale", [64.0, LARGEST_SCALE_WITHOUT_MAX, 64_000.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_ends_of_the_range_of_logits_are_represented(scale: float, sign: float) -> None:
    cosine_NC, label_N = np.full((3, 5), sign), np.array([0, 4, 4])
    for margin in (NO_MARGIN, Margin(m2=0.5), Margin(m3=0.4)):
        parts = merge_on_ranks(cosine_NC.copy(), label_N, margin, scale, [2, 5])
        assert np.isfinite(parts[0].loss)
        assert_softmax(parts, cosine_NC, label_N, margin, scale)


@pytest.mark.parametrize("margin", [NO_MARGIN, Margin(m2=0.5), Margin(m3=0.4), Margin(1.0, 0.3, 0.2)])
@pytest.mark.parametrize("scale", [64.0, LARGEST_SCALE_WITHOUT_MAX, 64_000.0])
def test_a_class_alone_has_no_loss_wherever_its_embedding_points(margin: Margin, scale: float) -> None:
    for cosine in (-1.0, 0.0, 1.0):
        (part,) = merge_on_ranks(np.array([[cosine]]), np.array([0]), margin, scale, [1])
        assert part.loss == pytest.approx(0, abs=1e-9)
        assert part.target_gradient_N[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("scale", "names"), [(300.0, ["head.softmax_sum"]), (301.0, ["head.softmax_max", "head.softmax_sum"])]
)
def test_one_all_reduce_and_one_more_above_a_scale_of_300(scale: float, names: list[str]) -> None:
    cosine_NC, label_N = random_case(13, 23)

    def traffic(collectives: Collectives) -> dict[str, tuple[str, int, int]]:
        start, stop = collectives.rank * 12, collectives.rank * 11 + 12
        column_N = np.where((label_N >= start) & (label_N < stop), label_N - start, NO_TARGET)
        merge(cosine_NC[:, start:stop], column_N, NO_MARGIN, scale, collectives)
        return {name: (entry.kind, entry.calls, entry.bytes) for name, entry in collectives.traffic.items()}

    expected = {"head.softmax_max": ("all_reduce", 1, 8 * 13), "head.softmax_sum": ("all_reduce", 1, 16 * 13)}
    assert run_thread_ranks(2, traffic) == [{name: expected[name] for name in names}] * 2


@pytest.mark.parametrize("scale", [64.0, 64_000.0])
def test_a_cosine_that_is_no_number_makes_the_loss_none_on_every_rank(scale: float) -> None:
    for bad_class in (2, 20):
        cosine_NC, label_N = random_case(13, 23)
        label_N[4] = 20
        cosine_NC[4, bad_class] = np.nan
        parts = merge_on_ranks(cosine_NC, label_N, Margin(m2=0.5), scale, [8, 16, 23])
        assert not any(np.isfinite(part.loss) for part in parts)
