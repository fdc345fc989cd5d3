"""ResNet-50 against the published structure: parameters, shapes, strides."""

import numpy as np

from symbol import build_backbone


def test_structure_is_that_of_the_paper():
    symbol = build_backbone("resnet50", 512)
    shapes, (out,), _ = symbol.infer_shape(data=(3, 3, 224, 224))
    arguments = dict(zip(symbol.list_arguments(), shapes, strict=True))
    assert out == (3, 512)
    # torchvision's ResNet-50 has 25,557,032 parameters, 2,049,000 of them in its classifier.
    embedding = 7 * 7 * 2048 * 512 + 3 * 512
    assert sum(int(np.prod(shape)) for name, shape in arguments.items() if name != "data") - embedding == 23_508_032

    internals = symbol.get_internals()
    for name, shape in {
        "pool0": (3, 64, 56, 56),
        "stage1_unit3_relu3": (3, 256, 56, 56),
        "stage2_unit4_relu3": (3, 512, 28, 28),
        "stage3_unit6_relu3": (3, 1024, 14, 14),
        "stage4_unit3_relu3": (3, 2048, 7, 7),
    }.items():
        assert internals[f"{name}_output"].infer_shape(data=(3, 3, 224, 224))[1] == [shape]


def test_the_stride_is_on_the_3x3_convolution():
    attributes = build_backbone("resnet50").attr_dict()
    halving = {name for name, found in attributes.items() if found.get("stride") == "(2, 2)"}
    assert halving == {"conv0", "pool0"} | {
        f"stage{stage}_unit1_{layer}" for stage in (2, 3, 4) for layer in ("conv2", "conv1sc")
    }
