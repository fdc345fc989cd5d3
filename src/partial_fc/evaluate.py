"""`python -m partial_fc.evaluate MODEL … --targets lfw=lfw.bin …`: what models score on benchmarks.

Alone, or as the ranks of `horovodrun` or `mpirun`, which share out the images.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from partial_fc.cores import use_all_cores
from partial_fc.evaluation.model_arguments import MODEL_HELP, add_model_arguments, model_options

if TYPE_CHECKING:
    from partial_fc.collectives import Collectives
    from partial_fc.evaluation.embedder import Embedder
    from partial_fc.evaluation.open_model import ModelName
    from partial_fc.evaluation.published import Published
    from partial_fc.evaluation.report import Evaluated
    from partial_fc.evaluation.targets import Settings, Target, TargetResult

logger = logging.getLogger("partial_fc")

_EPILOG = """A target is [NAME:]KIND=PATH[,OPTION=VALUE …]: lfw=lfw.bin, cfp_fp=cfp/Protocol,images=cfp/aligned,
old:lfw=pairs.txt,images=lfw. `--targets help` lists the kinds and their options."""


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options; argparse ends the process on what it does not know."""
    parser = argparse.ArgumentParser(
        prog="python -m partial_fc.evaluate", description=__doc__.splitlines()[0], epilog=_EPILOG
    )
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="*", help=f"{MODEL_HELP}; NAME=MODEL names it in the report")
    add("--targets", metavar="KIND=PATH", nargs="+", action="extend", default=[], help="benchmarks, see below")
    val = "a verification set in InsightFace's format, as `--targets NAME:pairs=NAME.bin`; can be given several times"
    add("--val", metavar="FILE.bin", type=Path, action="append", default=[], help=val)
    add("--batch-size", metavar="IMAGES", type=int, default=64, help="images a rank embeds at once (64)")
    add_model_arguments(parser)
    add("--no-flip", action="store_true", help="embed the images alone, not their mirror images too")
    add("--folds", metavar="K", type=int, help="contiguous folds of the cross-validation (the list's own, or 10)")
    exact = "search thresholds among all distances, not on InsightFace's grid of 0, 0.01, … 3.99"
    add("--exact-thresholds", action="store_true", help=exact)
    add("--compare", choices=("paper",), help="set published numbers beside those measured")
    add("--report", metavar="DIRECTORY", type=Path, help="write JSON, CSV, Markdown and pictures there")
    add("--json", metavar="FILE", type=Path, help="write the numbers there, too")
    cache = "where embeddings are kept by content of model and images (~/.cache/partial_fc/embeddings)"
    add("--cache-directory", metavar="DIRECTORY", type=Path, help=cache)
    add("--no-cache", action="store_true", help="neither read nor keep embeddings")
    options = parser.parse_args(arguments)
    if not options.targets and not options.val:
        parser.error("name what to evaluate on: --targets KIND=PATH")
    if not options.models and options.targets != ["help"]:
        parser.error("name a model: PREFIX,EPOCH, a run's directory or FILE.onnx, before --targets")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates as the command line says; returns the exit status: 0, or 2 for what the user can mend."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    options = parse_options(arguments)
    use_all_cores()
    from partial_fc.rank_command import run_on_ranks

    def work(collectives: Collectives) -> int:
        if options.targets == ["help"]:
            if collectives.rank == 0:
                print(describe_targets())
        else:
            evaluated, published = evaluate(options, collectives)
            report(evaluated, published, options, collectives)
        return 0

    return run_on_ranks(work)


def evaluate(
    options: argparse.Namespace, collectives: Collectives
) -> tuple[list[Evaluated], list[Published]]:
    """What each model scores on each target, the same on every rank; and the published rows to compare with.

    Everything is opened and checked before the first image is embedded.

    Raises:
        RankError: on every rank, when a file, a model or a target is not what it should be on any of them.
    """
    from partial_fc.collectives import together
    from partial_fc.evaluation.open_model import parse_models
    from partial_fc.evaluation.published import rows_for
    from partial_fc.evaluation.report import Evaluated

    with together(collectives, "evaluate.open"):
        if options.json is not None and not options.json.parent.is_dir():
            raise FileNotFoundError(f"{options.json.parent}, where --json is to be written, is no directory")
        settings = _settings(options)
        models = parse_models(options.models)
        for model in models:
            model.files()
        targets = _open_targets(options)
    evaluated = []
    for model in models:
        embedder, about = _open_embedder(model, options, collectives)
        results = tuple(_evaluate_target(target, embedder, settings) for target in targets)
        evaluated.append(Evaluated(model.name, results, about))
    kinds = {result.kind for result in evaluated[0].results}
    return evaluated, rows_for(kinds) if options.compare else []


