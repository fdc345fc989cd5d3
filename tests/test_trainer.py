from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import mxnet as mx
import numpy as np
import pytest

import symbol
from partial_fc.collectives import Collectives, RankError, SingleProcess, run_thread_ranks
from partial_fc.head.initialization import initial_rows
from partial_fc.head.margin import Margin
from partial_fc.mixed_precision import LossScale
from partial_fc.testing import centers_of, dense_loss_and_gradients, relative_error
from partial_fc.testing_run import (
    GlobalBatches,
    make_trainer,
    parameters_of,
    tiny_network,
    with_frozen_batch_norm,
)
from partial_fc.trainer import StepReport, Trainer


@dataclass
class State:
    """Copies of all that a step changes on one rank."""

    parameters: dict[str, np.ndarray]
    momenta: dict[str, np.ndarray]
    centers_CD: np.ndarray
    center_momenta_CD: np.ndarray
    loss_scale: float

    @classmethod
    def of(cls, trainer: Trainer) -> State:
        momenta = {name: array.asnumpy() for name, array in trainer.optimizer.momenta.items()}
        return cls(parameters_of(trainer), momenta, *centers_of(trainer.head), trainer.loss_scale.value)

    def backbone_equals(self, other: State) -> bool:
        return all(
            np.array_equal(ours[name], theirs[name])
            for ours, theirs in ((self.parameters, other.parameters), (self.momenta, other.momenta))
            for name in ours
        )

    def centers_equal(self, other: State) -> bool:
        return np.array_equal(self.centers_CD, other.centers_CD) and np.array_equal(
            self.center_momenta_CD, other.center_momenta_CD
        )


@dataclass
class Recorder:
    """A callback that keeps what it is told, and says no at an update."""

    ends_at: int | None = None
    reports: list[StepReport] = field(default_factory=list)
    ends: list[StepReport] = field(default_factory=list)

    def after_update(self, report: StepReport) -> bool:
        self.reports.append(report)
        return report.update != self.ends_at

    def at_end(self, report: StepReport) -> None:
        self.ends.append(report)


def whole_run(states: list[State]) -> State:
    """The ranks' states as one: their centers together; their backbones must be equal to the last bit."""
    for state in states[1:]:
        assert state.backbone_equals(states[0])
        assert state.loss_scale == states[0].loss_scale
    return dataclasses.replace(
        states[0],
        centers_CD=np.concatenate([state.centers_CD for state in states]),
        center_momenta_CD=np.concatenate([state.center_momenta_CD for state in states]),
    )


class TestAnyNumberOfRanksTakesTheSameSteps:
    STEPS = 3

    def run(self, size: int, make_network: Callable[[], mx.sym.Symbol], **options: object):
        def one_rank(collectives: Collectives) -> tuple[State, State, list[float]]:
            trainer = make_trainer(collectives, network=make_network(), **options)
            before = State.of(trainer)
            losses = [trainer.step().loss for _ in range(self.STEPS)]
            return before, State.of(trainer), losses

        before, after, losses = zip(*run_thread_ranks(size, one_rank), strict=True)
        assert len({tuple(rank_losses) for rank_losses in losses}) == 1, "every rank has the same loss"
        return whole_run(list(before)), whole_run(list(after)), losses[0]

    def compare(self, alone, parted) -> None:
        np.testing.assert_allclose(parted[2], alone[2], rtol=1e-5)
        assert len(set(alone[2])) == self.STEPS
        assert relative_error(parted[1].centers_CD, alone[1].centers_CD) < 1e-5
        assert relative_error(parted[1].center_momenta_CD, alone[1].center_momenta_CD) < 1e-4
        for name, expected in alone[1].parameters.items():
            assert relative_error(parted[1].parameters[name], expected) < 1e-5, name
            change = expected - alone[0].parameters[name]
            assert np.abs(change).max() > 0, name
            # Of a change that is small beside its weight the last bits are lost.
            difference = np.abs(parted[1].parameters[name] - expected).max()
            assert difference < 1e-3 * np.abs(change).max(), name

    @pytest.mark.parametrize("size", [2, 4])
    def test_the_toy_network(self, size: int) -> None:
        def make_network() -> mx.sym.Symbol:
            return with_frozen_batch_norm(symbol.build_backbone("toy", 8, train_on="cpu"))

        options = {"image_size": 16, "learning_rate": 0.001}
        self.compare(self.run(1, make_network, **options), self.run(size, make_network, **options))

    @pytest.mark.parametrize("size", [2, 4, 8])
    @pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
    def test_a_small_network_with_any_loss_scale(self, size: int, loss_scale: float) -> None:
        def make_network() -> mx.sym.Symbol:
            return with_frozen_batch_norm(tiny_network())

        alone = self.run(1, make_network)
        self.compare(alone, self.run(size, make_network, loss_scale=LossScale(loss_scale)))


