"""F2C as a layer of a network, and the gallery of a Gluon network, against the naive reference."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

import default
from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.gallery import Gallery
from partial_fc.head.f2c import F2C
from partial_fc.head.margin import Margin
from partial_fc.head.margin_names import F2C_MARGINS
from partial_fc.testing import own_part
from partial_fc.testing_f2c import F2CCase, F2CTrace, compare_with_naive, train_naive


def pass_arguments(case: F2CCase, collectives: Collectives, step: int) -> list[tuple[Any, ...]]:
    """The two calls of a step: (probe, its labels, gallery, its labels)."""
    embeddings, x_N, y_N = case.batch(step)
    probe_x, gallery_x, probe_y, gallery_y = (nd.array(own_part(part, collectives)) for part in embeddings)
    x_B, y_B = own_part(x_N, collectives), own_part(y_N, collectives)
    for probe in (probe_x, probe_y):
        probe.attach_grad()
    return [(probe_x, x_B, gallery_y, y_B), (probe_y, y_B, gallery_x, x_B)]


def train_by_calls(case: F2CCase, collectives: Collectives) -> F2CTrace:
    """The case's steps, each by two calls, one backward() and a step()."""
    head, trace = case.make_head(collectives), F2CTrace()
    for step in range(case.steps):
        calls = pass_arguments(case, collectives, step)
        with autograd.record():
            losses = [head(*call) for call in calls]
            total = (losses[0] + losses[1]) * 4
        total.backward()
        assert head.step()
        trace.losses += [loss.asscalar() for loss in losses]
        trace.gradients += [call[0].grad.asnumpy() / 4 for call in calls]
    trace.prototypes = np.stack([prototype.asnumpy() for prototype in head.pool.prototypes])
    trace.pointers = head.pool.pointer_Q.tolist()
    state = head.pool.lru.state()
    trace.order = list(zip(state["identities"].tolist(), state["slots"].tolist(), strict=True))
    return trace


def pool_of(head: F2C) -> list[bytes]:
    state = head.pool.lru.state()
    arrays = [*(prototype.asnumpy() for prototype in head.pool.prototypes), head.pool.pointer_Q]
    return [part.tobytes() for part in (*arrays, state["identities"], state["slots"])]


@pytest.mark.parametrize("kind", ["AM", "Arc", "SV"])
def test_five_steps_are_those_of_the_reference(kind: str) -> None:
    case = F2CCase(kind)
    naive = train_naive(case)
    for ranks in (1, 2, 4):
        traces = run_thread_ranks(ranks, lambda collectives: train_by_calls(case, collectives))
        errors = compare_with_naive(traces, naive)
        assert max(errors.values()) < 1e-5, errors


def test_a_call_without_record_or_without_a_step_leaves_the_pool_as_it_was() -> None:
    case = F2CCase("AM")

    def losses(collectives: Collectives) -> bool:
        head = case.make_head(collectives)
        before = pool_of(head)
        first, second = pass_arguments(case, collectives, 0)
        evaluated = head(*first)
        assert pool_of(head) == before
        with pytest.raises(ValueError, match=r"step\(\) of F2C belongs to a call of it under autograd.record\(\)"):
            head.step()
        with autograd.record():
            loss = head(*first)
        assert loss.asscalar() == evaluated.asscalar()
        assert pool_of(head) != before
        with pytest.raises(ValueError, match=r"step\(\) of F2C needs the gradient of its loss"):
            head.step()
        head.forget()
        return pool_of(head) == before

    assert all(run_thread_ranks(2, losses))


def test_a_loss_that_is_no_number_leaves_the_pool_as_it_was_on_every_rank() -> None:
    case = F2CCase("AM")

    def step_over_it(collectives: Collectives) -> tuple[bool, bool]:
        head = case.make_head(collectives)
        before = pool_of(head)
        call = pass_arguments(case, collectives, 0)[0]
        if collectives.rank == 1:
            call[0][1, 1] = np.inf
        with autograd.record():
            loss = head(*call)
        loss.backward()
        assert np.isnan(call[0].grad.asnumpy()).all()
        return head.step(), pool_of(head) == before

    assert run_thread_ranks(2, step_over_it) == [(False, True)] * 2


