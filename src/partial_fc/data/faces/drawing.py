"""One image: the face posed and painted before its background, what hides it, then light and camera.

Everything is drawn in fractions of a pixel, anti-aliased, at the size asked for: an image of twice the size
shows the same picture twice as large. P corners in all, K expressions.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

from partial_fc.data.faces.conditions import Conditions, Light, Pose, Surroundings
from partial_fc.data.faces.model import FaceModel
from partial_fc.data.faces.shapes import Colour, shade

UNIT_SIZE = 112
"""The image size in which lengths are said."""

_FRACTION_BITS = 4
CROP_MIDDLE = (56.0, 61.0)
"""Where the mean of a face's five landmarks comes to lie: the image is an aligned crop."""

_VIEWING_DISTANCE = 260.0
_LIGHT_CELLS = 14
_NOISE_ROOM = 128
_LUMA_BGR = np.array([0.114, 0.587, 0.299])


def draw_face(face: FaceModel, conditions: Conditions, image_size: int = UNIT_SIZE) -> np.ndarray:
    """Draws one image.

    Returns:
        (image_size, image_size, 3) uint8, BGR, the order that `cv2.imencode` takes.
    """
    scale = image_size / UNIT_SIZE
    image = _background(conditions.surroundings.background, image_size)
    corners_P2 = pose_corners(face, conditions.pose, conditions.expression_K) * scale
    _paint(image, face, corners_P2, conditions.surroundings)
    if conditions.surroundings.occluder is not None:
        _occlude(image, face, conditions.surroundings)
    if conditions.camera.blur > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), conditions.camera.blur * scale)
    return _expose(image, conditions)


def _background(grid: np.ndarray, image_size: int) -> np.ndarray:
    blend = cv2.INTER_CUBIC if len(grid) % 2 else cv2.INTER_NEAREST
    return cv2.resize(grid, (image_size, image_size), interpolation=blend)


def pose_corners(face: FaceModel, pose: Pose, expression_K: tuple[float, ...]) -> np.ndarray:
    """Where the corners are in an image of `UNIT_SIZE`, (P, 2): turned, seen from near, cropped."""
    points = np.concatenate([face.points_P3, face.landmarks])
    points[: len(face.points_P3), :2] += np.tensordot(expression_K, face.moves_KP2, 1)
    turned = points @ _rotation(pose).T
    xy = turned[:, :2] * (pose.scale / (1.0 - turned[:, 2:] / _VIEWING_DISTANCE))
    landmarks = xy[len(face.points_P3) :]
    return xy[: len(face.points_P3)] + (np.array(CROP_MIDDLE) + pose.shift - landmarks.mean(axis=0))


def _rotation(pose: Pose) -> np.ndarray:
    """(3, 3): yaw, then pitch, then roll."""
    cy, sy = math.cos(pose.yaw), math.sin(pose.yaw)
    cp, sp = math.cos(pose.pitch), math.sin(pose.pitch)
    cr, sr = math.cos(pose.roll), math.sin(pose.roll)
    yaw = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    pitch = np.array([[1.0, 0.0, 0.0], [0.0, cp, sp], [0.0, -sp, cp]])
    roll = np.array([[cr, -sr, 0.0], [sr, cr, 0.0], [0.0, 0.0, 1.0]])
    return roll @ pitch @ yaw


def _paint(image: np.ndarray, face: FaceModel, corners_P2: np.ndarray, surroundings: Surroundings) -> None:
    glasses = surroundings.glasses
    coloured_by_image: dict[str, Colour | None] = {
        "shirt": surroundings.shirt,
        "hat": surroundings.hat,
        "mask": surroundings.mask,
        "frame": glasses,
    }
    hidden = set()
    if not surroundings.beard:
        hidden.add("beard")
    if glasses is None or not surroundings.dark_glasses:
        hidden.add("dark_lens")
    fixed_P2 = _fixed_point(corners_P2)
    for part in face.parts:
        colour = part.colour
        if part.layer != "face":
            colour = coloured_by_image.get(part.layer, part.colour)
            if colour is None or part.layer in hidden:
                continue
        cv2.fillPoly(image, [fixed_P2[part.points]], colour, cv2.LINE_AA, _FRACTION_BITS)


def _fixed_point(corners: np.ndarray) -> np.ndarray:
    return np.rint(corners * (1 << _FRACTION_BITS)).astype(np.int32)


def _fill(image: np.ndarray, corners: np.ndarray, colour: Colour) -> None:
    cv2.fillPoly(image, [_fixed_point(corners)], colour, cv2.LINE_AA, _FRACTION_BITS)


