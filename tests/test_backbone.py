from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

import symbol
from partial_fc.backbone import Backbone, initialize
from partial_fc.collectives import Collectives, RankError, SingleProcess, run_thread_ranks
from partial_fc.testing import own_part, relative_error
from partial_fc.testing_run import tiny_network, with_frozen_batch_norm

SAMPLES, IMAGE_SIZE = 8, 17


def make_backbone(
    collectives: Collectives,
    network: mx.sym.Symbol | None = None,
    *,
    samples: int = SAMPLES,
    **options: object,
) -> Backbone:
    return Backbone(
        tiny_network() if network is None else network,
        batch_size=samples // collectives.size,
        image_size=IMAGE_SIZE,
        collectives=collectives,
        context=mx.cpu(),
        **options,
    )


def make_images(samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (samples, IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.uint8)


def frozen_toy() -> mx.sym.Symbol:
    return with_frozen_batch_norm(symbol.build_backbone("toy", 8, train_on="cpu"))


class TestInitialize:
    @staticmethod
    def arrays_of(network: mx.sym.Symbol, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        backbone = make_backbone(SingleProcess(), network, seed=seed)
        return tuple(
            {name: array.asnumpy() for name, array in arrays.items()}
            for arrays in (backbone.parameters, backbone.statistics)
        )

    def test_values_by_name(self) -> None:
        parameters, statistics = self.arrays_of(symbol.build_backbone("toy", 24, train_on="cpu"), seed=1)
        seen = set()
        for name, array in (parameters | statistics).items():
            kind = "slope" if "relu" in name else name.rpartition("_")[2]
            seen.add(kind)
            if kind == "weight":
                fan_out = array.size / array.shape[1]
                # The deviation of k numbers is off by 1/√(2k), its mean by 1/√k deviations: 5 of each.
                tolerance = 5 / np.sqrt(2 * array.size)
                assert array.std() == pytest.approx(np.sqrt(2 / fan_out), rel=tolerance), name
                assert abs(array.mean()) < 5 * array.std() / np.sqrt(array.size), name
            else:
                value = {"slope": 0.25, "gamma": 1, "beta": 0, "bias": 0, "mean": 0, "var": 1}[kind]
                assert (array == value).all(), name
        assert seen == {"weight", "slope", "gamma", "beta", "bias", "mean", "var"}

    def test_the_seed_decides_and_no_two_weights_are_equal(self) -> None:
        first, again, other = (self.arrays_of(tiny_network(), seed)[0] for seed in (1, 1, 2))
        for name in first:
            assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first["conv0_weight"], other["conv0_weight"])
        conv, dense = first["conv0_weight"].ravel(), first["fc1_weight"].ravel()[: first["conv0_weight"].size]
        assert abs(np.corrcoef(conv, dense)[0, 1]) < 0.5

    def test_a_name_without_a_rule_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'fc1_scale' starts"):
            initialize({"fc1_scale": mx.nd.zeros((2,))}, {}, 0)


class TestForward:
    def test_images_come_as_rgb_and_the_vector_is_the_networks(self) -> None:
        network = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="fc1")
        backbone = make_backbone(SingleProcess(), network)
        images_BHWC = make_images()
        expected = images_BHWC.transpose(0, 3, 1, 2).reshape(SAMPLES, -1).astype(np.float64)
        expected = expected @ backbone.parameters["fc1_weight"].asnumpy().T
        assert relative_error(backbone.forward(images_BHWC).asnumpy(), expected) < 1e-5
        assert relative_error(backbone.embed(images_BHWC), expected) < 1e-5
        assert backbone.embedding_size == 3

    def test_training_takes_the_batchs_statistics_and_embedding_the_moving_ones(self) -> None:
        backbone = make_backbone(SingleProcess())
        images_BHWC = make_images()
        start = backbone.embed(images_BHWC)
        assert (backbone.statistics["bn0_moving_var"].asnumpy() == 1).all()
        batch = backbone.forward(images_BHWC).asnumpy()
        backbone.backward(mx.nd.zeros_like(mx.nd.array(batch)))  # MXNet moves the statistics on the way back
        assert relative_error(start, batch) > 0.1
        after = backbone.embed(images_BHWC)
        assert relative_error(after, start) > 1e-3, "the moving statistics moved"
        assert np.array_equal(after, backbone.embed(images_BHWC)), "and embedding moves nothing"


