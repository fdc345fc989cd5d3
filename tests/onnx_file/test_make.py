"""Every backbone, in every form: MXNet's unit embeddings, at any batch size; and what the file is made of."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import NamedTuple

import mxnet as mx
import numpy as np
import onnx
import pytest
from onnx import TensorProto

import symbol
from partial_fc.evaluation.model import Checkpoint, CheckpointModel
from partial_fc.evaluation.pixel_form import PixelForm
from partial_fc.onnx_file.compare import check_images, model_difference, unit_embeddings
from partial_fc.onnx_file.graph import Graph
from partial_fc.onnx_file.half import rounded_twin
from partial_fc.onnx_file.make import Made, make_graph, make_model
from partial_fc.testing_export import random_parameters
from symbol import resnet
from symbol.iresnet import UNITS, iresnet
from symbol.layers import Layers

EMBEDDING = 61
SIZES = {"toy": 56, "resnet50": 64, "mobilefacenet": 112, "mobile": 112}  # as they are, at this image size
# The converter to float16 takes seconds for a deep graph: the deepest stands for those before it.
FORMS_OF = dict.fromkeys(("r34", "r74", "r100", "r124", "r152", "ir50", "mobile"), ("plain", "folded"))
FORMS_OF["r200"] = ("plain", "folded", "folded fp16")
IRESNETS = {"toy", "ir50", *UNITS}
FORMS = {"plain": (False, False), "folded": (True, False), "fp16": (False, True), "folded fp16": (True, True)}


class Trained(NamedTuple):
    """A network in ONNX, images, and MXNet's unit embeddings of them."""

    graph: Graph
    images_BHWC: np.ndarray
    expected_BD: np.ndarray

    def made(self, form: str) -> Made:
        fold, fp16 = FORMS[form]
        return make_model(copy.deepcopy(self.graph), fold_batch_norm=fold, fp16=fp16)


@lru_cache(maxsize=1)
def trained(name: str) -> Trained:
    """The deep ones have their layers, with a few channels, and small images."""
    size = SIZES.get(name, 32)
    if name in UNITS or name == "ir50":
        units = UNITS["r50" if name == "ir50" else name]
        network = iresnet(Layers("float32"), EMBEDDING, units, (8, 8, 10, 12, 14))
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resnet, "CHANNELS", (16, 32, 48, 64))
            network = symbol.build_backbone(name, EMBEDDING)
    checkpoint = Checkpoint(network, random_parameters(network, size), size, PixelForm())
    images_BHWC = check_images(size)
    model = CheckpointModel(
        network, checkpoint.parameters, mx.cpu(), batch_size=len(images_BHWC), image_size=size
    )
    expected_BD = unit_embeddings(model, images_BHWC, name)
    return Trained(make_graph(checkpoint, EMBEDDING), images_BHWC, expected_BD)


@pytest.mark.parametrize("name", symbol.backbone_names())
def test_every_backbone(name):
    network = trained(name)
    _, images_BHWC, expected_BD = network
    for form in FORMS_OF.get(name, FORMS):
        fold, fp16 = FORMS[form]
        model, folded, norms = network.made(form)
        limit = 1e-2 if fp16 else 1e-5
        assert model_difference(model, images_BHWC, expected_BD, form) <= limit, form
        if fp16:
            assert model_difference(rounded_twin(model), images_BHWC, expected_BD, form) <= limit, form
        stay = norms - folded
        operators = [node.op_type for node in model.graph.node]
        assert operators.count("BatchNormalization") == stay
        # Before a convolution that pads with zeros none can be folded: an IResNet has one in each residual unit.
        padded = sum(output.endswith("_plus") for output in outputs(model)) if name in IRESNETS else 0
        assert stay == (padded if fold else norms) and norms > 20


def outputs(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_the_batch_is_free(form, batch):
    _, images_BHWC, expected_BD = trained("toy")
    several_BHWC, several_BD = (np.tile(a, (2, *(1,) * (a.ndim - 1)))[:batch] for a in (images_BHWC, expected_BD))
    limit = 1e-2 if FORMS[form][1] else 1e-5
    assert model_difference(trained("toy").made(form).model, several_BHWC, several_BD, form) <= limit


@pytest.mark.parametrize("form", FORMS)
def test_what_a_file_is_made_of(form):
    model = trained("toy").made(form).model
    onnx.checker.check_model(model, full_check=True)
    (data,), (output,) = model.graph.input, model.graph.output
    assert (data.name, output.name) == ("data", "fc1")
    for value, rest in ((data, [3, 56, 56]), (output, [EMBEDDING])):
        batch, *sides = value.type.tensor_type.shape.dim
        assert batch.dim_param == "N" and [side.dim_value for side in sides] == rest
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert kinds == {TensorProto.FLOAT16 if FORMS[form][1] else TensorProto.FLOAT}
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 13}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert not {"Identity", "Dropout", "Shape", "Reshape"} & {node.op_type for node in model.graph.node}
    known = {value.name for value in model.graph.value_info} | {"fc1"}
    assert outputs(model) <= known
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata == {
        "mean": "0", "std": "1", "colour": "rgb", "image_size": "56", "embedding_size": "61",
        "precision": "float16" if FORMS[form][1] else "float32",
    }  # fmt: skip


def test_float16_halves_the_bytes():
    sizes = {form: trained("toy").made(form).model.ByteSize() for form in ("plain", "fp16")}
    assert sizes["fp16"] < 0.6 * sizes["plain"]
