"""Every command of README and guides does what it says: run here in small, or in another test, or visibly marked."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import commands  # noqa: E402
import small_world  # noqa: E402
from pages import PAGES, PROJECT, Block, Command, blocks_of, commands_in_text, commands_of  # noqa: E402

from partial_fc.export import main as export  # noqa: E402


def named(page: Path) -> str:
    return page.stem


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The small world that each page gets a copy of."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        small_world.write_world(root)
        yield root
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def world(request: pytest.FixtureRequest, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy for the page, which is the current directory."""
    shutil.copytree(base, tmp_path / "world", symlinks=True)
    monkeypatch.chdir(tmp_path / "world")
    page = request.node.callspec.params["page"]
    if not re.search(r"mkdir faces|split photos faces", page.read_text()):  # else its own commands make it
        shutil.copytree("ms1m", "faces")
    if "model.onnx" in page.read_text():
        assert export(["models/r50/model,0", "model.onnx"]) == 0
    return tmp_path / "world"


# The pages whose Python another test runs, with what stands before it.
PYTHON_ELSEWHERE = {"layer": "tests/test_docs_layer.py"}


def has_code(page: Path) -> bool:
    return any(block.language in ("bash", "python") for block in blocks_of(page))


@pytest.mark.parametrize("page", filter(has_code, PAGES), ids=named)
def test_the_commands_of_a_page_run_in_their_order(
    page: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = blocks_of(page)
    printed = ""
    names: dict[str, object] = {"paths": ["a.jpg", "b.jpg"]}  # a reader's own
    for block in blocks:
        if block.language == "text" and block.note == "printed":
            check_printed(block, printed)
        if block.language == "python":
            code = compile(block.text, str(block), "exec")
            if not re.search(r"^# .*\bneeds\b", block.text, re.M) and page.stem not in PYTHON_ELSEWHERE:
                exec(code, names)
        if block.language != "bash":
            continue
        printed = ""
        for command in commands_of(block):
            if command.words[0] == "cd":
                os.chdir(command.words[1])
            elif block.mark:
                commands.check_options(command)
            elif elsewhere(command):
                continue
            else:
                expected = int(block.note.removeprefix("ends with ")) if block.note.startswith("ends with ") else 0
                if expected == 0:
                    commands.check_options(command)
                status, output = commands.run(command, capsys)
                printed += output
                assert status == expected, f"{command.where}: {command.text}\nstatus {status}\n{output}"


def check_printed(block: Block, printed: str) -> None:
    """Every line of the block, between its ellipses, is in what the commands before it printed."""
    have = " ".join(printed.split())
    for line in block.text.splitlines():
        for part in line.split("…"):
            assert " ".join(part.split()) in have, f"{block}: {part!r} is not in\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_messages_that_no_command_here_provokes_are_those_of_the_source(page: Path) -> None:
    for block in blocks_of(page):
        match = re.fullmatch(r"words of (\S+): (.*)", block.note)
        if match:
            source = (PROJECT / match[1]).read_text()
            for words in match[2].split(" | "):
                assert words in source and words in block.text, f"{block}: {words!r}"


def elsewhere(command: Command) -> bool:
    """Whether another test runs it; that test is there."""
    name = commands.name_of(command)
    if name not in commands.ELSEWHERE:
        return False
    commands.check_options(command)
    path, _, test = commands.ELSEWHERE[name].partition("::")
    what = f"def {test}" if test else Path(name.split()[-1]).stem
    assert what in (PROJECT / path).read_text(), f"{command.where}: {path} does not run {name}"
    return True


@cache
def run_in_blocks() -> set[str]:
    blocks = [block for page in PAGES for block in blocks_of(page) if block.language == "bash" and not block.mark]
    return {commands.name_of(command) for block in blocks for command in commands_of(block)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_commands_that_the_text_names_are_run_somewhere_and_have_their_options(page: Path) -> None:
    for command in commands_in_text(page):
        commands.check_options(command)
        name = commands.name_of(command)
        known = name in run_in_blocks() | commands.ELSEWHERE.keys() | commands.LONG.keys()
        assert known or command.words[0] in ("horovodrun", "mpirun"), f"{command.where}: no test runs {name}"


def test_few_commands_are_marked_and_not_run() -> None:
    marks = [block.mark for page in PAGES for block in blocks_of(page) if block.language == "bash"]
    assert len([mark for mark in marks if mark]) < len(marks) / 4


def test_make_check_checks_what_run_sh_does() -> None:
    makefile, script = (PROJECT / "Makefile").read_text(), (PROJECT / "tests/run.sh").read_text()
    for tool in ("ruff check", "mkdocs build --strict --quiet", "shellcheck setup.sh config.sh run.sh tests/run.sh"):
        assert tool in makefile and tool in script


def test_no_command_hides_in_an_indented_block() -> None:
    """A block that is no fence is seen by no test."""
    program = re.compile(r"^    (?:[A-Z_]+=\S+ )*(?:python [-\w]|bash \w|horovodrun|mpirun)", re.M)
    fenced = {block.text for page in PAGES for block in blocks_of(page)}
    for page in PAGES:
        text = page.read_text()
        for block in fenced:
            text = text.replace(block, "")
        assert not program.search(text), f"{page}: put {program.search(text)[0]!r} into a block of bash"

