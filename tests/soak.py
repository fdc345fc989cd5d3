"""Trains under random SIGKILLs and restarts, and again undisturbed, and compares: see tests/soak.sh."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
for _directory in (ROOT / "src", ROOT):
    sys.path.insert(0, str(_directory))

from partial_fc.data.synthetic_faces import ensure_synthetic_faces  # noqa: E402
from partial_fc.exit_status import FINISHED, STOPPED  # noqa: E402

RANKS = 2
BATCH = 8
OPTIONS = [
    *("--dataset", "synthetic", "--network", "toy", "--image-size", "56", "--embedding-size", "32", "--val"),
    *("--batch-size", str(BATCH), "--sample-ratio", "0.5", "--lr", "0.01", "--lr-steps", "200,400"),
    *("--max-update", "1000000", "--log-every-updates", "1", "--save-every-updates", "4", "--keep", "2"),
    *("--check-every-updates", "10", "--stall-timeout-seconds", "120"),
]
_RUN_VARIABLE = "PARTIAL_FC_SOAK_RUN"
_LEAST_FAULTS = 3
_PATIENCE_SECONDS = 600.0  # for one more update, on a machine that does other things too


@dataclass
class Run:
    """A training run by run.sh, its log and the notes of its ranks."""

    directory: Path
    faces: Path
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        self.directory.mkdir()
        self.output = (self.directory / "output").open("wb")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_"))}
        variables |= {
            "NP": str(RANKS),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # for soak_rank.sh
            "PYTHON": str(ROOT / "tests" / "soak_rank.sh"),
            "OMP_NUM_THREADS": "1",
            "PARTIAL_FC_SOAK_NOTES": str(self.directory),
            _RUN_VARIABLE: self.name,
        }
        options = [*OPTIONS, "--rec", str(self.faces / "train.rec"), "--models-root", str(self.directory / "models")]
        command = ["bash", str(ROOT / "run.sh"), *more, *options]
        self.process = subprocess.Popen(command, env=variables, cwd=ROOT, stdout=self.output, stderr=self.output)

    def ranks(self) -> list[psutil.Process]:
        """The ranks' processes, those that are there."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            try:
                if "soak_rank.py" in " ".join(process.info["cmdline"] or ()) and (
                    process.environ().get(_RUN_VARIABLE) == self.name
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def end(self) -> None:
        """Ends what is left of it."""
        for process in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            process.kill()

    def log(self) -> list[dict[str, object]]:
        """The records of the log; of a line that is being written, nothing."""
        paths = list(self.directory.glob("models/*/log.jsonl"))
        lines = paths[0].read_bytes().split(b"\n")[:-1] if paths else []
        return [json.loads(line) for line in lines]

    def noted_lines(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.directory.glob("images-*.jsonl"))

    def wait_for_steps(self, seconds: float, pause: threading.Event) -> bool:
        """Waits until a step has begun after this call; False when the run has ended."""
        before, end = self.noted_lines(), time.monotonic() + seconds
        while self.noted_lines() <= before + RANKS:
            if self.process.poll() is not None:
                return False
            if time.monotonic() > end:
                raise AssertionError(f"no update in {seconds:g} s: see {self.directory / 'output'}")
            pause.wait(0.1)
        return True

    def images(self, updates: int) -> list[list[list[int]]]:
        """For each update of the line that leads to the end, each rank's images, and the epoch first."""
        line: list[list[list[int]]] = [[] for _ in range(updates)]
        for path in sorted(self.directory.glob("images-*.jsonl")):
            entries = [json.loads(text) for text in path.read_bytes().split(b"\n")[:-1]]
            last = {entry["update"]: entry for entry in entries}  # what came before it was lost with its run
            for update in range(1, updates + 1):
                line[update - 1].append([last[update]["epoch"], *last[update]["images"]])
        return line


def disturb(run: Run, seconds: float, rng: random.Random, pause: threading.Event) -> Counter[str]:
    """Kills one rank or all at random moments, until the time is up, on a slow machine too; what was done, by kind."""
    faults: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end or faults.total() < _LEAST_FAULTS:
        starting = rng.random() < 0.15  # else in the middle of training, or of a save
        if not starting and not run.wait_for_steps(_PATIENCE_SECONDS, pause):
            raise AssertionError(f"the run ended with status {run.process.poll()}: see {run.directory / 'output'}")
        pause.wait(rng.uniform(0.0, 6.0))
        ranks = run.ranks()
        if not ranks:
            continue
        victims = ranks if rng.random() < 0.5 else [rng.choice(ranks)]
        killed = 0
        for victim in victims:
            try:
                victim.kill()
                killed += 1
            except psutil.NoSuchProcess:
                continue
        if killed:
            faults["one rank" if killed < RANKS else "all ranks"] += 1
            print(f"fault {faults.total()}: SIGKILL of {killed} of {RANKS} ranks", flush=True)
    return faults


def compare(disturbed: Run, plain: Run, updates: int, num_images: int) -> int:
    """Asserts that the runs are one and the same; returns the images that it took."""
    ours, theirs = disturbed.log(), plain.log()
    assert [record["update"] for record in ours] == list(range(1, updates + 1)), "updates are missing or repeated"
    assert [record["update"] for record in theirs] == list(range(1, updates + 1))
    different = [a["update"] for a, b in zip(ours, theirs, strict=True) if a["loss"] != b["loss"]]
    assert not different, f"the losses of {len(different)} updates differ, the first is {different[0]}"
    images, expected = disturbed.images(updates), plain.images(updates)
    assert images == expected, "the images of the updates differ"
    epochs: dict[int, list[int]] = {}
    for ranks in images:
        for epoch, *indices in ranks:
            epochs.setdefault(epoch, []).extend(indices)
    whole = num_images // (BATCH * RANKS) * BATCH * RANKS
    for epoch, indices in epochs.items():
        assert len(set(indices)) == len(indices), f"an image of epoch {epoch} was seen twice"
        assert len(indices) == whole or epoch == max(epochs), f"images of epoch {epoch} are missing"
    assert sum(map(len, epochs.values())) == updates * BATCH * RANKS
    return updates * BATCH * RANKS


def soak(minutes: float, seed: int, directory: Path) -> str:
    """The whole of it, in a directory of its own; says what was survived."""
    faces = directory / "faces"
    ensure_synthetic_faces(
        faces, **{"identities": 61, "images_per_identity": 5, "held_out_identities": 20, "pairs": 20},
        seed=1, image_size=56,
    )  # fmt: skip
    pause = threading.Event()  # waits without sleeping: nobody ever sets it
    disturbed, plain = Run(directory / "disturbed", faces), Run(directory / "plain", faces)
    try:
        disturbed.start("--restarts", "999999")
        faults = disturb(disturbed, 60.0 * minutes, random.Random(seed), pause)
        assert disturbed.wait_for_steps(_PATIENCE_SECONDS, pause), "the last fault was not survived"
        disturbed.process.send_signal(signal.SIGTERM)
        status = disturbed.process.wait(_PATIENCE_SECONDS)
        assert status == STOPPED, f"the run was asked to end and ended with status {status}"
        updates = int(disturbed.log()[-1]["update"])
        print(f"the same {updates} updates, undisturbed", flush=True)
        plain.start("--stop-update", str(updates))
        assert plain.process.wait(_PATIENCE_SECONDS + 60.0 * minutes) == FINISHED
    finally:
        for run in (disturbed, plain):
            if run.process is not None and run.process.poll() is None:
                run.end()
    made = faults.total()
    images = compare(disturbed, plain, updates, num_images=61 * 5)
    kinds = ", ".join(f"{count} of {kind}" for kind, count in sorted(faults.items()))
    return (
        f"faults made: {made} ({kinds}); faults survived: {made}\n"
        f"updates: {updates}, none missing or repeated; losses equal bit for bit to those of an undisturbed run\n"
        f"images: {images}, none of an epoch lost or seen twice"
    )


def ends_of_outputs(directory: Path) -> str:
    """What the runs said last."""
    return "\n".join(
        f"--- the end of {output}\n{output.read_text(errors='replace')[-4000:]}"
        for output in sorted(directory.glob("*/output"))
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=30.0, help="of training under faults (30)")
    parser.add_argument("seed", type=int, nargs="?", default=0, help="of the schedule of faults (0)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="partial-fc-soak-") as name:
        try:
            print(soak(arguments.minutes, arguments.seed, Path(name)))
        except AssertionError as error:
            print(f"soak: FAILED: {error}\n{ends_of_outputs(Path(name))}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
