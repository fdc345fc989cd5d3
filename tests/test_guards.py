from __future__ import annotations

import os
import signal
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from partial_fc.callbacks_guards import CompareBackbones, LimitSkippedUpdates, compare_arrays
from partial_fc.collectives import Collectives, SingleProcess, run_thread_ranks
from partial_fc.guards import GradientClip, NumbersWentWrongError, RanksDifferError, StopRequest
from partial_fc.step import StepReport
from partial_fc.testing_run import make_trainer, parameters_of


def report(update: int, skipped: str = "") -> StepReport:
    return StepReport(update, 0, 1.0, 0.1, 1.0, 8, 1.0, {}, skipped)


class TestClip:
    @pytest.mark.parametrize("loss_scale", [1.0, 2.0**20])
    @pytest.mark.parametrize("max_norm", [0.5, 5.0, 1e6])
    def test_the_norm_is_over_all_parameters_and_the_factor_shortens_to_the_limit(
        self, max_norm: float, loss_scale: float
    ) -> None:
        rng = np.random.default_rng(0)
        shapes = {"a": (5, 3), "b": (7,), "c": (2, 3, 1)}
        arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        gradients = {name: mx.nd.array(array * loss_scale) for name, array in arrays.items()}
        expected = np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays.values()))
        norm, factor = GradientClip(max_norm, SingleProcess()).norm_and_factor(gradients, loss_scale)
        assert norm == pytest.approx(expected, rel=1e-6)
        assert factor == pytest.approx(min(1.0, max_norm / expected), rel=1e-6)

    def test_as_many_parameters_as_the_largest_network_has(self) -> None:
        gradients = {f"p{number}": mx.nd.full((3,), number % 7) for number in range(411)}
        expected = np.sqrt(sum(3.0 * (number % 7) ** 2 for number in range(411)))
        norm, _ = GradientClip(1.0, SingleProcess()).norm_and_factor(gradients, 1.0)
        assert norm == pytest.approx(expected, rel=1e-6)

    def test_zeros_stay_zeros(self) -> None:
        assert GradientClip(1.0, SingleProcess()).norm_and_factor({"p": mx.nd.zeros((3,))}, 1.0) == (0.0, 1.0)

    def test_ranks_whose_sums_differ_take_the_same_factor(self) -> None:
        def one_rank(collectives: Collectives) -> tuple[float, float]:
            gradients = {"p": mx.nd.full((3,), 1.0 + 1e-6 * collectives.rank)}
            return GradientClip(0.1, collectives).norm_and_factor(gradients, 1.0)

        results = run_thread_ranks(3, one_rank)
        assert len(set(results)) == 1

    @pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_limit_that_is_none_is_refused(self, norm: float) -> None:
        with pytest.raises(ValueError, match=f"must be positive, but is {norm}"):
            GradientClip(norm, SingleProcess())

    def test_a_trainer_that_clips_makes_the_shortened_step(self) -> None:
        def step(max_norm: float | None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], StepReport]:
            trainer = make_trainer(SingleProcess())
            trainer.clip = GradientClip(max_norm, SingleProcess()) if max_norm else None
            before = parameters_of(trainer)
            report = trainer.step()
            gradients = {name: array.asnumpy() for name, array in trainer.backbone.gradients.items()}
            changes = {name: array - before[name] for name, array in parameters_of(trainer).items()}
            return gradients, changes, report

        gradients, _, plain = step(None)
        norm = np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in gradients.values()))
        assert plain.gradient_norm is None
        _, changes, clipped = step(norm / 4)
        assert clipped.gradient_norm == pytest.approx(norm, rel=1e-6)
        before = parameters_of(make_trainer(SingleProcess()))
        for name, change in changes.items():
            expected = -0.01 * (gradients[name] / 4 + 5e-4 * before[name])
            np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-7, err_msg=name)


