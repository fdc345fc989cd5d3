"""Colours of figures and page: each has a value for a light page and one for a dark one.

A picture is drawn in the light ones. In the SVG of a page every one of them becomes its CSS variable, so that one
drawing serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

# Each has a contrast of 3:1 and more to the figure's ground, and those beside each other differ in lightness or hue
# for the colour-blind as well.
LINES = (
    ("#2563eb", "#74a4ff"),
    ("#d4500c", "#ff9a62"),
    ("#0e8a63", "#46cf9f"),
    ("#9b34c9", "#d493f5"),
    ("#a16c00", "#e6bb55"),
    ("#d6266a", "#ff86b1"),
    ("#087f98", "#52cbe4"),
    ("#5b6472", "#aab3c0"),
)
DASHES = ((), (6.0, 2.5), (1.5, 1.8), (6.0, 2.0, 1.5, 2.0))
"""Of the lines that come after as many as there are colours; lengths in line widths."""

TEXT = ("#333c4a", "#cbd3de")
GRID = ("#e6e9ee", "#2b323d")
AXIS = ("#aeb6c2", "#56606f")
ALARM = ("#c4141c", "#ff6b6b")
GROUND = ("#ffffff", "#171c23")
"""What figures are drawn on."""


@dataclass(frozen=True)
class Style:
    """Of the line with this number, from 0: its colour for a light page, and its dashes."""

    number: int

    @property
    def colour(self) -> str:
        return LINES[self.number % len(LINES)][0]

    @property
    def variable(self) -> str:
        """Of CSS, for the colour."""
        return f"--line-{self.number % len(LINES)}"

    @property
    def dashes(self) -> tuple[float, ...]:
        return DASHES[self.number // len(LINES) % len(DASHES)]


def variables() -> dict[str, tuple[str, str]]:
    """CSS variable → (light, dark)."""
    named = {"--text": TEXT, "--grid": GRID, "--axis": AXIS, "--alarm": ALARM, "--ground": GROUND}
    return named | {f"--line-{number}": pair for number, pair in enumerate(LINES)}
