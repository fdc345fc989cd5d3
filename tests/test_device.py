from __future__ import annotations

import mxnet as mx
import pytest

from partial_fc.device import compute_context, default_network


@pytest.fixture
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with as many GPUs as the test's parameter says."""
    monkeypatch.setattr(mx.context, "num_gpus", lambda: request.param)


@pytest.mark.parametrize("gpus", [0], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_without_gpus_every_rank_computes_on_the_cpu() -> None:
    assert [compute_context(local_rank) for local_rank in (0, 1, 7)] == [mx.cpu()] * 3


@pytest.mark.parametrize("gpus", [3], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_each_rank_has_a_gpu_of_its_own() -> None:
    assert [compute_context(local_rank) for local_rank in range(3)] == [mx.gpu(0), mx.gpu(1), mx.gpu(2)]


@pytest.mark.parametrize("gpus", [3], indirect=True)
@pytest.mark.usefixtures("gpus")
def test_more_ranks_than_gpus_are_refused() -> None:
    with pytest.raises(ValueError, match="local rank 3 finds 3: start at most 3 ranks on this machine"):
        compute_context(3)


@pytest.mark.parametrize(("gpus", "network"), [(0, "toy"), (1, "r18")], indirect=["gpus"])
@pytest.mark.usefixtures("gpus")
def test_the_default_network_is_one_that_the_device_trains_in_minutes(network: str) -> None:
    assert default_network() == network
