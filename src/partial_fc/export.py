"""`python -m partial_fc.export PREFIX,EPOCH OUT.onnx`: a trained network as an ONNX file, compared with MXNet at once.

In Python:

    from partial_fc.export import export_model

    export_model("models/r50/model,0", "r50.onnx", fold_batch_norm=True)
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from partial_fc.cores import use_all_cores
from partial_fc.data.whole_file import whole_file
from partial_fc.evaluation.model_arguments import add_model_arguments, model_options

if TYPE_CHECKING:
    import onnx

    from partial_fc.evaluation.model import CheckpointModel
    from partial_fc.evaluation.pixel_form import ModelOptions

LARGEST_DIFFERENCE = {"float32": 1e-4, "float16": 1e-2}
"""Of any number of a unit embedding from MXNet's, which is what the check allows."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the file.
        bytes: its size.
        image_size, embedding_size: S and D.
        precision: "float32" or "float16".
        folded, batch_norms: how many BatchNorms were folded, of how many the network has.
        difference: the largest difference of unit embeddings; None without the check.
        rounded_difference: in float16, the same with every value rounded as a GPU stores it.
    """

    path: Path
    bytes: int
    image_size: int
    embedding_size: int
    precision: str
    folded: int
    batch_norms: int
    difference: float | None
    rounded_difference: float | None

    def __str__(self) -> str:
        lines = []
        side, limit = self.image_size, LARGEST_DIFFERENCE[self.precision]
        if self.folded:
            lines.append(f"{self.folded} of {self.batch_norms} BatchNorms folded")
        if self.difference is not None:
            compared = f"largest difference of unit embeddings from MXNet's: {self.difference:.1e}"
            if self.rounded_difference is not None:
                compared += f", with every value rounded to float16 {self.rounded_difference:.1e}"
            lines.append(f"{compared} (at most {limit:.0e})")
        what = f"{self.precision}, {self.embedding_size} numbers of {side}×{side} RGB, 0 to 255"
        return "\n".join([*lines, f"wrote {self.path}: {what}, {self.bytes / 2**20:.1f} MiB"])


def export_model(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    fold_batch_norm: bool = False,
    fp16: bool = False,
    check: bool = True,
    options: ModelOptions | None = None,
) -> Exported:
    """Writes the network of an MXNet checkpoint as an ONNX file.

        fc1 (N, D) = network((data − mean) / std),  data (N, 3, S, S) float32, RGB, 0 to 255

    N is free. The embedding is not normalised. The file's metadata are `mean` 0, `std` 1, `colour` rgb, `image_size` S,
    `embedding_size` D and `precision`. It appears whole or not at all; one that has its name is replaced.

    Args:
        model: ``PREFIX,EPOCH``, or the directory of a run or a checkpoint, as `partial_fc.evaluate` takes them, with
            the same rules for what it does not say.
        output: a path that ends in ``.onnx``.
        fold_batch_norm: joins BatchNorms with the convolutions and dense layers beside them where that is exact.
        fp16: float16 weights and arithmetic; the input and the embedding stay float32.
        check: embeds three drawn images with MXNet and with onnxruntime, at two batch sizes, and refuses a file
            whose unit embeddings differ by more than `LARGEST_DIFFERENCE` in any number.
        options: what the checkpoint does not say of its pixels, its size and its output.

    Raises:
        ValueError: the checkpoint is not what it should be, has operators that ONNX lacks, or fails the check.
        OSError: a file is not there or cannot be written.
    """
    import mxnet as mx

    from partial_fc.evaluation.model import CheckpointModel, read_checkpoint
    from partial_fc.evaluation.open_model import ModelName
    from partial_fc.evaluation.pixel_form import ModelOptions
    from partial_fc.onnx_file.compare import FACES
    from partial_fc.onnx_file.make import make_graph, make_model

    path = _output_path(output)
    name = ModelName("", os.fspath(model))
    if name.is_onnx:
        raise ValueError(f"{model} is an ONNX file already: what is exported is an MXNet checkpoint, PREFIX,EPOCH")
    checkpoint = read_checkpoint(name.checkpoint(), options or ModelOptions())
    side, precision = checkpoint.image_size, "float16" if fp16 else "float32"
    try:
        reference = CheckpointModel(
            checkpoint.symbol, checkpoint.parameters, mx.cpu(), batch_size=FACES, image_size=side, form=checkpoint.form
        )
        size = reference.embedding_size
        made = make_model(make_graph(checkpoint, size), fold_batch_norm=fold_batch_norm, fp16=fp16)
    except ValueError as error:
        raise ValueError(f"the model {model}: {error}") from error
    difference = rounded = None
    try:
        with whole_file(path) as file:
            written = file.write(made.model.SerializeToString())
            file.flush()
            if check:
                difference, rounded = _compare(reference, made.model, Path(file.name), precision, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    return Exported(path, written, side, size, precision, made.folded, made.batch_norms, difference, rounded)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options; argparse ends the process on what it does not know."""
    parser = argparse.ArgumentParser(prog="python -m partial_fc.export", description=__doc__.splitlines()[0])
    add = parser.add_argument
    model = "an MXNet checkpoint, or the directory of a run (its newest model) or of one of its checkpoints (update-…)"
    add("model", metavar="PREFIX,EPOCH", help=model)
    add("file", metavar="OUT.onnx", help="the file to write, or to replace")
    fold = "join BatchNorms with the convolutions and dense layers beside them, where that is exact"
    add("--fold-batch-norm", action="store_true", help=fold)
    add("--fp16", action="store_true", help="float16 weights and arithmetic; input and embedding stay float32")
    check = "compare with MXNet before the file gets its name (default)"
    add("--check", action=argparse.BooleanOptionalAction, default=True, help=check)
    add_model_arguments(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports as the command line says; returns the exit status: 0, or 2 for what the user can mend."""
    options = parse_options(arguments)
    use_all_cores()
    try:
        exported = export_model(
            options.model,
            options.file,
            fold_batch_norm=options.fold_batch_norm,
            fp16=options.fp16,
            check=options.check,
            options=model_options(options),
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(exported)
    return 0


def _output_path(output: str | os.PathLike[str]) -> Path:
    """The path of the file to write, before anything is computed for it."""
    path = Path(output)
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"an ONNX file is written to a name that ends in .onnx, not to {str(path)!r}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: give the name of a file to write")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}, where {path.name} is to be written, is no directory")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent}, where {path.name} is to be written, does not let you write")
    return path


def _compare(
    reference: CheckpointModel, made: onnx.ModelProto, file: Path, precision: str, path: Path
) -> tuple[float, float | None]:
    """The difference of the file from MXNet, and in float16 of its rounded twin. Raises ValueError past the limit."""
    from partial_fc.onnx_file.compare import check_images, file_difference, model_difference, unit_embeddings
    from partial_fc.onnx_file.half import rounded_twin

    images_BHWC = check_images(reference.image_size)
    expected_BD = unit_embeddings(reference, images_BHWC, "the MXNet network")
    found = [file_difference(file, images_BHWC, expected_BD)]
    if precision == "float16":
        found.append(model_difference(rounded_twin(made), images_BHWC, expected_BD, "float16 arithmetic"))
    if not max(found) <= LARGEST_DIFFERENCE[precision]:
        raise ValueError(
            f"{path} is not written: its unit embeddings differ from MXNet's by {max(found):.1e}, and at most "
            f"{LARGEST_DIFFERENCE[precision]:.0e} is allowed in {precision} (--no-check writes it all the same)"
        )
    return found[0], found[1] if len(found) > 1 else None


if __name__ == "__main__":
    sys.exit(main())
