"""The forms of the layer that every test of it runs over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from partial_fc.head.kernels import BlockKernels
from partial_fc.head.kernels.ndarray import NDArrayKernels

# Each makes kernels of its own, so that ranks which are threads share none.
KERNELS: dict[str, Callable[[], BlockKernels]] = {"ndarray": NDArrayKernels}

# How a layer may hold and cut its rows: what it computes must not depend on it.
STORAGE: dict[str, dict[str, Any]] = {"one block": {}, "blocks of 3": {"block_rows": 3}}


@pytest.fixture(params=KERNELS.values(), ids=KERNELS.keys())
def kernels(request: pytest.FixtureRequest) -> BlockKernels:
    """One form of the element-wise work."""
    return request.param()


@pytest.fixture(params=KERNELS.values(), ids=KERNELS.keys())
def make_kernels(request: pytest.FixtureRequest) -> Callable[[], BlockKernels]:
    """What makes one form of the element-wise work, for each rank."""
    return request.param


@pytest.fixture(params=STORAGE.values(), ids=STORAGE.keys())
def make_options(
    request: pytest.FixtureRequest, make_kernels: Callable[[], BlockKernels]
) -> Callable[[], dict[str, Any]]:
    """What makes the arguments of a layer that leave its result as it is, for each rank."""
    return lambda: {"kernels": make_kernels(), **request.param}
