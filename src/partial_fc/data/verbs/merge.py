"""`merge SRC SRC … DST`: several sets to one .rec or LMDB."""

from __future__ import annotations

import argparse

from partial_fc.data.open_source import name_sets
from partial_fc.data.verbs import pack

HELP = "several sets to one: labels follow on one another, or number one list"


def add_options(parser: argparse.ArgumentParser) -> None:
    pack.add_options(parser)


def run(options: argparse.Namespace) -> int:
    if len(name_sets(options.src)) < 2:
        raise ValueError(f"merge takes two sets or more, got {options.src[0]} alone: the verb pack copies one")
    return pack.run(options, "merge")
