"""`python -m partial_fc.data VERB`: sets of face images packed, unpacked, checked, described, cut and joined."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from types import ModuleType

from partial_fc.data.verbs import bin as bin_verb
from partial_fc.data.verbs import merge, pack, relabel, split, stats, subset, unpack, verify
from partial_fc.data.verbs.common import sentence

VERBS: dict[str, ModuleType] = {
    "pack": pack,
    "unpack": unpack,
    "verify": verify,
    "stats": stats,
    "bin": bin_verb,
    "split": split,
    "merge": merge,
    "subset": subset,
    "relabel": relabel,
}
_PROGRAM = "python -m partial_fc.data"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit status: 0, 1 where `verify` finds a fault, 2 for what the user can mend."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0 if given else 2
    name = given[0]
    if name not in VERBS:
        print(f"error: unknown verb {name}: the verbs are {', '.join(VERBS)}", file=sys.stderr)
        return 2
    verb = VERBS[name]
    parser = argparse.ArgumentParser(prog=f"{_PROGRAM} {name}", description=verb.__doc__, allow_abbrev=False)
    verb.add_options(parser)
    try:
        return verb.run(parser.parse_intermixed_args(given[1:]))
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2


def usage() -> str:
    lines = [f"usage: {_PROGRAM} VERB …", "", __doc__.split(": ", 1)[1].strip(), ""]
    width = max(map(len, VERBS))
    lines += [f"  {name:<{width}}  {verb.HELP}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", f"{_PROGRAM} VERB --help says what a verb takes."])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped: nothing unfinished was left under a final name", file=sys.stderr)
        sys.exit(130)