def test_a_step_is_the_gradient_step_of_the_dense_loss() -> None:
    trainer = make_trainer(SingleProcess(), learning_rate=0.01)
    before, batch = State.of(trainer), GlobalBatches(SingleProcess()).next_batch()
    centers_CD = initial_rows(3, np.arange(13), 8)
    executor = trainer.backbone.network.simple_bind(mx.cpu(), data=(8, 3, 9, 9))
    executor.copy_params_from(trainer.backbone.parameters, trainer.backbone.statistics)
    pixels = mx.nd.array(batch.images_BHWC.transpose(0, 3, 1, 2))
    x_ND = executor.forward(is_train=True, data=pixels)[0]
    dense = dense_loss_and_gradients(
        x_ND.asnumpy(), batch.labels_B, centers_CD, margin=Margin(m2=0.5), scale=16.0
    )
    executor.backward([mx.nd.array(dense.gradient_x_ND)])

    assert trainer.step().loss == pytest.approx(dense.loss, rel=1e-5)
    after = State.of(trainer)
    expected_CD = -0.01 * (dense.gradient_w_CD + 5e-4 * centers_CD)
    assert relative_error(after.center_momenta_CD, expected_CD) < 5e-5
    for name, weight in before.parameters.items():
        expected = -0.01 * (executor.grad_dict[name].asnumpy() + 5e-4 * weight)
        assert relative_error(after.momenta[name], expected) < 5e-5, name
        np.testing.assert_array_equal(after.parameters[name], weight + after.momenta[name])


def test_two_ranks_with_a_tenth_of_the_classes_learn() -> None:
    def one_rank(collectives: Collectives) -> list[float]:
        trainer = make_trainer(
            collectives, classes=101, sample_ratio=0.1, learning_rate=0.05, make_loader=SameBatch
        )
        return [trainer.step().loss for _ in range(25)]

    losses, others = run_thread_ranks(2, one_rank)
    assert losses == others
    assert losses[-1] < 0.5 * losses[0]


class SameBatch(GlobalBatches):
    """One global batch, for ever."""

    def next_batch(self):
        self._number = 0
        return super().next_batch()


class TestMixedPrecision:
    @staticmethod
    def make_network() -> mx.sym.Symbol:
        return with_frozen_batch_norm(symbol.build_backbone("toy", 8, precision="float16-emulated"))

    def test_it_follows_fp32(self) -> None:
        def losses(precision: str) -> list[float]:
            network = symbol.build_backbone("toy", 8, precision=precision, train_on="cpu")
            trainer = make_trainer(
                SingleProcess(),
                network=with_frozen_batch_norm(network),
                image_size=16,
                loss_scale=LossScale(2.0**6 if precision == "float16-emulated" else 1.0),
            )
            reports = [trainer.step() for _ in range(3)]
            assert not any(report.skipped for report in reports)
            return [report.loss for report in reports]

        exact, rounded = losses("float32"), losses("float16-emulated")
        np.testing.assert_allclose(rounded, exact, rtol=2e-2)
        assert rounded != exact

    def test_a_scale_that_is_too_large_is_halved_on_all_ranks_until_it_is_not(self) -> None:
        def one_rank(collectives: Collectives) -> tuple[list[tuple[float, bool]], list[bool], State]:
            trainer = make_trainer(
                collectives, network=self.make_network(), image_size=16, loss_scale=LossScale(2.0**24)
            )
            steps, kept = [], []
            for _ in range(30):
                before = State.of(trainer)
                report = trainer.step()
                after = State.of(trainer)
                assert not before.centers_equal(after), "the centers learn all the same"
                steps.append((report.loss_scale, bool(report.skipped)))
                kept.append(before.backbone_equals(after))
                if not report.skipped:
                    break
            return steps, kept, State.of(trainer)

        results = run_thread_ranks(2, one_rank)
        whole_run([state for _, _, state in results])
        steps, kept, _ = results[0]
        assert results[1][0] == steps
        assert len(steps) > 2, "2^24 overflows more than once"
        assert steps == [(2.0 ** (24 - i), i < len(steps) - 1) for i in range(len(steps))]
        assert kept == [skipped for _, skipped in steps]


