"""Unpacks record files (Glint360K's, or any in InsightFace's layout) to folders of images, one an identity.

    python unpack_glint360k.py --include datasets/glint360k --output faces

Several data sets, separated by commas, keep their identities apart. A run that was interrupted goes on where it
stopped when it is started again.
"""

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent / part) for part in ("", "src")]

from partial_fc.data.verbs.common import add_workers, sentence  # noqa: E402
from partial_fc.data.verbs.unpack import unpack_sets  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Unpacks what the command line names; returns the exit status: 0, or 2 for what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--include", required=True, metavar="A,B", help="data sets: directories with train.rec, or .rec files"
    )
    parser.add_argument("--output", required=True, metavar="DIR", type=Path, help="where the folders are made")
    add_workers(parser)
    given = parser.parse_args(arguments)
    sets = [Path(part) for part in given.include.split(",") if part]
    try:
        unpack_sets(sets, given.output, given.workers)
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
