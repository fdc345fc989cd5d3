from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxboard.proto.event_pb2 import Event

from partial_fc.callbacks import Log, LogProgress, SaveModel, Verify
from partial_fc.collectives import Collectives, RankError, SingleProcess, run_thread_ranks
from partial_fc.evaluation.verification_set import VerificationSet, load_bin
from partial_fc.testing_run import make_trainer, tiny_network, write_tiny_faces
from partial_fc.trainer import StepReport


def make_report(update: int, **changes: object) -> StepReport:
    values = {
        "update": update,
        "epoch": 2,
        "loss": 10.0 - update,
        "learning_rate": 0.05,
        "loss_scale": 8.0,
        "images": 64,
        "seconds": 0.5,
        "milliseconds": {"data": 100.0 * update, "backbone": 300.0, "head": 60.0, "communication": 40.0},
        "skipped": "",
    }
    return StepReport(**(values | changes))


def records_of(directory: Path) -> list[dict[str, object]]:
    """The lines of the log, each strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (directory / "log.jsonl").open()]


def scalars_of(directory: Path) -> dict[tuple[str, int], float]:
    """(tag, step) → value of all that TensorBoard finds."""
    (path,) = (directory / "tensorboard").glob("events.out.tfevents.*")
    events = [Event.FromString(payload) for payload in tensorboard_records(path.read_bytes())]
    return {(value.tag, event.step): value.simple_value for event in events for value in event.summary.value}


def tensorboard_records(content: bytes) -> Iterator[bytes]:
    """A record is its length (8 bytes), a check sum of that (4), the payload, a check sum of it (4)."""
    while content:
        end = 12 + int.from_bytes(content[:8], "little")
        yield content[12:end]
        content = content[end + 4 :]


def run_callback(directory: Path, reports: list[StepReport], every: int, max_update: int = 7) -> None:
    with closing(Log(directory, max_update, SingleProcess())) as log:
        progress = LogProgress(every, max_update, log)
        assert all([progress.after_update(report) for report in reports])
        progress.at_end(reports[-1])


class TestLogProgress:
    def test_a_line_every_so_many_updates_with_their_means_and_one_for_the_rest(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run_callback(tmp_path, [make_report(update) for update in range(1, 8)], every=3)
        records = records_of(tmp_path)
        assert [record["update"] for record in records] == [3, 6, 7]
        assert records[0] == {
            "update": 3,
            "epoch": 2,
            "loss": 8.0,
            "learning_rate": 0.05,
            "loss_scale": 8.0,
            "images_per_second": 128.0,
            "milliseconds": {"data": 200.0, "backbone": 300.0, "head": 60.0, "communication": 40.0},
            "skipped": 0,
        }
        assert records[1]["loss"] == 5.0
        assert records[2]["loss"] == 3.0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 3, "plain lines, for pytest's output is no terminal"
        for part in ("update 3/7", "epoch 2", "loss 8.0000", "lr 0.05", "128 images/s", "data 200.0"):
            assert part in lines[0]

    def test_updates_that_are_a_multiple_leave_no_rest(self, tmp_path: Path) -> None:
        run_callback(tmp_path, [make_report(update) for update in range(1, 7)], every=3)
        assert [record["update"] for record in records_of(tmp_path)] == [3, 6]

    def test_images_of_a_second_are_those_of_all_updates_of_the_line(self, tmp_path: Path) -> None:
        run_callback(tmp_path, [make_report(1, seconds=0.25), make_report(2, seconds=0.75)], every=2)
        assert records_of(tmp_path)[0]["images_per_second"] == 128.0

    def test_tensorboard_has_the_numbers_at_their_updates(self, tmp_path: Path) -> None:
        run_callback(tmp_path, [make_report(update) for update in range(1, 5)], every=2)
        scalars = scalars_of(tmp_path)
        for record in records_of(tmp_path):
            for tag in ("loss", "learning_rate", "loss_scale", "images_per_second", "epoch", "skipped"):
                assert scalars[tag, record["update"]] == pytest.approx(record[tag], rel=1e-6)
            for part in ("data", "backbone", "head", "communication"):
                found = scalars[f"milliseconds/{part}", record["update"]]
                assert found == pytest.approx(record["milliseconds"][part], rel=1e-6)
        assert {step for _, step in scalars} == {2, 4}
        assert len(scalars) == 2 * 10

    def test_a_loss_that_is_not_finite_is_counted_and_left_out(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = {"loss": float("nan"), "skipped": "the loss is not finite"}
        reports = [make_report(1), *(make_report(update, **broken) for update in (2, 3, 4))]
        run_callback(tmp_path, reports, every=2)
        first, second = records_of(tmp_path)
        assert (first["loss"], first["skipped"]) == (9.0, 1)
        assert (second["loss"], second["skipped"]) == (None, 2)
        assert "loss not finite" in capsys.readouterr().out.splitlines()[1]
        expected = [f"update {update} was skipped: the loss is not finite" for update in (2, 3, 4)]
        assert caplog.messages == expected
        assert ("loss", 4) not in scalars_of(tmp_path)

    def test_only_rank_0_speaks(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        def one_rank(collectives: Collectives) -> None:
            directory = tmp_path / str(collectives.rank)
            with closing(Log(directory, 1, collectives)) as log:
                progress = LogProgress(1, 1, log)
                progress.after_update(make_report(1, skipped="an overflow"))

        run_thread_ranks(3, one_rank)
        assert [path.name for path in tmp_path.iterdir()] == ["0"]
        assert len(capsys.readouterr().out.splitlines()) == 1
        assert len(caplog.messages) == 1

    @pytest.mark.parametrize(
        ("terminal", "asked_for", "bar"),
        [(True, None, True), (False, None, False), (False, "bar", True), (True, "lines", False)],
    )
    def test_a_terminal_gets_a_bar_unless_the_launcher_knows_better(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        terminal: bool,
        asked_for: str | None,
        bar: bool,
    ) -> None:
        monkeypatch.delenv("PARTIAL_FC_PROGRESS", raising=False)
        if asked_for is not None:
            monkeypatch.setenv("PARTIAL_FC_PROGRESS", asked_for)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
        run_callback(tmp_path, [make_report(update) for update in range(1, 8)], every=7)
        output = capsys.readouterr()
        assert ("7/7" in output.err and "100%" in output.err) == bar
        assert len(output.out.splitlines()) == 1, "the line is there with a bar and without"
        assert "loss 6.0000" in output.out

    def test_a_directory_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file"):
            Log(tmp_path / "file" / "run", 1, SingleProcess())


class RecordedCheckpoints:
    """Notes what a checkpointer is asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin(self, update: int) -> None:
        self.calls.append(f"begin {update}")

    def poll(self) -> None:
        self.calls.append("poll")

    def finish(self) -> None:
        self.calls.append("finish")


