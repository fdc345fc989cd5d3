"""The cost of a backbone: parameters and FLOPs by hand, and the bytes kept by MXNet's own memory plan."""

from __future__ import annotations

import re

import mxnet as mx
import pytest

import symbol
from partial_fc.network_cost import network_cost

MIB = 2**20


def r18_flops(embedding_size: int) -> int:
    """Of IResNet-18 at 112×112, layer by layer."""
    macs = 112 * 112 * 64 * 3 * 9
    side, inputs = 112, 64
    for width in (64, 128, 256, 512):
        macs += side * side * width * inputs * 9  # the first unit's first convolution keeps the resolution
        side //= 2
        macs += side * side * width * (width * 9 + inputs)  # its second and its shortcut halve it
        macs += 2 * side * side * width * width * 9  # the second unit
        inputs = width
    return 2 * (macs + side * side * inputs * embedding_size)


def test_flops_are_those_of_the_layers():
    assert network_cost("r18", embedding_size=32).flops_per_image == r18_flops(32)


@pytest.mark.parametrize(("name", "gigaflops"), [("r50", 12.62), ("r100", 24.18), ("mobilefacenet", 0.44)])
def test_flops_are_the_published_ones(name, gigaflops):
    assert network_cost(name).flops_per_image / 1e9 == pytest.approx(gigaflops, rel=0.01)


def test_parameters_are_all_that_is_trained():
    network = symbol.build_backbone("r18", 512)
    shapes, _, _ = network.infer_shape(data=(1, 3, 112, 112))
    named = dict(zip(network.list_arguments(), shapes, strict=True))
    expected = sum(mx.nd.empty(shape).size for name, shape in named.items() if name != "data")
    assert network_cost("r18").parameters == expected


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize(("name", "batch"), [("toy", 48), ("r18", 8), ("mobilefacenet", 8), ("r50", 8)])
def test_activations_are_within_a_tenth_of_what_mxnet_plans(name, batch, device):
    network = symbol.build_backbone(name, 512, train_on=device)
    size = symbol.default_image_size(name)
    gradients = {argument: "null" if argument == "data" else "write" for argument in network.list_arguments()}
    executor = network.simple_bind(mx.cpu(), grad_req=gradients, data=(batch, 3, size, size))
    planned = int(re.search(r"Total (\d+) MB allocated", executor.debug_str())[1]) * MIB
    cost = network_cost(name, device=device)
    assert batch * cost.activation_bytes_per_image + cost.fixed_bytes == pytest.approx(planned, rel=0.1)


def test_fp16_halves_the_activations_on_a_gpu_and_copies_the_weights():
    full, half = network_cost("r50"), network_cost("r50", fp16=True)
    assert half.activation_bytes_per_image == pytest.approx(full.activation_bytes_per_image / 2, rel=0.02)
    dense = 512 * 7 * 7 * 512  # the output block stays float32
    assert half.fixed_bytes == pytest.approx(2 * (full.parameters - dense), rel=0.01)
    assert half.parameters == full.parameters


def test_emulated_fp16_saves_nothing():
    full, emulated = (network_cost("toy", fp16=fp16, device="cpu") for fp16 in (False, True))
    assert emulated.activation_bytes_per_image == full.activation_bytes_per_image


def test_activations_grow_with_the_image():
    small, large = (network_cost("r18", image_size=size) for size in (112, 224))
    assert large.activation_bytes_per_image == pytest.approx(4 * small.activation_bytes_per_image, rel=0.001)
    assert large.input_bytes_per_image == 4 * small.input_bytes_per_image


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="unknown network 'r51'"):
        network_cost("r51")
