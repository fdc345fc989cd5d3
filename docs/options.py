"""Writes docs/options.md: every option of every command, as the commands' own parsers have them.

    python docs/options.py            writes the page
    python docs/options.py --check    status 1 where the page that is there is another

A new option of training must be put into one of GROUPS: the script says which one has no place.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

# What a default says of this machine, as of any.
os.sched_getaffinity = lambda _: {0, 1}

PAGE = ROOT / "docs" / "options.md"

INTRODUCTION = """\
# Options

Every option of every command, written by `python docs/options.py` from the programs themselves; `--help` says the same.

## Training

`bash run.sh`, `horovodrun … bash config.sh --`, `python -m partial_fc.train`. What is not given comes from the recipe
of `--dataset` in `default.py`. `run.sh` has one option of its own, `--restarts N`, and reads `NP`, `HOSTFILE`,
`NETWORK_INTERFACE` and `PYTHON`; `setup.sh` reads `MXNET`. `--no-…` switches off what a recipe switches on.
"""

GROUPS = {
    "What is trained": "--dataset --network --loss --head --embedding-size --image-size --seed",
    "Images": "--rec --data --shared-labels --val --augmentation --workers",
    "How long, how fast": "--max-update --epochs --stop-update --batch-size --accumulate --lr --schedule --lr-steps "
    "--lr-epochs --lr-final --lr-power --warmup-updates --warmup-epochs --nesterov --decay-everything --clip-norm",
    "The classification layer": "--sample-ratio --sample-ratio-steps --sampler --filter-cosine "
    "--lazy-updates --queue-size --storage --storage-directory --logits-chunk",
    "Precision": "--fp16 --fp16-gradients",
    "Checkpoints": "--models-root --save-every-updates --keep --save-memory-mib --resume --pretrained --freeze "
    "--centers --identities",
    "What is said and watched": "--log-every-updates --verify-every-updates --check-every-updates "
    "--max-skipped-updates --stall-timeout-seconds",
}

COMMANDS = {
    "Data": ("partial_fc.data", "pack unpack verify stats bin split merge subset relabel"),
    "Checkpoints": ("partial_fc.checkpoint", "inspect verify merge split export convert"),
    "Evaluation": ("partial_fc.evaluate", ""),
    "Export": ("partial_fc.export", ""),
    "Embeddings": ("partial_fc.embed", ""),
    "Pictures of a run": ("partial_fc.plot", ""),
    "Planning": ("partial_fc.plan", ""),
}


class _Found(BaseException):
    """A parser about to read its arguments."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parser_of(module: str, *verb: str) -> argparse.ArgumentParser:
    """The parser that a command's ``main`` makes."""

    def stop(parser, *_, **__):
        raise _Found(parser)

    is_package = importlib.util.find_spec(module).submodule_search_locations is not None
    main = importlib.import_module(f"{module}.__main__" if is_package else module).main
    names = ("parse_args", "parse_known_args", "parse_intermixed_args")
    with mock.patch.multiple("argparse.ArgumentParser", **dict.fromkeys(names, stop)):
        try:
            main([*verb, "placeholder"])
        except _Found as found:
            parser = found.parser
        else:
            raise AssertionError(f"{module} parses nothing")
    for action in parser._actions:  # behind a verb of a parser with verbs
        if isinstance(action, argparse._SubParsersAction) and verb:
            return action.choices[verb[0]]
    return parser


def help_of(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    text = re.sub(r"\s+", " ", text).replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
    return text.replace("(default: toy)", "(default: toy; r18 where there are GPUs)")


def row(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    names = [name for name in action.option_strings if not name.startswith("--no-") or len(action.option_strings) == 1]
    value = "" if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction) else action.metavar
    if value is None and action.choices:
        value = " or ".join(map(str, action.choices))
    if value is None and action.option_strings:
        value = action.dest.upper()
    value = {"+": f"{value} …", "*": f"[{value} …]"}.get(action.nargs, value) if value else value
    shown = " ".join(filter(None, [names[-1] if names else "", value or (None if names else action.dest)]))
    return f"| `{shown}` | {help_of(action, parser)} |"


def table(actions: list[argparse.Action], parser: argparse.ArgumentParser) -> str:
    return "\n".join(["| | |", "|---|---|", *(row(action, parser) for action in actions)])


def described(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    skipped = (argparse._HelpAction, argparse._SubParsersAction)
    return [action for action in parser._actions if not isinstance(action, skipped)]


def training() -> str:
    with mock.patch("partial_fc.train.default_network", lambda: "toy"):  # as where there is no GPU
        parser = parser_of("partial_fc.train")
    actions = {action.option_strings[0]: action for action in described(parser)}
    placed = " ".join(GROUPS.values()).split()
    missing = [name for name in actions if name not in placed]
    if missing:
        raise SystemExit(f"error: put {', '.join(missing)} into one of GROUPS of docs/options.py")
    parts = []
    for title, names in GROUPS.items():
        group = [actions[name] for name in names.split() if name in actions]
        parts.append(f"### {title}\n\n{table(group, parser)}")
    return "\n\n".join(parts)


def command(title: str, module: str, verbs: str) -> str:
    name = f"python -m {module}"
    parts = [f"## {title}"]
    if not verbs:
        parser = parser_of(module)
        parts += [f"`{name}`: {first_sentence(parser)}", table(described(parser), parser)]
    for verb in verbs.split():
        parser = parser_of(module, verb)
        parts += [f"### {title}: {verb}", f"`{name} {verb}`: {first_sentence(parser)}"]
        parts += [table(described(parser), parser)]
    return "\n\n".join(parts)


def first_sentence(parser: argparse.ArgumentParser) -> str:
    text = re.sub(r"^`[^`]*`(: | – )", "", " ".join((parser.description or "").split()))
    text = re.sub(r"^``?[^`]*``?: ", "", text)
    return re.split(r"(?<=[.;]) (?=[A-Z])", text)[0].rstrip(".") + "."


def page() -> str:
    """The page's text."""
    with mock.patch.dict(os.environ, {"COLUMNS": "10000"}):
        there = [(title, *found) for title, found in COMMANDS.items() if importlib.util.find_spec(found[0])]
        parts = [INTRODUCTION.rstrip(), training()] + [command(*found) for found in there]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str]) -> int:
    text = page()
    if arguments == ["--check"]:
        if PAGE.read_text() != text:
            print("error: docs/options.md is not what the commands say: run `python docs/options.py`", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
