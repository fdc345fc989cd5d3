"""Steps of F²C: those of the naive reference on any number of ranks, and what is skipped changes nothing."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from partial_fc.collectives import RankError, SingleProcess, run_thread_ranks
from partial_fc.f2c_trainer import F2CTrainer
from partial_fc.gallery import Gallery
from partial_fc.mixed_precision import LossScale
from partial_fc.testing import relative_error
from partial_fc.testing_f2c_run import NaiveTrainer, make_f2c_trainer
from partial_fc.testing_run import tiny_network


def arrays_of(trainer: F2CTrainer) -> dict[str, np.ndarray]:
    """Copies of all that a step changes on one rank."""
    lru = trainer.head.pool.lru.state()
    return {
        **{f"probe {name}": array.asnumpy() for name, array in trainer.backbone.parameters.items()},
        **{f"change {name}": array.asnumpy() for name, array in trainer.optimizer.momenta.items()},
        **{f"gallery {name}": array.asnumpy() for name, array in trainer.gallery.parameters.items()},
        **{f"pool {number}": array.asnumpy() for number, array in enumerate(trainer.head.pool.prototypes)},
        "pool pointers": trainer.head.pool.pointer_Q.copy(),
        "pool identities": lru["identities"],
        "pool slots": lru["slots"],
    }


@pytest.mark.parametrize("kind", ["AM", "Arc", "SV"])
@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (4, 1), (2, 3)])
def test_five_steps_are_those_of_the_reference(kind, ranks, accumulate):
    def one_rank(collectives):
        trainer = make_f2c_trainer(collectives, kind=kind, accumulate=accumulate)
        start = {name: array.asnumpy() for name, array in trainer.backbone.parameters.items()}
        statistics = {name: array.asnumpy() for name, array in trainer.backbone.statistics.items()}
        return start, statistics, [trainer.step().loss for _ in range(5)], arrays_of(trainer)

    outcome = run_thread_ranks(ranks, one_rank)
    start, statistics, losses, arrays = outcome[0]
    naive = NaiveTrainer(start, statistics, kind=kind, samples=12)
    np.testing.assert_allclose(losses, [naive.step() for _ in range(5)], rtol=1e-5)
    assert all(other[2] == losses for other in outcome)
    for name, expected in naive.probe.items():
        assert relative_error(arrays[f"probe {name}"], expected) < 1e-5, name
        assert relative_error(arrays[f"change {name}"], naive.change[name]) < 1e-4, name
        assert relative_error(arrays[f"gallery {name}"], naive.gallery[name]) < 1e-5, name
    for number in range(2):
        whole = np.concatenate([of_rank[3][f"pool {number}"] for of_rank in outcome])
        expected = [naive.pool.prototypes[number, slot] for slot in range(naive.pool.slots)]
        assert relative_error(whole, np.array(expected)) < 1e-5
    assert arrays["pool pointers"].tolist() == [naive.pool.pointer[slot] for slot in range(naive.pool.slots)]
    order = list(zip(arrays["pool identities"].tolist(), arrays["pool slots"].tolist(), strict=True))
    assert order == naive.pool.entries


@pytest.mark.parametrize("poisoned_pass", [0, 1])
def test_a_loss_that_is_not_finite_changes_nothing(monkeypatch, poisoned_pass):
    def one_rank(collectives):
        trainer = make_f2c_trainer(collectives)
        trainer.step()
        trainer.gallery.follow = lambda: None
        before = arrays_of(trainer)
        forward, calls = trainer.backbone.forward, []

        def poisoned(images):
            calls.append(images)
            embedding_BD = forward(images)
            if len(calls) == 1 + poisoned_pass and collectives.rank == 1:
                embedding_BD[0, 0] = np.nan
            return embedding_BD

        trainer.backbone.forward = poisoned
        report = trainer.step()
        after = arrays_of(trainer)
        trainer.backbone.forward = forward
        return report, before, after, trainer.step().loss

    outcome = run_thread_ranks(2, one_rank)
    for report, before, after, next_loss in outcome:
        assert report.skipped == "the loss is not finite" and not np.isfinite(report.loss)
        for name, array in before.items():
            np.testing.assert_array_equal(after[name], array, err_msg=name)
        assert np.isfinite(next_loss) and next_loss == outcome[0][3]


def test_a_gradient_that_is_not_finite_leaves_the_backbone_and_lets_the_pool_learn():
    trainer = make_f2c_trainer(SingleProcess(), loss_scale=LossScale(2.0**127))
    before = arrays_of(trainer)
    report = trainer.step()
    after = arrays_of(trainer)
    assert report.skipped == "a gradient of the backbone is not finite"
    assert trainer.loss_scale.value == 2.0**126
    backbone = [name for name in before if name.startswith(("probe", "change"))]
    assert backbone and all(np.array_equal(after[name], before[name]) for name in backbone)
    assert len(after["pool identities"]) > 0


def test_a_loss_scale_changes_nothing_but_rounding():
    plain, scaled = (make_f2c_trainer(SingleProcess(), loss_scale=scale) for scale in (None, LossScale(1024.0)))
    for trainer in (plain, scaled):
        for _ in range(3):
            trainer.step()
    expected = arrays_of(plain)
    for name, array in arrays_of(scaled).items():
        assert relative_error(array.astype(np.float64), expected[name]) < 1e-5, name


def test_labels_that_are_none_end_the_run_on_every_rank():
    def one_rank(collectives):
        trainer = make_f2c_trainer(collectives)
        batch = trainer.loader.next_batch()
        if collectives.rank == 1:
            batch.labels_B[0] = -7
        trainer.loader.next_batch = lambda: batch
        with pytest.raises(RankError, match=r"an identity must be an integer in \[0, 2\^63\), but one is -7"):
            trainer.step()

    run_thread_ranks(2, one_rank)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_a_momentum_of_the_gallery_out_of_its_range_is_refused(momentum):
    with pytest.raises(ValueError, match=r"the gallery's momentum must lie in \[0, 1\], but is"):
        Gallery(tiny_network(), {}, {}, momentum=momentum, context=mx.cpu())
