"""The F²C head against the naive reference, on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from partial_fc.collectives import SingleProcess, run_thread_ranks
from partial_fc.testing_f2c import F2CCase, compare_with_naive, train_head, train_naive

FORMS = {
    "C": {"kernels": "C"},
    "C, blocks of 3": {"kernels": "C", "block_slots": 3},
    "C, blocks of 4, recomputed": {"kernels": "C", "block_slots": 4, "keep_logits": False},
    "NDArray, blocks of 5": {"kernels": "NDArray", "block_slots": 5},
}


@pytest.fixture(scope="module", params=["AM", "Arc", "SV"])
def reference(request):
    case = F2CCase(request.param)
    return case, train_naive(case)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_five_steps_are_those_of_the_reference(reference, ranks, form):
    case, naive = reference
    traces = run_thread_ranks(ranks, lambda collectives: train_head(case, collectives, **FORMS[form]))
    errors = compare_with_naive(traces, naive)
    assert max(errors.values()) < 1e-5, errors


def test_the_case_has_evictions_hits_and_samples_out_of_the_pool():
    case = F2CCase("AM")
    head = case.make_head(SingleProcess())
    seen, outside, again = set(), 0, 0
    for step in range(case.steps):
        _, x_N, y_N = case.batch(step)
        head.pool.try_update(y_N, _units(case))
        outside += (head.pool.lru.view(x_N) < 0).sum()
        head.pool.rollback()
        again += len(head.pool.try_update(x_N, _units(case)))
        head.pool.keep()
        seen |= set(x_N.tolist())
    assert len(seen) > case.slots and outside > 5 and again > 5, (len(seen), outside, again)


def _units(case):
    import mxnet as mx

    return mx.nd.ones((case.samples, case.embedding_size)) / np.sqrt(case.embedding_size)
