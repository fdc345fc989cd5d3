"""``python -m partial_fc.plot RUN…``: draws the logs of runs as PNG files and one HTML page that needs nothing else."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from partial_fc.data.whole_file import write_whole
from partial_fc.plot.draw import draw_png
from partial_fc.plot.figures import make_figures
from partial_fc.plot.names import clean
from partial_fc.plot.page import make_page
from partial_fc.plot.runs import open_runs, parse_runs

logger = logging.getLogger("partial_fc")

PAGE = "index.html"
_OUTPUT = "plots"


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options; argparse ends the process on what it does not know."""
    parser = argparse.ArgumentParser(prog="python -m partial_fc.plot", description=__doc__)
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", help="a run's directory, or its log.jsonl; NAME=RUN names it in the figures")
    output = f"where the files go (default: {_OUTPUT}/ in the run's directory; of several runs, {_OUTPUT}/ here)"
    add("--output", metavar="DIR", type=Path, help=output)
    smooth = "draw loss, speed and times as means over so many updates (1: as logged)"
    add("--smooth", metavar="N", type=int, default=1, help=smooth)
    add("--title", metavar="TEXT", help="of the page (default: the run's name)")
    return parser.parse_args(arguments)


def plot(options: argparse.Namespace) -> list[Path]:
    """Draws what the command line says; returns the files, each of which appears complete or not at all.

    Raises:
        ValueError, OSError: what the user can mend.
    """
    if options.smooth < 1:
        raise ValueError(f"--smooth must be at least 1 update, but is {options.smooth}")
    names = parse_runs(options.runs)
    runs = open_runs(names)
    figures = make_figures(runs, options.smooth)
    if not figures:
        raise ValueError(f"no entry of {names[0].log} has a number that is drawn: is it a log of training?")
    output = options.output
    if output is None:
        output = names[0].log.parent / _OUTPUT if len(names) == 1 else Path(_OUTPUT)
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file: --output names the directory that the pictures go to")
    title = clean(options.title, 300) if options.title else runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    files = {f"{figure.name}.png": draw_png(figure) for figure in figures}
    files[PAGE] = make_page(runs, figures, title).encode()
    output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(output / name, content)
    return [output / name for name in files]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for what the user can mend."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    options = parse_options(arguments)
    try:
        files = plot(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    *pictures, page = files
    print(f"{page}, and {len(pictures)} PNG file{'s' * (len(pictures) != 1)} beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
