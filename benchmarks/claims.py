"""The paper's claims, tried: Partial FC with fewer and fewer negatives, other samplers, margins, noise and its filter.

    python benchmarks/claims.py [--only TEXT] [--seeds 3] [--jobs 2] [--work DIR] [--lfw DIR] [--report-only] [--quick]

Trains every case of ``claims_grid.py``, some at a time, each on one thread, and writes its figures to
``benchmarks/results/claims/NAME.json``. What is there already and was made by the same recipe is not run again: killed
in the middle, the same command goes on. Then ``docs/claims.md`` and its plots are written from all that is there.

``--quick`` does all of it in miniature, below ``WORK/quick`` and within a minute: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from claims_grid import SEEDS, Case, DataSet, faces_directory, grid, quick_data_sets, shipped_data_sets

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("claims_run.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parse(arguments)
    data_sets = quick_data_sets() if options.quick else shipped_data_sets()
    there = data_sets
    if not (options.lfw / "train.rec").is_file():
        print(f"LFW is left out: there is no {options.lfw / 'train.rec'}, see --lfw", file=sys.stderr)
        there = {name: data for name, data in data_sets.items() if name != "lfw"}
    cases = [case for case in grid(there, range(options.seeds)) if options.only in case.name]
    if not cases:
        print(f"error: no case has {options.only!r} in its name", file=sys.stderr)
        return 1
    failed = []
    if not options.report_only:
        missing = [case for case in cases if finished(options.results, case) is None]
        print(f"{len(cases)} runs, {len(cases) - len(missing)} of them finished", flush=True)
        if missing:
            if not draw_faces(options.work, {case.data.name: case.data for case in missing}.values()):
                return 1
            try:
                failed = run_all(missing, options)
            except KeyboardInterrupt:
                print("interrupted: the same command goes on", file=sys.stderr)
                return 130
    # The report needs Matplotlib, and MXNet for the versions: not before they are needed.
    from claims_report import write_report

    results = [result for case in grid(data_sets, range(options.seeds)) if (result := finished(options.results, case))]
    if not results:
        print("error: there is no finished run of these recipes to report", file=sys.stderr)
        return 1
    print(f"wrote {write_report(results, options.docs)}")
    for name in failed:
        print(f"error: {name} failed, see above; the same command tries it again", file=sys.stderr)
    return 1 if failed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; directories that depend on others are filled in."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the runs whose name holds this text")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="runs of everything (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each (%(default)s)")
    parser.add_argument("--work", type=Path, default=ROOT / "datasets" / "claims", help="for images (%(default)s)")
    parser.add_argument("--lfw", type=Path, default=ROOT.parent / "shared" / "data" / "lfw", help="(%(default)s)")
    parser.add_argument("--results", type=Path, help="finished runs (benchmarks/results/claims)")
    parser.add_argument("--docs", type=Path, help="where claims.md and images/ go (docs)")
    parser.add_argument("--report-only", action="store_true", help="run nothing, write the report anew")
    parser.add_argument("--quick", action="store_true", help="all in miniature, below WORK/quick")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    home = options.work / "quick" if options.quick else None
    options.results = options.results or (home / "results" if home else ROOT / "benchmarks" / "results" / "claims")
    options.docs = options.docs or (home / "docs" if home else ROOT / "docs")
    return options


def finished(results: Path, case: Case) -> dict[str, Any] | None:
    """The result of a run, if there is one and it was made as the case says."""
    try:
        result = json.loads((results / f"{case.name}.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return result if result.get("case") == case.description() else None


def draw_faces(work: Path, data_sets: Iterable[DataSet]) -> bool:
    """Draws the synthetic faces that are not there; False when it cannot, which has been said then."""
    for directory, faces in {faces_directory(work, data): data.faces for data in data_sets if data.faces}.items():
        command = [sys.executable, "-m", "partial_fc.data.synthetic_faces", str(directory)]
        for name, value in faces.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        if subprocess.run(command, env=environment()).returncode:
            return False
    return True


def environment() -> dict[str, str]:
    """Of a worker: one thread, and the project's modules."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), str(ROOT / "benchmarks")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def run_all(cases: Sequence[Case], options: argparse.Namespace) -> list[str]:
    """Runs cases on ``options.jobs`` workers; the names of those that failed."""
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    progress = _Progress(len(cases))
    workers = [Worker(options) for _ in range(min(options.jobs, len(cases)))]
    threads = [threading.Thread(target=_feed, args=(waiting, worker, progress)) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C: what runs is given up, what is finished stays
        for _ in _taken(waiting):
            pass
        for worker in workers:
            worker.kill()
        raise
    return progress.failed


class _Progress:
    """Says what has finished, and how long the rest may take."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._start, self._lock = total, 0, time.perf_counter(), threading.Lock()
        self.failed: list[str] = []

    def say(self, name: str, done: bool) -> None:
        with self._lock:
            self._done += 1
            if not done:
                self.failed.append(name)
            seconds = time.perf_counter() - self._start
            left = seconds / self._done * (self._total - self._done)
            what = "done" if done else "FAILED"
            print(f"{self._done}/{self._total} {name}: {what}; {seconds:.0f} s, some {left:.0f} s left", flush=True)


class Worker:
    """A process that runs what it is told, one case after the other; another one after it ended in the middle."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._command = [sys.executable, str(WORKER), "--work", str(options.work), "--lfw", str(options.lfw)]
        self._command += ["--results", str(options.results), "--seeds", str(options.seeds)]
        self._command += ["--quick"] if options.quick else []
        self._process: subprocess.Popen[str] | None = None

    def run(self, case: Case) -> bool:
        """Waits for the case to end; whether its result is there."""
        if self._process is None or self._process.poll() is not None:
            # In a session of its own: Ctrl-C is for this process to handle, and the kernel shares the processors
            # among sessions.
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
            self._process = subprocess.Popen(self._command, env=environment(), text=True, **pipes)
        try:
            self._process.stdin.write(f"{case.name}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
        return answer == f"done {case.name}\n"

    def close(self) -> None:
        """Lets the process end."""
        if self._process is not None:
            self._process.communicate()

    def kill(self) -> None:
        """Ends the process now."""
        if self._process is not None:
            self._process.kill()


def _feed(waiting: queue.SimpleQueue[Case], worker: Worker, progress: _Progress) -> None:
    """Gives cases to one worker until there are none."""
    for case in _taken(waiting):
        progress.say(case.name, worker.run(case))
    worker.close()


def _taken(waiting: queue.SimpleQueue[Case]) -> Iterator[Case]:
    while True:
        try:
            yield waiting.get_nowait()
        except queue.Empty:
            return


if __name__ == "__main__":
    sys.exit(main())
