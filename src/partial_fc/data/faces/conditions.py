"""How one image of a face is taken: pose, expression, light, camera, what is worn and what is in front."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Conditions:
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    expression_K: tuple[float, ...] = (0.0,) * 7
    background: np.ndarray = field(default_factory=lambda: np.full((1, 1, 3), 128, np.uint8))
    shirt: Colour = (120.0, 110.0, 100.0)
    beard: bool = False
    glasses: str = ""
    mask: Colour | None = None
    hat: Colour | None = None
    occluders: tuple = ()
    light: tuple[float, float, float] = (0.0, 0.0, 1.0)
    contrast: float = 0.0
    exposure: Colour = (1.0, 1.0, 1.0)
    shadow: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 0.0)
    saturation: float = 1.0
    haze: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    noise_at: tuple[int, int] = (0, 0)
    quality: float = 1.0


def random_colour(rng) -> Colour:
    return tuple(rng.uniform(20, 235, 3).tolist())


import os, json
K = dict(pose=1.0, shift=1.0, scale=1.0, expr=1.0, light=1.0, colour=1.0, cam=1.0, occ=1.0, wear=1.0)
K.update(json.loads(os.environ.get("K", "{}")))


def draw_conditions(rng: np.random.Generator) -> Conditions:
    u = rng.random(16).tolist()
    n = rng.standard_normal(16).tolist()
    angle = 2 * np.pi * u[0]
    tilt = 0.9 * u[1] ** 0.5
    level = 0.95 * np.exp(0.25 * K["light"] * n[0])
    cast = np.exp(0.13 * K["colour"] * np.array(n[1:4]))
    occluders = ()
    if u[2] < 0.22 * K["occ"]:
        occluders = (("patch", "hand", "strands")[int(u[2] / (0.22 * K["occ"]) * 3)], rng.random(8).tolist(), random_colour(rng))
    e, w = K["expr"], K["wear"]
    return Conditions(
        yaw=0.5 * K["pose"] * (2 * u[3] - 1),
        pitch=0.30 * K["pose"] * (2 * u[4] - 1),
        roll=0.12 * K["pose"] * n[4],
        scale=0.95 * (1 + 0.05 * K["scale"] * n[5]),
        shift=(2.0 * K["shift"] * n[6], 2.0 * K["shift"] * n[7]),
        expression_K=(0.9 * u[5] * e, max(0.0, 1.6 * u[6] - 0.7) * e, 0.5 * e * n[8], max(0.0, 0.6 * e * n[9]),
                    min(1.0, max(-0.15, 0.3 * e * n[10])), 1.5 * e * n[11], 0.8 * e * n[12]),
        background=rng.integers(10, 245, (int(2 + 5 * u[7]),) * 2 + (3,), dtype=np.uint8),
        shirt=random_colour(rng),
        beard=u[8] < 0.1 * w,
        glasses="clear" if u[9] < 0.15 * w else "dark" if u[9] < 0.22 * w else "",
        mask=random_colour(rng) if u[10] < 0.08 * w else None,
        hat=random_colour(rng) if u[11] < 0.15 * w else None,
        occluders=occluders,
        light=(np.cos(angle) * tilt, np.sin(angle) * tilt, (1 - tilt * tilt) ** 0.5),
        contrast=0.75 * u[12] * K["light"],
        exposure=tuple((level * cast).tolist()),
        shadow=(2 * np.pi * u[13], 20 * n[13], 3.0 + 8 * u[14], 0.55 * K["light"] * u[15] if n[14] > 0.4 else 0.0),
        saturation=min(1.15, max(0.0, 0.9 + 0.35 * K["colour"] * n[15])),
        haze=0.0,
        blur=max(0.0, rng.normal(0.4, 0.6)) * K["cam"],
        noise=abs(rng.normal(0, 7.0)) * K["cam"],
        noise_at=tuple(rng.integers(0, 128, 2).tolist()),
        quality=rng.random(),
    )
