"""How one image of a face is taken: pose, expression, surroundings, what is worn, light and camera.

The defaults are the neutral image: from the front, evenly lit, sharp, nothing in the way. Lengths are pixels
of a 112×112 image, angles radians, colours blue, green, red in [0, 255].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from partial_fc.data.faces.shapes import EXPRESSIONS, Colour

OCCLUDERS = ("patch", "hand", "strands")

_LIKE_A_CROP = 0.95
"""Scale that leaves some room around a head, as aligned face crops do."""


@dataclass(frozen=True)
class Pose:
    """How the head is turned (yaw to the right of the image, pitch down, roll clockwise) and placed."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = _LIKE_A_CROP
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Surroundings:
    """What is behind, on and before the face; None is absent.

    `background` is a small uint8 grid (n, n, 3) of colours, blended where n is odd. `occluder` is the name of
    one of `OCCLUDERS`, placed by `occluder_place`, eight numbers in [0, 1).
    """

    background: np.ndarray = field(default_factory=lambda: np.full((1, 1, 3), 128, np.uint8))
    shirt: Colour = (120.0, 110.0, 100.0)
    beard: bool = False
    hat: Colour | None = None
    mask: Colour | None = None
    glasses: Colour | None = None
    dark_glasses: bool = False
    occluder: str | None = None
    occluder_colour: Colour = (0.0, 0.0, 0.0)
    occluder_place: tuple[float, ...] = ()


@dataclass(frozen=True)
class Light:
    """A lamp, the air and the film.

    `direction` is a unit vector towards the lamp and `contrast` in [0, 1] its share of the light; `gain` is
    the exposure of blue, green, red; `saturation` 0 is black and white; `shadow_depth` in [0, 1] is how much
    light is missing on the far side of the line at `shadow_angle` and `shadow_offset` from the middle.
    """

    direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    contrast: float = 0.0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    saturation: float = 1.0
    shadow_depth: float = 0.0
    shadow_angle: float = 0.0
    shadow_offset: float = 0.0
    shadow_softness: float = 1.0


@dataclass(frozen=True)
class Camera:
    """`blur` and `noise` are deviations, in pixels and grey levels; `quality` in [0, 1] is the JPEG's."""

    blur: float = 0.0
    noise: float = 0.0
    noise_at: tuple[int, int] = (0, 0)
    quality: float = 1.0


@dataclass(frozen=True)
class Conditions:
    """All that makes one image of a face unlike the next. `expression_K` weighs `EXPRESSIONS`."""

    pose: Pose = Pose()
    expression_K: tuple[float, ...] = (0.0,) * len(EXPRESSIONS)
    surroundings: Surroundings = field(default_factory=Surroundings)
    light: Light = Light()
    camera: Camera = Camera()


NEUTRAL = Conditions()


def draw_conditions(rng: np.random.Generator) -> Conditions:
    """The conditions of one image, at random."""
    return Conditions(_pose(rng), _expression(rng), _surroundings(rng), _light(rng), _camera(rng))


def _pose(rng: np.random.Generator) -> Pose:
    return Pose(
        yaw=rng.uniform(-0.3, 0.3),
        pitch=rng.uniform(-0.17, 0.17),
        roll=rng.normal(0.0, 0.07),
        scale=_LIKE_A_CROP * float(np.clip(rng.normal(1.0, 0.05), 0.8, 1.2)),
        shift=(rng.normal(0.0, 3.5), rng.normal(0.0, 3.5)),
    )


def _expression(rng: np.random.Generator) -> tuple[float, ...]:
    return (
        rng.uniform(0.0, 0.6),
        max(0.0, rng.uniform(-0.5, 0.6)),
        rng.normal(0.0, 0.35),
        max(0.0, rng.normal(0.0, 0.4)),
        float(np.clip(rng.normal(0.0, 0.2), -0.15, 1.0)),
        rng.normal(0.0, 1.0),
        rng.normal(0.0, 0.6),
    )


def _surroundings(rng: np.random.Generator) -> Surroundings:
    grid = int(rng.integers(2, 7))
    kind = rng.random() / 0.05
    return Surroundings(
        background=rng.integers(10, 245, (grid, grid, 3), dtype=np.uint8),
        shirt=_colour(rng),
        beard=rng.random() < 0.04,
        hat=_perhaps(rng, 0.04),
        mask=_perhaps(rng, 0.03),
        glasses=_perhaps(rng, 0.07),
        dark_glasses=rng.random() < 0.25,
        occluder=OCCLUDERS[int(kind * len(OCCLUDERS))] if kind < 1.0 else None,
        occluder_colour=_colour(rng),
        occluder_place=tuple(rng.random(8)),
    )


def _light(rng: np.random.Generator) -> Light:
    angle, tilt = rng.uniform(0.0, 2.0 * math.pi), 0.9 * math.sqrt(rng.random())
    level = 0.95 * math.exp(rng.normal(0.0, 0.12))
    return Light(
        direction=(math.cos(angle) * tilt, math.sin(angle) * tilt, math.sqrt(1.0 - tilt * tilt)),
        contrast=rng.uniform(0.0, 0.35),
        gain=tuple(level * np.exp(rng.normal(0.0, 0.04, 3))),
        saturation=float(np.clip(rng.normal(0.93, 0.12), 0.0, 1.15)),
        shadow_depth=rng.uniform(0.0, 0.3) if rng.random() < 0.35 else 0.0,
        shadow_angle=rng.uniform(0.0, 2.0 * math.pi),
        shadow_offset=rng.normal(0.0, 20.0),
        shadow_softness=rng.uniform(3.0, 11.0),
    )


def _camera(rng: np.random.Generator) -> Camera:
    return Camera(
        blur=max(0.0, rng.normal(0.1, 0.2)),
        noise=abs(rng.normal(0.0, 2.5)),
        noise_at=(int(rng.integers(128)), int(rng.integers(128))),
        quality=rng.random(),
    )


def _colour(rng: np.random.Generator) -> Colour:
    return tuple(rng.uniform(20.0, 235.0, 3))


def _perhaps(rng: np.random.Generator, chance: float) -> Colour | None:
    colour = _colour(rng)
    return colour if rng.random() < chance else None