class TestGradients:
    """R ranks, each with its part of the batch, find what one rank finds with all of it."""

    @staticmethod
    def summed_gradients(
        size: int, network: mx.sym.Symbol, factor: float = 1.0, fp16_gradients: bool = False
    ) -> list[dict[str, np.ndarray]]:
        head_ND = np.random.default_rng(5).normal(size=(SAMPLES, 8)).astype(np.float32) * factor

        def one_rank(collectives: Collectives) -> dict[str, np.ndarray]:
            backbone = make_backbone(collectives, network, seed=1, fp16_gradients=fp16_gradients)
            backbone.forward(own_part(make_images(), collectives))
            backbone.backward(mx.nd.array(own_part(head_ND, collectives)))
            assert backbone.gradients_finite()
            return {name: gradient.asnumpy() / factor for name, gradient in backbone.gradients.items()}

        return run_thread_ranks(size, one_rank)

    @pytest.mark.parametrize("size", [2, 4])
    @pytest.mark.parametrize("make_network", [lambda: with_frozen_batch_norm(tiny_network()), frozen_toy])
    def test_they_are_sums_over_the_ranks(self, size: int, make_network) -> None:
        (whole,) = self.summed_gradients(1, make_network())
        for parts in self.summed_gradients(size, make_network()):
            assert parts.keys() == whole.keys()
            for name, gradient in parts.items():
                # Sums of up to 8·17² products in float32, in another order.
                assert relative_error(gradient, whole[name]) < 1e-5, name

    def test_float16_on_the_network_rounds_them(self) -> None:
        network = with_frozen_batch_norm(tiny_network())
        exact = self.summed_gradients(2, network)[0]
        # The factor keeps small ones out of float16's subnormal numbers, as the loss scale does.
        rounded = self.summed_gradients(2, network, factor=64.0, fp16_gradients=True)[0]
        for name, gradient in rounded.items():
            error = relative_error(gradient, exact[name])
            assert error < 3 * 2.0**-11, name
        assert any(relative_error(rounded[name], exact[name]) > 1e-5 for name in exact), "they were rounded"

    @pytest.mark.parametrize("fp16_gradients", [False, True])
    def test_each_is_a_named_collective_in_the_order_of_appearance(self, fp16_gradients: bool) -> None:
        def one_rank(collectives: Collectives) -> list[tuple[str, int, int]]:
            backbone = make_backbone(collectives, fp16_gradients=fp16_gradients)
            backbone.forward(own_part(make_images(), collectives))
            collectives.reset_traffic()
            backbone.backward(mx.nd.ones((SAMPLES // 2, 8)))
            assert backbone.gradients_finite()
            return [(name, entry.calls, entry.bytes) for name, entry in collectives.traffic.items()]

        backbone = make_backbone(SingleProcess())
        itemsize = 2 if fp16_gradients else 4
        expected = [(f"backbone.{name}", 1, itemsize * g.size) for name, g in backbone.gradients.items()]
        assert expected[0][0] == "backbone.conv0_weight"
        assert run_thread_ranks(2, one_rank) == [expected[::-1]] * 2

    @pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
    @pytest.mark.parametrize("poisoned_rank", [None, 0, 2])
    def test_one_infinity_on_one_rank_is_known_to_all(self, poison: float, poisoned_rank: int | None) -> None:
        def one_rank(collectives: Collectives) -> bool:
            backbone = make_backbone(collectives, samples=6)
            backbone.forward(own_part(make_images(6), collectives))
            gradient_BD = np.ones((2, 8), np.float32)
            if collectives.rank == poisoned_rank:
                gradient_BD[1, 3] = poison
            backbone.backward(mx.nd.array(gradient_BD))
            return backbone.gradients_finite()

        assert run_thread_ranks(3, one_rank) == [poisoned_rank is None] * 3

    def test_what_overflows_only_in_the_sum_in_float16_is_found_too(self) -> None:
        def one_rank(collectives: Collectives, fp16_gradients: bool) -> bool:
            backbone = make_backbone(collectives, fp16_gradients=fp16_gradients)
            backbone.forward(own_part(make_images(), collectives))
            backbone.backward(mx.nd.ones((SAMPLES // 2, 8)) * 10_000)  # the bias' is 40,000 on each rank
            return backbone.gradients_finite()

        assert run_thread_ranks(2, lambda collectives: one_rank(collectives, False)) == [True] * 2
        assert run_thread_ranks(2, lambda collectives: one_rank(collectives, True)) == [False] * 2


@pytest.mark.parametrize("poisoned", [None, 0, 150, 259])
def test_a_network_of_many_parameters_is_told_finite_or_not(poisoned: int | None) -> None:
    """260 of them, as r50 and larger ones have: MXNet's operation holds 200."""
    body = mx.sym.mean(mx.sym.Variable("data"), axis=(2, 3))
    for number in range(130):
        body = mx.sym.FullyConnected(body, num_hidden=3, name=f"fc{number}")
    backbone = make_backbone(SingleProcess(), body)
    backbone.forward(make_images())
    backbone.backward(mx.nd.ones((SAMPLES, 3)))
    mx.nd.waitall()
    for number, gradient in enumerate(backbone.gradients.values()):
        gradient[:] = np.nan if number == poisoned else 1.0
    assert len(backbone.gradients) == 260
    assert backbone.gradients_finite() == (poisoned is None)


@pytest.mark.parametrize("size", [1, 2])
def test_two_backward_passes_add_up_and_are_summed_once(size: int) -> None:
    first_ND, second_ND = np.random.default_rng(6).normal(size=(2, SAMPLES, 8)).astype(np.float32)

    def one_rank(collectives: Collectives) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], bool]:
        backbone = make_backbone(collectives, with_frozen_batch_norm(tiny_network()), seed=1)
        parts = [mx.nd.array(own_part(part, collectives)) for part in (first_ND, second_ND)]
        backbone.forward(own_part(make_images(), collectives))
        backbone.backward(parts[0] * 1e3, another_follows=True)
        backbone.forget_gradients()  # nothing of this one is left
        single = []
        for part in parts:
            backbone.forward(own_part(make_images(), collectives))
            backbone.backward(part)
            assert backbone.gradients_finite()
            single.append({name: gradient.asnumpy() for name, gradient in backbone.gradients.items()})
        collectives.reset_traffic()
        for part, another_follows in zip(parts, (True, False), strict=True):
            backbone.forward(own_part(make_images(), collectives))
            backbone.backward(part, another_follows=another_follows)
        assert backbone.gradients_finite()
        calls = {name: traffic.calls for name, traffic in collectives.traffic.items() if name.startswith("backbone.")}
        both = {name: gradient.asnumpy() for name, gradient in backbone.gradients.items()}
        return both, {name: single[0][name] + single[1][name] for name in both}, set(calls.values()) == {1}

    for both, expected, once in run_thread_ranks(size, one_rank):
        assert once
        for name, gradient in expected.items():
            assert relative_error(both[name], gradient) < 1e-5, name


def test_all_ranks_start_with_rank_0s_parameters() -> None:
    def one_rank(collectives: Collectives) -> dict[str, np.ndarray]:
        backbone = make_backbone(collectives, samples=6, seed=100 + collectives.rank)
        return {name: array.asnumpy() for name, array in backbone.parameters.items()}

    parameters = run_thread_ranks(3, one_rank)
    alone = make_backbone(SingleProcess(), seed=100)
    for name, array in alone.parameters.items():
        for rank in range(3):
            assert np.array_equal(parameters[rank][name], array.asnumpy()), (rank, name)


@pytest.mark.parametrize("size", [1, 3])
def test_average_statistics_makes_them_the_mean_on_all_ranks(size: int) -> None:
    def one_rank(collectives: Collectives) -> dict[str, np.ndarray]:
        backbone = make_backbone(collectives, samples=6)
        for name, array in backbone.statistics.items():
            array[:] = 10.0 ** (collectives.rank + name.endswith("_var"))
        backbone.average_statistics()
        return {name: array.asnumpy() for name, array in backbone.statistics.items()}

    mean = np.mean([10.0**rank for rank in range(size)])
    for statistics in run_thread_ranks(size, one_rank):
        np.testing.assert_allclose(statistics["bn0_moving_mean"], mean, rtol=1e-6)
        np.testing.assert_allclose(statistics["bn0_moving_var"], 10 * mean, rtol=1e-6)


class TestWhatDoesNotFit:
    def test_a_size_that_the_network_does_not_take(self) -> None:
        network = symbol.build_backbone("mobilefacenet", 8, train_on="cpu")
        with pytest.raises(RankError, match=r"images of 17×17 pixels \(kernel size exceed input\): set --image-size"):
            make_backbone(SingleProcess(), network)

    def test_an_output_that_is_no_vector(self) -> None:
        network = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), num_filter=2, name="conv0")
        with pytest.raises(RankError, match=r"one vector an image, but this one gives .*\(8, 2, 15, 15\)"):
            make_backbone(SingleProcess(), network)

    def test_two_outputs(self) -> None:
        network = mx.sym.Group([tiny_network(), mx.sym.Variable("data")])
        with pytest.raises(RankError, match="one vector an image"):
            make_backbone(SingleProcess(), network)

    def test_a_parameter_of_unknown_kind_on_one_rank_ends_all(self) -> None:
        strange = mx.sym.Variable("data").flatten() * mx.sym.Variable("odd_factor", shape=(4, 867))

        def one_rank(collectives: Collectives) -> None:
            make_backbone(collectives, strange if collectives.rank == 1 else None)

        with pytest.raises(RankError, match=r"rank 1: .*'odd_factor' starts"):
            run_thread_ranks(2, one_rank)
