"""Options of commands that say of a model what it does not say itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands read their options before they import what takes long
    from partial_fc.evaluation.pixel_form import ModelOptions

MODEL_HELP = (
    "PREFIX,EPOCH of an MXNet checkpoint, the directory of a run or of one of its checkpoints (update-…), or FILE.onnx"
)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--image-size`, `--colour`, `--mean`, `--std` and `--output`."""
    add = parser.add_argument
    image_size = "side of the model's input (default: what the model says, 112, or the first size that fits)"
    add("--image-size", metavar="PIXELS", type=int, help=image_size)
    add("--colour", choices=("rgb", "bgr"), help="order of colours, where the model does not say it (rgb)")
    add("--mean", metavar="M[,M,M]", help="what is taken off the pixels, where the model does not say it")
    add("--std", metavar="S[,S,S]", help="what the pixels are divided by then")
    add("--output", metavar="NAME", help="the embedding among the model's outputs (fc1_output, or its only one)")


def model_options(options: argparse.Namespace) -> ModelOptions:
    """What the options say. Raises ValueError for `--mean` or `--std` that are no numbers."""
    from partial_fc.evaluation.pixel_form import ModelOptions, parse_numbers

    return ModelOptions(
        image_size=options.image_size,
        colour=options.colour,
        mean=None if options.mean is None else parse_numbers(options.mean),
        std=None if options.std is None else parse_numbers(options.std),
        output=options.output,
    )
