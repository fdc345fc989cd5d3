"""Random changes of training images: which there are, how often each is made and how strongly.

    mirror=P             left and right exchanged                                                     P = 0.5
    crop=P:A             a random part, its sides 1 − A to 1 of the image's, enlarged to its size     A = 0.2
    color=P:A            brightness, contrast and saturation, each times 1 − A to 1 + A               A = 0.3
    grey=P               no colours
    blur=P:A             Gaussian blur of up to A pixels standard deviation                           A = 1.5
    jpeg=P:Q             encoded once more, in a JPEG quality of Q to 95                              Q = 30
    erase=P:A            a rectangle of 2 % to a share A of the image filled with noise               A = 0.3

P is the probability, for each image and epoch anew; P = 0 makes none. `partial_fc.data.augment` makes the changes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

SMALLEST_ERASED, BEST_QUALITY = 0.02, 95

NONE = "none"


@dataclass(frozen=True)
class Augmentation:
    """Probabilities in [0, 1], and strengths as the module says.

    Raises:
        ValueError: a number outside its range.
    """

    mirror: float = 0.5
    crop: float = 0.0
    crop_strength: float = 0.2
    color: float = 0.0
    color_strength: float = 0.3
    grey: float = 0.0
    blur: float = 0.0
    blur_strength: float = 1.5
    jpeg: float = 0.0
    jpeg_strength: float = 30
    erase: float = 0.0
    erase_strength: float = 0.3

    def __post_init__(self) -> None:
        for name in NAMES:
            _require(name, "probability", getattr(self, name), 0, 1)
        for name, (lowest, highest) in _STRENGTHS.items():
            _require(name, "strength", getattr(self, f"{name}_strength"), lowest, highest)

    @classmethod
    def parse(cls, text: str) -> Augmentation:
        """Reads ``name=probability[:strength],…``; what is not named keeps its default. ``none``: no change at all.

        Raises:
            ValueError: an unknown name, one that is there twice, or a number that is none or out of its range.
        """
        if text.strip() == NONE:
            return cls(mirror=0.0)
        values: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, numbers = part.partition("=")
            probability, colon, strength = numbers.partition(":")
            if name not in NAMES:
                raise ValueError(f"an augmentation must be one of {', '.join(NAMES)}, or none, but is {name!r}")
            if name in values:
                raise ValueError(f"an augmentation must be named once, but {name} is there twice")
            if colon and name not in _STRENGTHS:
                raise ValueError(f"the augmentation {name} has no strength: give {name}=PROBABILITY, not {part!r}")
            values[name] = _number(probability, part)
            if colon:
                values[f"{name}_strength"] = _number(strength, part)
        return cls(**values)

    def __str__(self) -> str:
        """What `parse` reads: those that are ever made."""
        made = [name for name in NAMES if getattr(self, name) > 0]
        if "mirror" not in made:
            made.insert(0, "mirror")  # whose default is another
        return ",".join(map(self._part, made)) if made != ["mirror"] or self.mirror else NONE

    def _part(self, name: str) -> str:
        strength = f":{getattr(self, f'{name}_strength'):g}" if name in _STRENGTHS else ""
        return f"{name}={getattr(self, name):g}{strength}"


NAMES = tuple(field.name for field in fields(Augmentation) if not field.name.endswith("_strength"))
_STRENGTHS = {
    "crop": (0, 0.9),
    "color": (0, 1),
    "blur": (0.01, 100),
    "jpeg": (1, BEST_QUALITY),
    "erase": (SMALLEST_ERASED, 1),
}


def _number(text: str, part: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"an augmentation is name=probability or name=probability:strength, not {part!r}") from None


def _require(name: str, what: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"the {what} of the augmentation {name} must lie in [{lowest}, {highest}], but is {value:g}")
