"""`python -m partial_fc.evaluate PREFIX,EPOCH --val lfw.bin`: what a model scores on verification sets.

Alone, or as the ranks of `horovodrun` or `mpirun`, which share out the images.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from partial_fc.collectives import Collectives
    from partial_fc.evaluation.verification import VerificationResult

logger = logging.getLogger("partial_fc")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options; argparse ends the process on what it does not know."""
    parser = argparse.ArgumentParser(prog="python -m partial_fc.evaluate", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("model", metavar="PREFIX,EPOCH", help="an MXNet checkpoint: PREFIX-symbol.json and its params")
    val = "a verification set in InsightFace's format; can be given several times"
    add("--val", metavar="FILE.bin", type=Path, action="append", required=True, help=val)
    add("--batch-size", metavar="IMAGES", type=int, default=64, help="images a rank embeds at once (64)")
    image_size = "side of the model's input (default: 112, or the first usual size that its parameters allow)"
    add("--image-size", metavar="PIXELS", type=int, help=image_size)
    add("--no-flip", action="store_true", help="embed the images alone, not their mirror images too")
    add("--folds", metavar="K", type=int, default=10, help="folds of the cross-validation (10)")
    exact = "search thresholds among all distances, not on InsightFace's grid of 0, 0.01, … 3.99"
    add("--exact-thresholds", action="store_true", help=exact)
    add("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates as the command line says; returns the exit status: 0, or 2 for what the user can mend."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    options = parse_options(arguments)
    _use_all_cores()
    from partial_fc.collectives import PeerLostError, RankError
    from partial_fc.horovod_collectives import connect

    collectives = connect()
    try:
        results = evaluate(options, collectives)
        report(results, options.json, collectives)
    except RankError as error:  # all ranks have it and leave in good order
        if collectives.rank == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        collectives.close()
        return 2
    except PeerLostError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        collectives.abort(3)
    except BaseException:  # this rank alone is in trouble, and the others must not wait for it for ever
        logger.exception("rank %d ends the run", collectives.rank)
        collectives.abort(1)
    collectives.close()
    return 0


def evaluate(options: argparse.Namespace, collectives: Collectives) -> dict[str, VerificationResult]:
    """The result of each set by its name, the same on every rank.

    Raises:
        RankError: on every rank, when a file, the model or a set is not what it should be on any of them.
    """
    from partial_fc.collectives import together
    from partial_fc.device import compute_context
    from partial_fc.evaluation.model import load_model
    from partial_fc.evaluation.verification import INSIGHTFACE_THRESHOLDS, verify_set
    from partial_fc.evaluation.verification_set import load_bin

    with together(collectives, "evaluate.load"):
        context = compute_context(collectives.local_rank)
        model = load_model(options.model, context, options.batch_size, options.image_size)
        sets = [load_bin(path) for path in options.val]
        names = [verification_set.name for verification_set in sets]
        if len(set(names)) < len(names):
            raise ValueError(f"each set must have a file name of its own, but they are {', '.join(names)}")
    return {
        verification_set.name: verify_set(
            verification_set,
            model.embed,
            image_size=model.image_size,
            batch_size=model.batch_size,
            collectives=collectives,
            flip=not options.no_flip,
            folds=options.folds,
            thresholds=None if options.exact_thresholds else INSIGHTFACE_THRESHOLDS,
        )
        for verification_set in sets
    }


def report(results: dict[str, VerificationResult], json_path: Path | None, collectives: Collectives) -> None:
    """Prints the table on rank 0, and writes the numbers to `json_path` if there is one.

    Raises:
        RankError: on every rank, when the file cannot be written.
    """
    from partial_fc.collectives import together

    with together(collectives, "evaluate.report"):
        if collectives.rank == 0:
            print(table(results), flush=True)
            if json_path is not None:
                numbers = {name: asdict(result) for name, result in results.items()}
                json_path.write_text(json.dumps(numbers, indent=2) + "\n")


def table(results: dict[str, VerificationResult]) -> str:
    """The results for a terminal, a set a line; rates in percent."""
    points = [point for result in results.values() for point in result.tar_at_far]
    fars = dict.fromkeys(point.target_far for point in points)
    rows = [["set", "pairs", "accuracy", "threshold", "XNorm", *(f"TAR@{far:.0e}" for far in fars)]]
    for name, result in results.items():
        accuracy = f"{100 * result.accuracy:.2f} ± {100 * result.accuracy_std:.2f}"
        rates = [f"{100 * point.tar:.2f}{' ' if point.is_resolved else '*'}" for point in result.tar_at_far]
        rows.append(
            [name, str(result.pairs), accuracy, f"{result.best_threshold:.2f}", f"{result.xnorm:.2f}", *rates]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if not all(point.is_resolved for point in points):
        lines.append("* without a single false accept: the set has too few pairs of two people for this rate")
    return "\n".join(lines)


def _use_all_cores() -> None:
    """Gives MXNet, before its import, this rank's part of the cores: it takes half of all unless told."""
    names = ("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
    ranks_here = next((int(os.environ[name]) for name in names if name in os.environ), 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks_here)))


if __name__ == "__main__":
    sys.exit(main())