class TestOneRankInTrouble:
    @pytest.mark.parametrize("poisoned_rank", [0, 2])
    def test_an_infinite_gradient_of_one_keeps_every_backbone_as_it_is(self, poisoned_rank: int) -> None:
        def one_rank(collectives: Collectives) -> tuple[State, StepReport, State, StepReport]:
            trainer = make_trainer(collectives, samples=6, loss_scale=LossScale(1024.0))
            before = State.of(trainer)
            all_reduce = collectives.all_reduce
            if collectives.rank == poisoned_rank:

                def poisoned(
                    tensor: mx.nd.NDArray, name: str, op: str = "sum", priority: int = 0
                ) -> mx.nd.NDArray:
                    if name == "backbone.conv0_weight":
                        tensor[1] = np.inf
                    return all_reduce(tensor, name, op, priority)

                collectives.all_reduce = poisoned
            report = trainer.step()
            after = State.of(trainer)
            collectives.all_reduce = all_reduce
            return before, report, after, trainer.step()

        for before, report, after, next_report in run_thread_ranks(3, one_rank):
            assert after.backbone_equals(before)
            assert not after.centers_equal(before)
            assert report.skipped == "a gradient of the backbone is not finite"
            assert (report.update, report.loss_scale, after.loss_scale) == (1, 1024.0, 512.0)
            assert (next_report.skipped, next_report.update, next_report.loss_scale) == ("", 2, 512.0)

    @pytest.mark.parametrize("poisoned_rank", [0, 1])
    def test_a_loss_that_is_not_finite_changes_nothing_on_any(self, poisoned_rank: int) -> None:
        def one_rank(collectives: Collectives) -> tuple[State, StepReport, State]:
            trainer = make_trainer(collectives, loss_scale=LossScale(1024.0))
            trainer.step()
            if collectives.rank == poisoned_rank:
                trainer.backbone.parameters["fc1_bias"][2] = np.nan
            before = State.of(trainer)
            report = trainer.step()
            return before, report, State.of(trainer)

        for before, report, after in run_thread_ranks(2, one_rank):
            before.parameters["fc1_bias"] = after.parameters["fc1_bias"] = np.zeros(1)  # NaN equals nothing
            assert after.backbone_equals(before)
            assert after.centers_equal(before)
            assert after.loss_scale == before.loss_scale
            assert np.isnan(report.loss)
            assert (report.skipped, report.update) == ("the loss is not finite", 2)

    @pytest.mark.parametrize("failing", [{1}, {0, 2}, {0, 1, 2}])
    def test_all_raise_what_one_ranks_loader_says_at_the_same_update(self, failing: set[int]) -> None:
        errors = []

        def one_rank(collectives: Collectives) -> None:
            fails_at = 2 if collectives.rank in failing else None
            trainer = make_trainer(
                collectives,
                samples=6,
                make_loader=lambda collectives, **options: GlobalBatches(
                    collectives, fails_at=fails_at, **options
                ),
            )
            with pytest.raises(RankError) as caught:
                trainer.train(max_update=5)
            assert trainer.update == 2
            errors.append(str(caught.value))

        run_thread_ranks(3, one_rank)
        expected = {
            1: "rank 1: image 7 is broken",
            2: "rank 0 (and 1 more ranks): image 7 is broken",
            3: "image 7 is broken",
        }
        assert errors == [expected[len(failing)]] * 3


