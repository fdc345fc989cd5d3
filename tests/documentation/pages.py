"""README and guides, read: their blocks of code, the commands in these, their links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]

# A mark that the reader sees, the first line of a block: what its commands need beyond this machine.
MARK = re.compile(r"# needs (GPUs|several machines|\d+ GiB of memory|[^\n]*, from (?:its|their) owners)")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w+-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S)
_NOTE = re.compile(r"<!-- ((?:(?!-->).)*?) -->\s*$", re.S)
_PROGRAM = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:python|bash|horovodrun|mpirun|make) (?!\.)\S")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        note: the text of an HTML comment just before it.
    """

    page: Path
    line: int
    language: str
    text: str
    note: str

    @property
    def mark(self) -> str | None:
        """What its commands need, where it says so."""
        match = MARK.match(self.text)
        return match[1] if match else None

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}, line {self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a block, or of the text.

    Attributes:
        text: one line, its continuations joined, without a comment.
        variables: set before it.
        words: the command itself.
    """

    where: str
    text: str
    variables: dict[str, str]
    words: tuple[str, ...]

    @classmethod
    def parse(cls, where: str, text: str) -> Command:
        words = shlex.split(text, comments=True)
        variables = {}
        while words and re.match(r"[A-Z_]+=", words[0]):
            name, _, variables_value = words.pop(0).partition("=")
            variables[name] = variables_value
        return cls(where, text, variables, tuple(word for word in words if word != "…"))


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        indent = len(match["indent"])
        lines = "".join(line[indent:] if line.strip() else line for line in match["text"].splitlines(keepends=True))
        note = _NOTE.search(text[: match.start()])
        number = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, number, match["language"], lines, note[1] if note else ""))
    return found


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a block of bash, in order; lines behind a ``\\`` are one."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield Command.parse(str(block), re.sub(r" {2,}", " ", line.strip()))


def commands_in_text(page: Path) -> Iterator[Command]:
    """The commands that the text names between backticks."""
    text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())
    for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
        span = " ".join(match[1].split())
        if _PROGRAM.match(span):
            number = text.count("\n", 0, match.start()) + 1
            yield Command.parse(f"{page.relative_to(PROJECT)}, line {number}", span)


def links_of(page: Path) -> Iterator[tuple[int, str]]:
    """(line, target) of each link and picture."""
    text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())
    for match in re.finditer(r"\]\(([^)\s]+)\)", text):
        yield text.count("\n", 0, match.start()) + 1, match[1]


def anchors_of(page: Path) -> set[str]:
    """What a link can point to in a page, as GitHub names it."""
    text = _FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ +(.+?) *$", text, re.M)
    plain = [re.sub(r"`|\[|\]\([^)]*\)", "", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}