class TestSaveModel:
    def test_every_so_many_updates_and_at_the_last_which_is_waited_for(self) -> None:
        checkpoints = RecordedCheckpoints()
        callback = SaveModel(checkpoints, 2, 5)
        for update in range(1, 6):
            assert callback.after_update(make_report(update))
        expected = ["poll", "poll", "begin 2", "poll", "poll", "begin 4", "poll", "begin 5", "finish"]
        assert checkpoints.calls == expected
        callback.at_end(make_report(5))
        assert checkpoints.calls == [*expected, "finish"], "it is saved already"

    def test_an_end_before_the_last_update_is_saved_too(self) -> None:
        checkpoints = RecordedCheckpoints()
        callback = SaveModel(checkpoints, 0, 9)
        callback.after_update(make_report(3))
        callback.at_end(make_report(3))
        assert checkpoints.calls == ["poll", "begin 3", "finish"]

    def test_a_save_under_way_of_the_last_update_is_not_begun_again(self) -> None:
        checkpoints = RecordedCheckpoints()
        callback = SaveModel(checkpoints, 3, 9)
        callback.after_update(make_report(3))
        callback.at_end(make_report(3))
        assert checkpoints.calls == ["poll", "begin 3", "finish"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("faces")
    write_tiny_faces(directory, pairs=22, image_size=9)
    return directory


class TestVerify:
    @staticmethod
    def run(
        size: int, directory: Path, sets: list[VerificationSet], every: int, updates: list[int]
    ) -> list[Verify]:
        """The callback of each rank after ``updates``, with BatchNorm statistics that differ among ranks."""

        def one_rank(collectives: Collectives) -> Verify:
            backbone = make_trainer(collectives, network=tiny_network()).backbone
            factor = 2 * collectives.rank / size  # so that the mean over two ranks is 1/2
            backbone.statistics["bn0_moving_mean"][:] = mx.nd.array([0, 1, 2, 3]) * factor
            with closing(Log(directory, 9, collectives)) as log:
                verify = Verify(sets, every, backbone, collectives, log)
                for update in updates:
                    assert verify.after_update(make_report(update))
                verify.at_end(make_report(updates[-1]))
            return verify

        return run_thread_ranks(size, one_rank)

    @pytest.mark.parametrize(
        ("every", "updates", "verified"),
        [
            (0, [1, 2, 3, 4], [4]),
            (3, [1, 2, 3, 4], [3, 4]),
            (2, [1, 2, 3, 4], [2, 4]),
            (9, [1], [1]),
        ],
    )
    def test_every_so_many_updates_and_once_at_the_end(
        self, tmp_path: Path, faces: Path, every: int, updates: list[int], verified: list[int]
    ) -> None:
        self.run(1, tmp_path, [load_bin(faces / "val.bin")], every, updates)
        assert [record["update"] for record in records_of(tmp_path)] == verified

    def test_all_ranks_together_find_what_one_finds_and_log_it(
        self, tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        val = load_bin(faces / "val.bin")
        other = VerificationSet("other", val.images[::-1], val.is_same[::-1])

        def one_with_the_mean_statistics(collectives: Collectives) -> Verify:
            backbone = make_trainer(collectives, network=tiny_network(), samples=4).backbone
            backbone.statistics["bn0_moving_mean"][:] = mx.nd.array([0, 1, 2, 3]) / 2
            with closing(Log(tmp_path / "1", 9, collectives)) as log:
                verify = Verify([val, other], 0, backbone, collectives, log)
                verify.at_end(make_report(5))
            return verify

        alone = one_with_the_mean_statistics(SingleProcess())
        capsys.readouterr()
        for verify in self.run(2, tmp_path / "2", [val, other], 0, [5]):
            assert verify.results.keys() == {"val", "other"}
            for name, result in verify.results.items():
                assert result.accuracy == alone.results[name].accuracy
                assert result.xnorm == pytest.approx(alone.results[name].xnorm, rel=1e-5)
        assert 0.5 < alone.results["val"].accuracy

        result = alone.results["val"]
        first, second = records_of(tmp_path / "2")
        assert first == {
            "update": 5,
            "verification": {
                "val": {
                    "accuracy": result.accuracy,
                    "accuracy_std": pytest.approx(result.accuracy_std),
                    "threshold": pytest.approx(result.best_threshold),
                    "xnorm": pytest.approx(result.xnorm, rel=1e-5),
                }
            },
        }
        assert list(second["verification"]) == ["other"]
        scalars = scalars_of(tmp_path / "2")
        assert scalars["verification/val/accuracy", 5] == pytest.approx(result.accuracy)
        assert scalars["verification/other/xnorm", 5] == pytest.approx(alone.results["other"].xnorm, rel=1e-5)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2
        assert lines[0].startswith(f"update 5  val: accuracy {100 * result.accuracy:.2f} %")
        assert "(22 pairs)" in lines[0]

    def test_training_goes_on_after_it_as_if_it_had_not_been(self, tmp_path: Path, faces: Path) -> None:
        def losses(every: int) -> list[float]:
            trainer = make_trainer(SingleProcess(), network=tiny_network())
            reports = []

            class Keep:
                def after_update(self, report: StepReport) -> bool:
                    reports.append(report.loss)
                    return True

                def at_end(self, report: StepReport) -> None:
                    return

            with closing(Log(tmp_path / str(every), 4, SingleProcess())) as log:
                val = load_bin(faces / "val.bin")
                trainer.train(4, [Verify([val], every, trainer.backbone, trainer.collectives, log), Keep()])
            return reports

        assert losses(every=1) == losses(every=0)

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("an image that is none", "image .* of bad is neither JPEG nor PNG: 8 bytes"),
            ("pairs of one kind", "^bad: .*pairs of both kinds"),
            ("fewer pairs than folds", "^bad: .* not 10 of 3 pairs"),
        ],
    )
    def test_a_set_that_cannot_be_verified_ends_all_ranks_with_one_sentence(
        self, tmp_path: Path, faces: Path, kind: str, message: str
    ) -> None:
        images, is_same = load_bin(faces / "val.bin").images, load_bin(faces / "val.bin").is_same
        if kind == "an image that is none":
            images = [*images[:-1], b"no image"]
        elif kind == "pairs of one kind":
            is_same = np.ones_like(is_same)
        else:
            images, is_same = images[:6], is_same[:3]
        broken = VerificationSet("bad", images, is_same)
        errors = []

        def one_rank(collectives: Collectives) -> None:
            backbone = make_trainer(collectives, network=tiny_network()).backbone
            with closing(Log(tmp_path, 9, collectives)) as log:
                with pytest.raises(RankError, match=message) as caught:
                    Verify([broken], 0, backbone, collectives, log).at_end(make_report(1))
            errors.append(str(caught.value))

        run_thread_ranks(2, one_rank)
        assert len(set(errors)) == 1
        assert "\n" not in errors[0]