class TestTheLoop:
    def test_it_makes_max_update_updates_and_tells_every_callback(self) -> None:
        trainer = make_trainer(SingleProcess())
        first, second = Recorder(), Recorder()
        trainer.train(4, [first, second])
        assert trainer.update == 4
        assert [report.update for report in first.reports] == [1, 2, 3, 4]
        assert first.ends == [first.reports[-1]]
        assert (second.reports, second.ends) == (first.reports, first.ends)

    def test_it_goes_on_to_a_later_max_update_and_not_past_one_that_is_reached(self) -> None:
        trainer, recorder = make_trainer(SingleProcess()), Recorder()
        trainer.train(2)
        trainer.train(3, [recorder])
        assert [report.update for report in recorder.reports] == [3]
        trainer.train(3, [again := Recorder()])
        assert (again.reports, again.ends) == ([], [])

    def test_a_callback_that_says_no_ends_it_after_all_have_been_told(self) -> None:
        trainer = make_trainer(SingleProcess())
        callbacks = [Recorder(), Recorder(ends_at=2), Recorder()]
        trainer.train(5, callbacks)
        assert trainer.update == 2
        for callback in callbacks:
            assert [report.update for report in callback.reports] == [1, 2]
            assert callback.ends == callback.reports[-1:]

    def test_the_learning_rate_is_that_of_updates_counted_from_0(self) -> None:
        trainer, recorder = make_trainer(SingleProcess()), Recorder()
        trainer.learning_rate_at = lambda update: 0.01 / (update + 1)
        before = trainer.backbone.parameters["fc1_bias"].asnumpy()
        trainer.train(1, [recorder])
        assert recorder.reports[0].learning_rate == 0.01
        gradient = trainer.backbone.gradients["fc1_bias"].asnumpy()
        after = trainer.backbone.parameters["fc1_bias"].asnumpy()
        np.testing.assert_allclose(after, before - 0.01 * gradient, rtol=1e-6)
        trainer.train(3, [recorder])
        assert [report.learning_rate for report in recorder.reports] == [0.01, 0.01 / 2, 0.01 / 3]


class TestTheReport:
    @pytest.mark.parametrize("size", [1, 2])
    def test_the_milliseconds_are_those_of_the_step(self, size: int) -> None:
        def one_rank(collectives: Collectives) -> list[StepReport]:
            trainer = make_trainer(collectives)
            return [trainer.step() for _ in range(3)]

        for reports in run_thread_ranks(size, one_rank):
            for report in reports:
                assert set(report.milliseconds) == {"data", "backbone", "head", "communication"}
                assert min(report.milliseconds.values()) >= 0
                assert sum(report.milliseconds.values()) == pytest.approx(1e3 * report.seconds, rel=1e-9)
                assert report.images == 8
                assert report.epoch == 0

    def test_waiting_for_images_or_ranks_is_called_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [0.0]
        monkeypatch.setattr("time.perf_counter", lambda: clock[0])

        class Slow(GlobalBatches):
            def next_batch(self):
                clock[0] += 5.0
                return super().next_batch()

        trainer = make_trainer(collectives := SingleProcess(), make_loader=Slow)
        forward, gather = trainer.backbone.forward, collectives._all_gather

        def slow_forward(*arguments: object) -> mx.nd.NDArray:
            clock[0] += 3.0
            return forward(*arguments)

        def slow_gather(*arguments: object) -> mx.nd.NDArray:
            clock[0] += 2.0
            return gather(*arguments)

        trainer.backbone.forward, collectives._all_gather = slow_forward, slow_gather
        report = trainer.step()
        # Labels and embeddings are gathered.
        assert report.milliseconds == {"data": 5000, "backbone": 3000, "head": 0, "communication": 4000}
        assert report.seconds == 12.0
        assert trainer.step().milliseconds == report.milliseconds
