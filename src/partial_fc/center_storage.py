"""How class centers are kept: where, and as which numbers.

    tier      device   beside the computing (a GPU's memory, or a CPU's)
              host     in the machine's memory, rows travelling to the device and back
              file     in memory-mapped files, the machine's memory being their cache
    weight    float32 | float16              mathematics in float32, stochastic rounding on the way back
    momentum  float32 | float16 | int8       int8 with one float32 scale a row
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TIERS = ("device", "host", "file")
WEIGHT_TYPES = ("float32", "float16")
MOMENTUM_TYPES = ("float32", "float16", "int8")

_BYTES = {"float32": 4, "float16": 2, "int8": 1}


@dataclass(frozen=True)
class Storage:
    """How the class centers are kept.

    Attributes:
        tier, weight, momentum: see the module.
        directory: of the files, for the tier ``file``.

    Raises:
        ValueError: an unknown name, or a file tier without a directory.
    """

    tier: str = "device"
    weight: str = "float32"
    momentum: str = "float32"
    directory: Path | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("tier of the class centers", self.tier, TIERS),
            ("type of the class centers", self.weight, WEIGHT_TYPES),
            ("type of the centers' momentum", self.momentum, MOMENTUM_TYPES),
        ):
            if value not in known:
                raise ValueError(f"the {what} must be one of {', '.join(known)}, but is {value!r}")
        if self.tier == "file" and self.directory is None:
            raise ValueError("class centers in files need a directory to keep them in: set --storage-directory")

    @classmethod
    def parse(cls, text: str, directory: Path | None = None) -> Storage:
        """Reads ``[tier:]weight[/momentum]``, such as ``float16/int8`` or ``file:float16``.

        A weight without a momentum means float32 momentum.
        """
        tier, colon, types = text.rpartition(":")
        weight, _, momentum = types.partition("/")
        return cls(tier if colon else "device", weight, momentum or "float32", directory)

    def __str__(self) -> str:
        return f"{self.tier}:{self.weight}/{self.momentum}"

    def bytes_per_row(self, embedding_size: int) -> int:
        """Bytes of one class: its row, its momentum, their scale and the inverse norm."""
        scale = 4 if self.momentum == "int8" else 0
        return embedding_size * (_BYTES[self.weight] + _BYTES[self.momentum]) + scale + 4