def _occlude(image: np.ndarray, face: FaceModel, surroundings: Surroundings) -> None:
    place, size = surroundings.occluder_place, len(image)
    if surroundings.occluder == "patch":
        middle = (size * place[0], size * place[1])
        sides = (size * (0.15 + 0.3 * place[2]), size * (0.15 + 0.3 * place[3]))
        _fill(image, cv2.boxPoints((middle, sides, 180.0 * place[4])), surroundings.occluder_colour)
    elif surroundings.occluder == "hand":
        _hold_hand(image, shade(face.skin, 0.9), place)
    else:
        down = np.linspace(0.0, 1.0, 6)
        for start in place[:5]:
            x = size * (0.2 + 0.6 * start + 0.5 * (place[5] - 0.5) * down**2)
            y = size * (0.1 + (0.4 + 0.3 * place[6]) * down)
            half = 0.007 * size
            strand = np.concatenate([np.stack([x - half, y], 1), np.stack([x + half, y], 1)[::-1]])
            _fill(image, strand, face.hair)


def _hold_hand(image: np.ndarray, skin: Colour, place: tuple[float, ...]) -> None:
    """Four fingers, each before a darker and wider one, and the back of the hand."""
    size = len(image)
    wrist_x, wrist_y, lean = 0.15 + 0.7 * place[0], 0.75 + 0.2 * place[1], 1.2 * (place[2] - 0.5)
    for finger in (-1.5, -0.5, 0.5, 1.5):
        angle, length = lean + 0.16 * finger, 0.35 - 0.03 * abs(finger)
        base = (wrist_x + 0.06 * finger, wrist_y)
        tip = (base[0] + length * math.sin(angle), base[1] - length * math.cos(angle))
        ends = [tuple(int(size * v) for v in end) for end in (base, tip)]
        for colour, width in ((shade(skin, 0.6), 0.085), (skin, 0.065)):
            cv2.line(image, *ends, colour, max(1, round(width * size)), cv2.LINE_AA)
    middle, radii = (wrist_x, wrist_y + 0.1), (0.14, 0.16)
    back = tuple(int(size * v) for v in middle), tuple(int(size * v) for v in radii)
    cv2.ellipse(image, *back, 0, 0, 360, skin, -1, cv2.LINE_AA)


def _expose(image: np.ndarray, conditions: Conditions) -> np.ndarray:
    """The colours of the film, the light that falls on the scene, the noise of the camera."""
    light, camera, size = conditions.light, conditions.camera, len(image)
    film = (1.0 - light.saturation) * _LUMA_BGR + light.saturation * np.eye(3)
    image = cv2.transform(image, film)
    cells = _light_cells(light)[:, :, None] * np.array(light.gain, np.float32)
    exposed = cv2.multiply(image, cv2.resize(cells, (size, size)), dtype=cv2.CV_32F)
    top, left = camera.noise_at
    noise = _noise(size)[top : top + size, left : left + size]
    # The absolute value: below black, noise is reflected.
    return cv2.convertScaleAbs(cv2.scaleAdd(noise, camera.noise, exposed))


def _light_cells(light: Light) -> np.ndarray:
    """How much light falls on each cell of a coarse grid over the image, float32; 1 in the neutral image."""
    x, y, normal_x, normal_y, normal_z = _scene()
    towards = normal_x * light.direction[0] + normal_y * light.direction[1] + normal_z * light.direction[2]
    cells = (1.0 - light.contrast) + 1.25 * light.contrast * np.maximum(towards, 0.0)
    if light.shadow_depth > 0.0:
        across = x * math.cos(light.shadow_angle) + y * math.sin(light.shadow_angle) - light.shadow_offset
        cells *= 1.0 - light.shadow_depth / (1.0 + np.exp(-across / light.shadow_softness))
    return cells.astype(np.float32)


@functools.cache
def _scene() -> tuple[np.ndarray, ...]:
    """Middle of each light cell from the middle of the head, and the normal of an ellipsoid head there."""
    at = (np.arange(_LIGHT_CELLS) + 0.5) * (UNIT_SIZE / _LIGHT_CELLS) - UNIT_SIZE / 2
    x, y = np.meshgrid(at, at - 2.0)
    radius = np.maximum(1.0, np.hypot(x / 40.0, y / 50.0))
    normal_x, normal_y = x / 40.0 / radius, y / 50.0 / radius
    return x, y, normal_x, normal_y, np.sqrt(np.maximum(0.0, 1.0 - normal_x**2 - normal_y**2))


@functools.lru_cache(maxsize=2)
def _noise(image_size: int) -> np.ndarray:
    """Normal noise that images take a window of: drawing it anew would take longer than the face."""
    shape = (image_size + _NOISE_ROOM, image_size + _NOISE_ROOM, 3)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