class TestSkippedUpdates:
    def test_one_more_in_a_row_than_allowed_ends_training_and_names_the_checkpoint(self) -> None:
        guard = LimitSkippedUpdates(2, lambda: Path("models/update-00000003"))
        for update, skipped in enumerate(["", "bad", "bad", "", "bad", "bad"], start=1):
            assert guard.after_update(report(update, skipped))
        with pytest.raises(NumbersWentWrongError) as caught:
            guard.after_update(report(7, "the loss is not finite"))
        for part in ("3 updates in a row", "update 7 (the loss is not finite)", "allows 2", "models/update-00000003"):
            assert part in str(caught.value)

    def test_without_a_checkpoint_it_says_so(self) -> None:
        with pytest.raises(NumbersWentWrongError, match="no checkpoint was saved"):
            LimitSkippedUpdates(0, lambda: None).after_update(report(1, "bad"))

    def test_training_ends_with_the_model_as_it_was(self) -> None:
        def one_rank(collectives: Collectives) -> tuple[int, bool]:
            trainer = make_trainer(collectives)
            trainer.train(2)
            if collectives.rank == 1:
                trainer.head.centers.stores[0].weight_RD[:] = np.nan
            before = parameters_of(trainer)
            with pytest.raises(NumbersWentWrongError, match="the loss is not finite"):
                trainer.train(20, [LimitSkippedUpdates(3, lambda: None)])
            after = parameters_of(trainer)
            return trainer.update, all(np.array_equal(before[name], after[name]) for name in before)

        assert run_thread_ranks(2, one_rank) == [(6, True)] * 2


class TestComparison:
    @pytest.mark.parametrize("size", [2, 3, 4])
    def test_equal_arrays_pass(self, size: int) -> None:
        run_thread_ranks(size, lambda c: compare_arrays({"a": mx.nd.arange(7), "b": mx.nd.ones((2, 3))}, c, "now"))

    def test_a_bit_on_one_rank_of_three_is_named(self) -> None:
        def one_rank(collectives: Collectives) -> str:
            arrays = {"conv0": mx.nd.arange(7), "fc1": mx.nd.ones((2, 3))}
            if collectives.rank == 1:
                arrays["fc1"][1, 2] = np.nextafter(np.float32(1), np.float32(2))
            with pytest.raises(RanksDifferError) as caught:
                compare_arrays(arrays, collectives, "after update 5")
            return str(caught.value)

        (text,) = set(run_thread_ranks(3, one_rank))
        assert "after update 5: in 'fc1' rank 1 of 3 differ from the others" in text

    def test_two_ranks_have_no_majority(self) -> None:
        def one_rank(collectives: Collectives) -> str:
            with pytest.raises(RanksDifferError) as caught:
                compare_arrays({"fc1": mx.nd.full((3,), collectives.rank)}, collectives, "now")
            return str(caught.value)

        (text,) = set(run_thread_ranks(2, one_rank))
        assert "no majority of them agreeing: rank 0 " in text

    def test_training_is_ended_at_the_next_comparison(self) -> None:
        def one_rank(collectives: Collectives) -> int:
            trainer = make_trainer(collectives)
            guard = CompareBackbones(3, trainer.backbone, collectives)
            trainer.train(4, [guard])
            if collectives.rank == 1:
                trainer.backbone.parameters["fc1_bias"][0] += 1e-3
            with pytest.raises(RanksDifferError, match="fc1_bias|conv0_weight|bn0|relu0|fc1_weight"):
                trainer.train(9, [guard])
            return trainer.update

        assert run_thread_ranks(2, one_rank) == [6, 6]


class TestStopRequest:
    @pytest.fixture(autouse=True)
    def handlers(self):
        before = {number: signal.getsignal(number) for number in StopRequest.SIGNALS}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    @pytest.mark.parametrize("number", StopRequest.SIGNALS)
    def test_a_signal_is_noted(self, number: signal.Signals) -> None:
        stop = StopRequest()
        stop.listen()
        assert not stop.made
        os.kill(os.getpid(), number)
        assert stop.made
        assert stop.signal == number

    def test_a_second_ctrl_c_does_not_wait(self) -> None:
        stop = StopRequest()
        stop.listen()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    def test_one_ranks_wish_ends_training_on_all_after_the_step_that_tells_it(self) -> None:
        def one_rank(collectives: Collectives) -> tuple[int, bool]:
            trainer = make_trainer(collectives, samples=6)

            class Asked:
                def after_update(self, report: StepReport) -> bool:
                    if report.update == 3 and collectives.rank == 1:
                        trainer.stop.signal = signal.SIGTERM
                    return True

                def at_end(self, report: StepReport) -> None:
                    assert report.stop_requested

            trainer.train(9, [Asked()])
            return trainer.update, trainer.stopped

        assert run_thread_ranks(3, one_rank) == [(4, True)] * 3
