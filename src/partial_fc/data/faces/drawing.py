"""One image: the face turned and painted, what is in front of it, the light, the camera."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from partial_fc.data.faces.conditions import Conditions
from partial_fc.data.faces.model import FaceModel, mix, shade

_SHIFT = 4
_ALWAYS = {"hair", "neck", "ear", "head", "face"}


def rotation(yaw, pitch, roll):
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    return (np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
            @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]))


def project(face: FaceModel, c: Conditions, size: int):
    points = face.points_P3 + np.tensordot(np.array(c.expression_K), face.moves_KP3, 1)
    turned = np.concatenate([points, face.landmarks]) @ rotation(c.yaw, c.pitch, c.roll).T
    xy = turned[:, :2] * (c.scale / (1 - turned[:, 2:] / 260.0))
    xy += np.array((56.0, 61.0)) + c.shift - xy[-5:].mean(axis=0)
    return xy[:-5] * (size / 112.0)


def draw(face: FaceModel, c: Conditions, size: int = 112) -> np.ndarray:
    image = cv2.resize(c.background, (size, size), interpolation=cv2.INTER_CUBIC if len(c.background) % 2 else cv2.INTER_NEAREST)
    xy = project(face, c, size)
    fixed = (xy * (1 << _SHIFT) + 0.5).astype(np.int32)
    fill = cv2.fillPoly
    for part in face.parts:
        layer, colour = part.layer, part.colour
        if layer not in _ALWAYS:
            if layer == "shirt":
                colour = c.shirt
            elif layer == "hat":
                if c.hat is None:
                    continue
                colour = c.hat
            elif layer == "mask":
                if c.mask is None:
                    continue
                colour = c.mask
            elif layer == "beard":
                if not c.beard:
                    continue
            elif layer == "lens":
                if not c.glasses:
                    continue
                if c.glasses == "clear":
                    n = part.stop - part.start
                    fill(image, [fixed[part.start:part.stop], fixed[part.stop:part.stop + n]], c.shirt, cv2.LINE_AA, _SHIFT)
                    continue
            elif layer == "bridge":
                if not c.glasses:
                    continue
            else:
                continue
        fill(image, [fixed[part.start:part.stop]], colour, cv2.LINE_AA, _SHIFT)
    if c.occluders:
        occlude(image, face, c)
    return photograph(image, c, size)


def occlude(image, face, c):
    kind, u, colour = c.occluders
    size = len(image)
    if kind == "patch":
        box = cv2.boxPoints(((u[0] * size, u[1] * size), ((0.15 + 0.3 * u[2]) * size, (0.15 + 0.3 * u[3]) * size), 180 * u[4]))
        cv2.fillPoly(image, [(box * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
    elif kind == "hand":
        colour = shade(face.skin, 0.9)
        x, y = np.array([0.15 + 0.7 * u[0], 0.75 + 0.2 * u[1]]) * size
        lean = 1.2 * (u[2] - 0.5)
        for k in range(4):
            a = lean + 0.16 * (k - 1.5)
            tip = (int(x + (k - 1.5) * 0.06 * size + np.sin(a) * size * (0.3 + 0.05 * (k in (1, 2)))), int(y - np.cos(a) * size * (0.3 + 0.05 * (k in (1, 2)))))
            base = (int(x + (k - 1.5) * 0.06 * size), int(y))
            cv2.line(image, base, tip, shade(colour, 0.6), max(1, size // 12), cv2.LINE_AA)
            cv2.line(image, base, tip, colour, max(1, size // 16), cv2.LINE_AA)
        cv2.ellipse(image, (int(x), int(y + 0.1 * size)), (size // 7, size // 6), 0, 0, 360, colour, -1, cv2.LINE_AA)
    else:
        for k in range(5):
            x = (0.2 + 0.6 * u[k]) * size
            t = np.linspace(0, 1, 6)
            curve = np.stack([x + (u[5] - 0.5) * size * 0.5 * t**2, size * (0.1 + (0.4 + 0.3 * u[6]) * t)], 1)
            xy = np.concatenate([curve - (0.8, 0), curve[::-1] + (0.8, 0)])
            cv2.fillPoly(image, [(xy * 16).astype(np.int32)], face.hair, cv2.LINE_AA, 4)


@functools.lru_cache(maxsize=4)
def _grid(size):
    n = 14
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) * (112 / n) + 4.0 - 56.0
    y -= 2.0
    r = np.maximum(1.0, np.hypot(x / 40.0, y / 50.0))
    nx, ny = x / 40.0 / r, y / 50.0 / r
    return x, y, nx, ny, np.sqrt(np.maximum(0.0, 1 - nx * nx - ny * ny))


@functools.lru_cache(maxsize=1)
def _noise_bank(size):
    return np.random.default_rng(0).standard_normal((size + 128, size + 128, 3), dtype=np.float32)


def photograph(image, c, size):
    if c.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), c.blur * size / 112)
    x, y, nx, ny, nz = _grid(size)
    field = (1 - c.contrast) + c.contrast * 1.25 * np.maximum(0.0, nx * c.light[0] + ny * c.light[1] + nz * c.light[2])
    angle, offset, softness, deep = c.shadow
    if deep:
        field *= 1 - deep / (1 + np.exp(-(x * np.cos(angle) + y * np.sin(angle) - offset) / softness))
    field = cv2.resize(field.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    s = c.saturation
    luma = np.array([0.114, 0.587, 0.299])
    matrix = np.array(c.exposure)[:, None] * (s * np.eye(3) + (1 - s) * luma[None, :])
    image = cv2.transform(image.astype(np.float32), matrix)
    image = cv2.multiply(image, cv2.merge([field, field, field]))
    oy, ox = c.noise_at
    return cv2.scaleAdd(_noise_bank(size)[oy:oy + size, ox:ox + size], c.noise, image).clip(0, 255).astype(np.uint8)
