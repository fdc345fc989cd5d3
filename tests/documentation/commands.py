"""Runs a command of the guides in this process, as its shell line would; or says what it cannot be."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import pytest
from pages import PROJECT, Command
from small_world import TRAINING, in_small, small_training

from partial_fc.config import parse_arguments

# Commands that are not run here, and the test that runs them, or the script that does.
ELSEWHERE = {
    "bash setup.sh": "tests/launch/test_setup.py::test_makes_everything_in_order",
    "bash tests/run.sh": ".ci/run",
    "bash tests/soak.sh": "tests/test_soak.py",
    "make check": "tests/documentation/test_commands.py::test_make_check_checks_what_run_sh_does",
    "make test": ".ci/run",
    "python examples/gluon_partial_fc.py": "tests/parallel/test_examples.py",
    "python benchmarks/claims.py": "tests/benchmarks/test_claims.py",
    "python benchmarks/embed.py": "tests/benchmarks/test_embed.py",
    "python benchmarks/lazy_updates.py": "tests/benchmarks/test_lazy_updates.py",
    "python docs/options.py": "tests/documentation/test_pages.py::test_the_options_page_is_that_of_the_programs",
    "python benchmarks/throughput.py": "tests/benchmarks/test_throughput.py",
    "python benchmarks/checkpoint.py": "tests/benchmarks/test_checkpoint.py",
    "python benchmarks/data.py": "tests/benchmarks/test_data.py",
    "python benchmarks/evaluation.py": "tests/benchmarks/test_evaluation.py",
}
# Benchmarks that the text names and no test runs: their options are checked, and they take this long.
LONG = {
    "python benchmarks/head_table.py": "half an hour",
    "python benchmarks/f2c.py": "half an hour",
    "python benchmarks/lru.py": "a minute",
    "python benchmarks/layer.py": "a minute",
    "python benchmarks/margins.py": "a minute",
    "python benchmarks/export.py": "minutes",
    "bash benchmarks/ten_million.sh": "hours",
    "make bench": "a minute",
    "python -m pytest": "minutes, and real faces",
}
# The directories of the project's own scripts, from which a clone's commands are started.
_SCRIPTS = ("run.sh", "config.sh")


def without_launcher(words: Sequence[str]) -> list[str]:
    """``horovodrun -np 8 -H localhost:8 bash config.sh`` → ``bash config.sh``; Horovod's parser reads the rest."""
    if words[0] not in ("horovodrun", "mpirun"):
        return list(words)
    first = next((i for i, word in enumerate(words) if word in ("bash", "python")), None)
    if first is None:  # the launcher alone, with an option that the text speaks of
        return list(words[:1])
    if words[0] == "horovodrun":
        from horovod.runner.launch import parse_args

        ranks = [] if "-np" in words else ["-np", "1"]  # where the text names an option alone
        with mock.patch.object(sys, "argv", ["horovodrun", *ranks, *words[1 : first + 1]]):
            parse_args()
    return list(words[first:])


def program_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """(what runs, its arguments): a script of the project, ``-m partial_fc.evaluate``, or a program of the system."""
    words = without_launcher(words)
    name = Path(words[0]).name
    if name == "python" and words[1:2] == ["-m"]:
        return f"-m {words[2]}", words[3:]
    if name in ("python", "bash", "make") and len(words) > 1 and words[1] != "-c":
        script = words[1].removeprefix("./")
        return (f"make {script}" if name == "make" else script), words[2:]
    return words[0], words[1:]


def name_of(command: Command) -> str:
    """As the tables here have it: ``bash run.sh``, ``python benchmarks/data.py``, ``python -m partial_fc.plan``."""
    program, _ = program_of(command.words)
    if program.endswith(".sh"):
        return f"bash {program}"
    return f"python {program}" if program.endswith(".py") or program.startswith("-m ") else program


def entry_of(program: str) -> Callable[[list[str]], int] | None:
    """The function that a program of this project begins with; None for others."""
    if program in _SCRIPTS:
        return importlib.import_module("partial_fc.train").main
    if program.startswith("-m partial_fc."):
        name = program.removeprefix("-m ")
        package = importlib.util.find_spec(name).submodule_search_locations is not None
        return importlib.import_module(f"{name}.__main__" if package else name).main
    if program == "unpack_glint360k.py":
        return importlib.import_module("unpack_glint360k").main
    return None


