"""What the verb `verify` finds in a set, check by check."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

_SHOWN = 5


@dataclass
class Check:
    """One check of a set: what was looked at, the faults, and what is worth knowing though it is none."""

    name: str
    summary: str
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.faults

    def lines(self) -> list[str]:
        """For a terminal: the summary, then the first faults and remarks."""
        lines = [f"  {'ok   ' if self.is_sound else 'FAULT'}  {self.name:<11} {self.summary}"]
        for kind in (self.faults, self.remarks):
            lines += [f"{'':21}{line}" for line in kind[:_SHOWN]]
            if len(kind) > _SHOWN:
                lines.append(f"{'':21}… and {len(kind) - _SHOWN} more")
        return lines

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
