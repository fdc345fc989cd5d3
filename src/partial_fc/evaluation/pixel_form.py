"""The form in which a model takes its pixels: order of colours, and (pixel − mean) / std.

A model tells it in one of three ways: its graph normalises the pixels itself, so that they come as 0 to 255; it has
attributes that say so (`mean`, `std`, `colour`, `image_size`: metadata of an ONNX file, or `__mean__` and so on at the
input `data` of an MXNet symbol); or it tells nothing, and the user does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

COLOURS = ("rgb", "bgr")


@dataclass(frozen=True)
class PixelForm:
    """How pixels enter a model.

    Attributes:
        colour: "rgb" or "bgr".
        mean, std: one number, or one for each channel in the model's order; std is not 0.
        said_by: what told it, for people.

    Raises:
        ValueError: a value outside of these.
    """

    colour: str = "rgb"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    said_by: str = "the default"

    def __post_init__(self) -> None:
        if self.colour not in COLOURS:
            raise ValueError(f"the order of colours must be rgb or bgr, not {self.colour!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3) or not np.isfinite(values).all():
                raise ValueError(f"{name} must be one number or three, not {values}")
        if 0 in self.std:
            raise ValueError("std divides the pixels, and must not be 0")

    @property
    def changes_values(self) -> bool:
        return any(self.mean) or any(value != 1 for value in self.std)

    @property
    def is_plain(self) -> bool:
        """Whether pixels enter as they are: RGB, 0 to 255."""
        return self.colour == "rgb" and not self.changes_values

    def apply(self, images_BHWC: np.ndarray) -> np.ndarray:
        """The model's input (B, S, S, 3) float32 of uint8 RGB (B, S, S, 3)."""
        pixels = images_BHWC if self.colour == "rgb" else images_BHWC[..., ::-1]
        if not self.changes_values:
            return pixels.astype(np.float32)
        return (pixels.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)

    def __str__(self) -> str:
        values = "0 to 255"
        if self.changes_values:
            mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
            values = f"(pixel − {mean}) / {std}"
        return f"{self.colour.upper()} {values} ({self.said_by})"


@dataclass(frozen=True)
class ModelOptions:
    """What the user says of a model; None where the model is to say it itself.

    Raises:
        ValueError: the image size is below 1.
    """

    image_size: int | None = None
    colour: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"the image size must be at least 1 pixel, but is {self.image_size}")

    def over(self, form: PixelForm) -> PixelForm:
        """The form with what the user says in place of what the model does."""
        given = {name: getattr(self, name) for name in ("colour", "mean", "std")}
        given = {name: value for name, value in given.items() if value is not None}
        return replace(form, **given, said_by=f"{form.said_by}; {', '.join(given)} by option") if given else form


def form_from_attributes(attributes: Mapping[str, str]) -> PixelForm | None:
    """The form that a model's attributes tell, with or without underscores around their names; None if none does.

    Raises:
        ValueError: one of them is not what it should be.
    """
    plain = {name.strip("_").removeprefix("partial_fc."): value for name, value in attributes.items()}
    colour = plain.get("colour", plain.get("color"))
    if not {"mean", "std"} & set(plain) and colour is None:
        return None
    return PixelForm(
        colour=(colour or "rgb").lower(),
        mean=parse_numbers(plain.get("mean", "0")),
        std=parse_numbers(plain.get("std", "1")),
        said_by="the model's attributes",
    )


def size_from_attributes(attributes: Mapping[str, str]) -> int | None:
    """S where an attribute `image_size` tells it."""
    plain = {name.strip("_").removeprefix("partial_fc."): value for name, value in attributes.items()}
    text = plain.get("image_size", "")
    return int(text) if text.isdecimal() else None


def parse_numbers(text: str) -> tuple[float, ...]:
    """`127.5` or `123.7,116.3,103.5`. Raises ValueError for anything else."""
    try:
        return tuple(float(word) for word in text.strip("[]() ").split(","))
    except ValueError:
        raise ValueError(f"there must be one number or three apart by commas, not {text!r}") from None


def check_embeddings_shape(shape: Sequence[int], batch: int, what: str) -> int:
    """D of an output (N, D). Raises ValueError for another shape."""
    if len(shape) != 2 or shape[0] != batch or shape[1] < 1:
        raise ValueError(f"{what} must be (N, D), but for N = {batch} it is {tuple(shape)}")
    return int(shape[1])