def without_restarts(program: str, arguments: list[str]) -> list[str]:
    """The arguments that reach the ranks: ``--restarts N`` is run.sh's own, and a ``--`` before all is nobody's."""
    if program == "run.sh" and "--restarts" in arguments:
        place = arguments.index("--restarts")
        arguments = arguments[:place] + arguments[place + 2 :]
    return arguments[arguments[:1] == ["--"] :]


def run(command: Command, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Runs it in the current directory, in small. Returns its exit status and all that it printed."""
    program, arguments = program_of(command.words)
    entry = entry_of(program)
    if entry is None:
        return _run_by_shell(command.text)
    arguments = without_restarts(program, in_small(arguments))
    trains = program in (*_SCRIPTS, "-m partial_fc.train")
    if trains and "--help" not in arguments:
        arguments += TRAINING.split()
    capsys.readouterr()
    log = io.StringIO()
    with small_training() if trains else contextlib.nullcontext(), logged(log):
        try:
            status = entry(arguments)
        except SystemExit as end:
            status = end.code or 0
    printed = capsys.readouterr()
    return status, printed.out + log.getvalue() + printed.err


@contextlib.contextmanager
def logged(file: io.StringIO) -> Iterator[None]:
    """What the program logs goes there, as it goes to standard error outside of a test."""
    handler, root = logging.StreamHandler(file), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield
    root.setLevel(level)
    root.removeHandler(handler)


def _run_by_shell(text: str) -> tuple[int, str]:
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    variables = {"PATH": os.pathsep.join(paths), "PYTHONPATH": f"{PROJECT}:{PROJECT}/src"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def check_options(command: Command) -> None:
    """Fails on an option, a recipe or a variable that the program does not have; runs nothing."""
    program, arguments = program_of(command.words)
    for name in command.variables:
        scripts = [PROJECT / script for script in ("run.sh", "setup.sh", "config.sh", "tests/conftest.py")]
        known = any(re.search(rf"\b{name}\b", script.read_text()) for script in scripts)
        assert known or (PROJECT / program).exists() or name in _LONG_TESTS, f"{command.where}: nobody reads {name}"
    if program in (*_SCRIPTS, "-m partial_fc.train"):
        given = without_restarts(program, arguments)
        if "--help" not in given:
            parse_arguments(given, "toy")
    elif (entry := entry_of(program)) is not None:
        unknown = _options(arguments) - _known_options(entry, arguments)
        assert not unknown, f"{command.where}: {program} has no option {', '.join(unknown)}"
    elif (PROJECT / program).is_file():
        text = (PROJECT / program).read_text()
        unknown = {option for option in _options(arguments) if f'"{option}"' not in text and program.endswith(".py")}
        assert not unknown, f"{command.where}: {program} has no option {', '.join(unknown)}"
    else:
        assert not re.search(r"(\.py|\.sh)$", program), f"{command.where}: there is no {program}"


_LONG_TESTS = ("PARTIAL_FC_LONG_TESTS", "PARTIAL_FC_TEST_DATA")


def _options(arguments: Sequence[str]) -> set[str]:
    return {word.partition("=")[0] for word in arguments if word.startswith("--") and word != "--"}


_known: dict[tuple[object, ...], set[str]] = {}


def _known_options(entry: Callable[[list[str]], int], arguments: Sequence[str]) -> set[str]:
    """The options that ``--help`` lists; behind a verb, the verb's."""
    verb = [word for word in arguments[:1] if re.fullmatch("[a-z]+", word)]
    if (key := (entry, *verb)) not in _known:
        texts: list[str] = []

        def note(self, file=None):
            texts.append(self.format_help())

        with mock.patch("argparse.ArgumentParser.print_help", note):
            for words in ([*verb, "--help"], ["--help"]):
                try:
                    entry(words)
                except SystemExit:
                    continue
        _known[key] = set(re.findall(r"--[a-z0-9-]+", "\n".join(texts))) | {"--help"}
    return _known[key]
