"""``python -m partial_fc.checkpoint``: looks at checkpoints, checks them, and brings them into other forms."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from partial_fc.checkpoint import tools
from partial_fc.checkpoint.convert import convert
from partial_fc.checkpoint.reader import SavedCheckpoint


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; argparse ends the process on what it does not know."""
    parser = argparse.ArgumentParser(prog="python -m partial_fc.checkpoint", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        what = "the original project's directory" if name == "convert" else "a checkpoint's directory"
        command.add_argument("directory", metavar="DIR", type=Path, help=what)
        return command

    add("inspect", "says what a checkpoint holds")
    add("verify", "reads all files and compares them with their checksums")
    merge = add("merge", "writes all class centers into one .params file, the array `weight` (C, D) in float32")
    merge.add_argument("output", metavar="FILE", type=Path)
    merge.add_argument("--momentum", action="store_true", help="their momentum too")
    split = add("split", "writes the checkpoint as one of another number of ranks (resuming does not need that)")
    split.add_argument("output", metavar="NEW_DIR", type=Path)
    split.add_argument("--ranks", metavar="R", type=int, required=True)
    export = add("export", "copies the backbone alone: PREFIX-symbol.json and its parameters")
    export.add_argument("prefix", metavar="PREFIX")
    export.add_argument("--epoch", metavar="N", type=int, default=0, help="the number in PREFIX-000N.params (0)")
    convert = add("convert", "makes a checkpoint of the original's {rank}_centers.param and {rank}_centers_mom.param")
    convert.add_argument("output", metavar="NEW_DIR", type=Path)
    convert.add_argument("--num-classes", metavar="C", type=int, required=True, help="identities it was trained with")
    convert.add_argument("--model", metavar="PREFIX,EPOCH", help="its backbone")
    convert.add_argument("--update", metavar="N", type=int, default=0, help="the update they are of (0)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> str:
    """Does what the command line says; returns what to tell.

    Raises:
        ValueError, OSError: what the user can mend.
    """
    for name in ("ranks", "num_classes"):
        if getattr(options, name, 1) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, but is {getattr(options, name)}")
    for name in ("update", "epoch"):
        if getattr(options, name, 0) < 0:
            raise ValueError(f"--{name} must not be negative, but is {getattr(options, name)}")
    if options.command == "convert":
        made = convert(
            options.directory, options.output, classes=options.num_classes, update=options.update, model=options.model
        )
        return f"wrote {made}: fine-tune with --centers {made}"
    checkpoint = SavedCheckpoint(options.directory)
    if options.command == "inspect":
        return tools.describe(checkpoint)
    checkpoint.verify()
    if options.command == "merge":
        classes = tools.merge(checkpoint, options.output, options.momentum)
        return f"wrote {classes} class centers to {options.output}"
    if options.command == "split":
        return f"wrote {tools.split(checkpoint, options.output, options.ranks)} of {options.ranks} ranks"
    if options.command == "export":
        return "wrote " + " and ".join(map(str, tools.export(checkpoint, options.prefix, options.epoch)))
    missing = checkpoint.missing()
    elsewhere = f"; {len(missing)} more are on other machines: {', '.join(missing[:5])}" if missing else ""
    return f"{options.directory} is whole: {len(checkpoint.manifest.all_files) - len(missing)} files{elsewhere}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for what the user can mend."""
    options = parse(arguments)
    try:
        print(run(options))
    except (ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
