"""`python -m partial_fc.embed MODEL SOURCE … OUT.npz`: the embedding of every image of a set, in one file.

Alone, or as the ranks of `horovodrun` or `mpirun`, which share out the images. Killed half-way, the same command goes
on where it was, on any number of ranks, and gives the same file.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from partial_fc.cores import use_all_cores
from partial_fc.evaluation.model_arguments import MODEL_HELP, add_model_arguments

_SOURCE_HELP = (
    "a folder of images (with a folder for each identity, or any other), a .rec, a directory with train.rec, a .lst, "
    "an LMDB directory (its key lists behind it, or keys.txt in it); several follow one another in one set"
)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options; argparse ends the process on what it does not know."""
    parser = argparse.ArgumentParser(
        prog="python -m partial_fc.embed", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL_HELP)
    add("source", metavar="SOURCE", nargs="+", type=Path, help=_SOURCE_HELP)
    out = "what to write: embeddings, labels, keys, failed, for numpy.load; its parts are beside it until it is whole"
    add("out", metavar="OUT.npz", type=Path, help=out)
    add("--flip", action="store_true", help="sum the embeddings of an image and of its mirror image")
    normalize = "write embeddings as the model gives them, not over their length"
    add("--no-normalize", dest="normalize", action="store_false", help=normalize)
    add("--batch-size", metavar="IMAGES", type=int, default=64, help="images a rank embeds at once (64)")
    workers = "threads of a rank that read and decode images (2)"
    add("--workers", metavar="N", type=int, default=2, help=workers)
    shared = "several sets number one list of identities (folders name it); else those of each are other people"
    add("--shared-labels", action="store_true", help=shared)
    strict = "end with an error where an image cannot be read; else its row is zero and `failed` names it"
    add("--strict", action="store_true", help=strict)
    add("--overwrite", action="store_true", help="replace OUT.npz, and parts of another result, where they are there")
    add_model_arguments(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Embeds as the command line says; returns the exit status: 0, or 2 for what the user can mend."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    options = parse_options(arguments)
    use_all_cores()
    from partial_fc.embed.embed_set import embed_set
    from partial_fc.rank_command import run_on_ranks

    return run_on_ranks(lambda collectives: embed_set(options, collectives))


if __name__ == "__main__":
    sys.exit(main())
