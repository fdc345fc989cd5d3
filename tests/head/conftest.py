"""The forms of the layer that every test of it runs over."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import pytest

from partial_fc.center_storage import Storage
from partial_fc.head.kernels import LogitKernels, RowKernels
from partial_fc.head.kernels.build import build
from partial_fc.head.kernels.select import select_kernels

FORMS = ("NDArray", "C")

# Arguments of a layer that leave its result as it is.
LAYER_FORMS: dict[str, dict[str, Any]] = {
    "C": {"kernels": "C"},
    "C, blocks of 3": {"kernels": "C", "block_rows": 3},
    "C, chunks of 3, host": {"kernels": "C", "logits_chunk": 3, "storage": Storage("host")},
    "NDArray, blocks of 3": {"kernels": "NDArray", "block_rows": 3},
    "NDArray, chunks of 4": {"kernels": "NDArray", "logits_chunk": 4},
}


@pytest.fixture(scope="session", autouse=True)
def _c_form() -> None:
    """The C form is there before anything asks for kernels: a test must not pass over it in silence."""
    build()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """A form of the kernels."""
    return request.param


@pytest.fixture
def logit_kernels(form: str) -> LogitKernels:
    """The work on logits, in one form."""
    return select_kernels(form, mx.cpu(), mx.cpu())[0]


@pytest.fixture
def row_kernels(form: str) -> RowKernels:
    """The work on stored rows, in one form."""
    return select_kernels(form, mx.cpu(), mx.cpu())[1]


@pytest.fixture(params=LAYER_FORMS)
def layer_form(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments of a layer that leave its result as it is."""
    return LAYER_FORMS[request.param]


@pytest.fixture(params=["C, blocks of 3", "NDArray, blocks of 3"])
def blocks_form(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The two of them that a test with very many cases can afford."""
    return LAYER_FORMS[request.param]
