"""Opens the models that the command line names, whatever their kind."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import mxnet as mx

from partial_fc.evaluation.find_model import checkpoint_in
from partial_fc.evaluation.model import CheckpointModel, checkpoint_files, load_model
from partial_fc.evaluation.onnx_model import OnnxModel, model_files
from partial_fc.evaluation.pixel_form import ModelOptions


@dataclass(frozen=True)
class ModelName:
    """A model as the command line names it, and what the report calls it.

    Attributes:
        text: `PREFIX,EPOCH`, `FILE.onnx`, or the directory of a run, of a checkpoint, or of one model's files.
    """

    name: str
    text: str

    @property
    def is_onnx(self) -> bool:
        return self.text.lower().endswith(".onnx")

    def checkpoint(self) -> str:
        """`PREFIX,EPOCH`, of an MXNet model. Raises as :func:`checkpoint_in` for a directory."""
        return checkpoint_in(Path(self.text)) if Path(self.text).is_dir() else self.text

    def files(self) -> list[Path]:
        """All its files. Raises ValueError or OSError where one is not there or not what it should be."""
        if not self.is_onnx:
            return list(checkpoint_files(self.checkpoint()))
        if not Path(self.text).is_file():
            raise FileNotFoundError(f"{self.text} is not there: give the path of an ONNX file")
        return model_files(Path(self.text))


def parse_models(texts: list[str]) -> list[ModelName]:
    """`[NAME=]MODEL` each, MODEL a text of :class:`ModelName`; NAME is the last parts of its path that tell them apart.

    Raises:
        ValueError: two models have one name.
    """
    parsed = []
    for text in texts:
        match = re.fullmatch(r"([^=/\\,]+)=(.+)", text)
        parsed.append((match[1], match[2]) if match else (None, text))
    for depth in range(1, 20):
        names = [name or _short_name(text, depth) for name, text in parsed]
        if len(set(names)) == len(names):
            return [ModelName(name, text) for name, (_, text) in zip(names, parsed, strict=True)]
    raise ValueError(f"each model must have a name of its own (NAME=MODEL), but they are {', '.join(names)}")


def open_model(
    model: ModelName, context: mx.Context, batch_size: int, options: ModelOptions
) -> CheckpointModel | OnnxModel:
    """The model, ready to embed.

    Raises:
        ValueError: it is not what it should be, or the batch size is below 1; OSError: a file cannot be read.
    """
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, but is {batch_size}")
    if model.is_onnx:
        model.files()
        return OnnxModel(Path(model.text), batch_size, options, context.device_id)
    return load_model(model.checkpoint(), context, batch_size, options)


def model_digest(model: ModelName, opened: CheckpointModel | OnnxModel, output: str | None) -> str:
    """SHA-256 of all that an embedding depends on besides the image: files, input size, form of the pixels."""
    digest = hashlib.sha256()
    for file in model.files():
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        digest.update(b"\0")
    form = opened.form
    digest.update(repr((model.is_onnx, opened.image_size, form.colour, form.mean, form.std, output)).encode())
    return digest.hexdigest()


def _short_name(text: str, depth: int) -> str:
    """`models/r50/model,0` is `model,0`, then `r50/model,0`."""
    return "/".join(Path(text).parts[-depth:])