def report(
    evaluated: list[Evaluated], published: list[Published], options: argparse.Namespace, collectives: Collectives
) -> None:
    """Prints the table on rank 0, and writes the files that were asked for.

    Raises:
        RankError: on every rank, when a file cannot be written.
    """
    from partial_fc.collectives import together
    from partial_fc.evaluation.report import json_report, text_report
    from partial_fc.evaluation.report_files import write_report, write_whole

    with together(collectives, "evaluate.report"):
        if collectives.rank == 0:
            print(text_report(evaluated, published), flush=True)
            if options.json is not None:
                numbers = json.dumps(json_report(evaluated, published), indent=2, allow_nan=False)
                write_whole(options.json, f"{numbers}\n".encode())
            if options.report is not None:
                files = write_report(options.report, evaluated, published)
                logger.info("%d files of the report are in %s", len(files), options.report)


def describe_targets() -> str:
    """The kinds of targets, their paths and options."""
    from partial_fc.evaluation.registry import KINDS

    lines = []
    for name, kind in KINDS.items():
        lines.append(f"{name}=PATH  {kind.help}")
        lines += [f"    {option}=  {meaning}" for option, meaning in kind.options.items()]
    return "\n".join(lines)


def _settings(options: argparse.Namespace) -> Settings:
    from partial_fc.evaluation.targets import Settings

    folds = 10 if options.folds is None else options.folds
    return Settings(
        flip=not options.no_flip,
        folds=folds,
        keeps_folds=options.folds is None,
        exact_thresholds=options.exact_thresholds,
    )


def _open_targets(options: argparse.Namespace) -> list[Target]:
    from partial_fc.evaluation.registry import KINDS
    from partial_fc.evaluation.targets import TargetSpec, parse_target

    specs = [parse_target(text, KINDS) for text in options.targets]
    specs += [TargetSpec(path.stem, "pairs", path) for path in options.val]
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise ValueError(f"each target must have a name of its own (NAME:KIND=PATH), but they are {', '.join(names)}")
    return [KINDS[spec.kind].open(spec) for spec in specs]


def _open_embedder(
    model: ModelName, options: argparse.Namespace, collectives: Collectives
) -> tuple[Embedder, dict[str, object]]:
    """The model on all ranks, and what it is. Raises RankError where it is not what it should be."""
    from partial_fc.collectives import together
    from partial_fc.device import compute_context
    from partial_fc.evaluation.embedder import Embedder
    from partial_fc.evaluation.embedding_cache import EmbeddingCache, default_directory
    from partial_fc.evaluation.open_model import model_digest, open_model

    with together(collectives, "evaluate.model"):
        context = compute_context(collectives.local_rank)
        opened = open_model(model, context, options.batch_size, model_options(options))
        digest = model_digest(model, opened, options.output)
    cache = None if options.no_cache else EmbeddingCache(options.cache_directory or default_directory())
    if collectives.rank == 0:
        side = opened.image_size
        logger.info("%s: %d numbers of %d×%d %s", model.name, opened.embedding_size, side, side, opened.form)
    about = {
        "file": model.text,
        "embedding_size": opened.embedding_size,
        "image_size": opened.image_size,
        "pixels": str(opened.form),
        "sha256": digest,
    }
    return Embedder(model.name, opened, collectives, cache, digest), about


def _evaluate_target(target: Target, embedder: Embedder, settings: Settings) -> TargetResult:
    """The target's result, whose numbers are numbers. Raises RankError where they are not."""
    from partial_fc.collectives import together

    if embedder.collectives.rank == 0:
        logger.info("%s on %s", embedder.name, target.name)
    result = target.evaluate(embedder, settings)
    with together(embedder.collectives, f"evaluate.{target.name}"):
        broken = [metric.name for metric in result.metrics if not math.isfinite(metric.value)]
        if broken:
            raise ValueError(f"{target.name}: {', '.join(broken)} came out as no finite number")
    return result


if __name__ == "__main__":
    sys.exit(main())