def test_more_identities_than_slots_and_unequal_embeddings_are_refused() -> None:
    head = F2C(3, 2)
    with pytest.raises(ValueError, match="3 slots and the batch 4 identities"):
        head(nd.ones((4, 2)), [1, 2, 3, 4], nd.ones((4, 2)), [1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"all embeddings of a call must be as many, but are \[3, 4\]"):
        head(nd.ones((4, 2)), [1, 2, 3, 4], nd.ones((3, 2)), [1, 2, 3])
    for probe_label, gallery_label in (([-1, 2, 3], [1, 2, 3]), ([1, 2, 3], [1, -1, 3])):
        before = pool_of(head)
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\^63\), but one is -1"):
            head(nd.ones((3, 2)), probe_label, nd.ones((3, 2)), gallery_label)
        assert pool_of(head) == before
    with pytest.raises(ValueError, match="a Margin or an F2CMargin, but is 0.5"):
        F2C(3, 2, margin=0.5)
    with pytest.raises(ValueError, match="unknown margin 'am': choose one of arcface, cosface, combined, sv"):
        F2C(3, 2, margin="am")
    assert np.isfinite(head(nd.ones((3, 2)), [1, 2, 3], nd.ones((3, 2)), [1, 2, 3]).asscalar())


def test_margins_have_the_names_and_values_of_the_recipes() -> None:
    for name, margin in F2C_MARGINS.items():
        recipe = default.LOSSES[name]
        assert margin.hard_weight == recipe.get("hard_negatives")
        if margin.hard_weight is None:
            assert margin.target == Margin(*(recipe[f"loss_m{number}"] for number in (1, 2, 3)))
        else:
            assert margin.target.m3 == margin.hard_margin == recipe["loss_m3"]


# ---- the gallery of a Gluon network ----


def make_network() -> gluon.nn.HybridSequential:
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Conv2D(4, 3), gluon.nn.BatchNorm(), gluon.nn.PReLU(), gluon.nn.Dense(5))
    net.initialize(mx.init.Xavier())
    return net


def test_the_gallery_gives_what_the_network_gave_and_follows_it() -> None:
    mx.random.seed(5)
    net = make_network()
    data = nd.random.normal(shape=(6, 1, 7, 7))
    net(data)
    net.hybridize()
    gallery = Gallery.of_block(net, momentum=0.75)
    start = {name: array.asnumpy() for name, array in gallery.parameters.items()}
    with autograd.record():
        embedding = net(data)
        np.testing.assert_allclose(gallery(data).asnumpy(), embedding.asnumpy(), rtol=1e-5, atol=1e-6)
        loss = nd.sum(embedding * embedding)
    loss.backward()
    moved = {name: parameter.data().asnumpy() for name, parameter in net.collect_params().items()}
    for name, array in gallery.statistics.items():
        np.testing.assert_allclose(array.asnumpy(), moved[name], rtol=1e-4, atol=1e-6)
    gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore=None).step(1)
    gallery.follow()
    assert len(start) == 7
    for name, array in gallery.parameters.items():
        probe = net.collect_params()[name].data().asnumpy()
        np.testing.assert_allclose(array.asnumpy(), 0.75 * start[name] + 0.25 * probe, rtol=1e-5, atol=1e-6)


def test_a_gallery_of_what_has_no_graph_or_no_values_is_refused() -> None:
    with pytest.raises(ValueError, match="a HybridBlock, but is given a Sequential"):
        Gallery.of_block(gluon.nn.Sequential())
    for net in (make_network(), gluon.nn.Dense(3)):
        with pytest.raises(ValueError, match=r"call initialize\(\), and then the network once"):
            Gallery.of_block(net)


def test_two_numbers_make_a_head() -> None:
    head = F2C(10, 4)
    assert head.margin.target == Margin(m3=0.4) and head.pool.slots == head.pool.count == 10
    assert F2C(10, 4, SingleProcess(), margin=Margin(m2=0.3)).margin.target.m2 == 0.3
