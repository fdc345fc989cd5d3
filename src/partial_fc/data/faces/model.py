"""The face of one identity as flat coloured shapes in space.

Space is in pixels of a 112×112 image: x to the right, y down, z to the viewer, the origin in the middle
of the head. A shape is a closed polygon. What the face can do (smile, open the mouth …) moves its points
in a straight line, so that an expression is `points_P3 + weights_K · moves_KP3`: one product for the face.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from partial_fc.data.faces.identity import Identity

EXPRESSIONS = ("smile", "open", "raise", "frown", "close", "gaze_x", "gaze_y")
SIDES = (-1.0, 1.0)

_ARC_9 = np.linspace(-1.0, 1.0, 9)
_BUMP_9 = 1.0 - _ARC_9**2
_FULL_BUMP_9 = 1.0 - _ARC_9**4
_TURN_12 = np.linspace(0.0, 2 * np.pi, 12, endpoint=False)
_CIRCLE_12 = np.stack([np.cos(_TURN_12), np.sin(_TURN_12)], axis=1)
_TURN_10 = _TURN_12[:0]


@dataclass(frozen=True)
class Part:
    """One shape: its points' place in the model, its colour, and the layer that it is painted with."""

    layer: str
    start: int
    stop: int
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class FaceModel:
    points_P3: np.ndarray
    moves_KP3: np.ndarray
    parts: tuple[Part, ...]
    landmarks: np.ndarray
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]


def bgr(hue_degrees: float, saturation: float, value: float) -> tuple[float, float, float]:
    """HSV (degrees, [0, 1], [0, 1]) to BGR in [0, 255]."""
    sector = hue_degrees / 60.0
    def channel(offset: float) -> float:
        k = (offset + sector) % 6
        return 255.0 * value * (1 - saturation * max(0.0, min(k, 4 - k, 1.0)))
    return channel(1), channel(3), channel(5)


def mix(a, b, share):
    return tuple(x + (y - x) * share for x, y in zip(a, b))


def shade(colour, factor):
    return tuple(min(255.0, x * factor) for x in colour)


def depth(x, y):
    """z of the face's front, an ellipsoid."""
    return 30.0 * np.sqrt(np.maximum(0.02, 1 - (np.asarray(x) / 39.0) ** 2 - (np.asarray(y) / 58.0) ** 2))


def _spline_matrix(controls: int, points_per_control: int) -> np.ndarray:
    """Closed Catmull-Rom spline through its control points, as a matrix."""
    n = controls * points_per_control
    matrix = np.zeros((n, controls))
    for row in range(n):
        c, t = row // points_per_control, (row % points_per_control) / points_per_control
        weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -t**2 + t**3)
        for k, w in enumerate(weights):
            matrix[row, (c + k - 1) % controls] += w / 2
    return matrix


_SPLINE = {n: _spline_matrix(n, 3) for n in (6, 8, 10, 12, 14, 16)}


class _Builder:
    def __init__(self):
        self.points, self.moves, self.parts, self.count = [], [], [], 0

    def add(self, layer, xy, z, colour, moves=None):
        n = len(xy)
        points = np.empty((n, 3))
        points[:, :2] = xy
        points[:, 2] = z
        move = np.zeros((len(EXPRESSIONS), n, 3))
        for name, dxy in (moves or {}).items():
            move[EXPRESSIONS.index(name), :, :2] = dxy
        self.points.append(points)
        self.moves.append(move)
        self.parts.append(Part(layer, self.count, self.count + n, tuple(colour)))
        self.count += n


def _xy(x, y):
    return np.stack([np.broadcast_to(x, np.shape(y)), y], axis=1)


def _loop(x, top, bottom):
    """Closed shape between two curves over the same x."""
    return np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])


def _outline(p: Identity, grow=0.0):
    w = p.face_width + grow
    chin = p.chin_length
    right = np.array([
        (0.0, -46.0 - grow),
        (0.62 * w * p.forehead_width, -41.0 - grow),
        (w * p.forehead_width, -24.0),
        (w, -4.0),
        (w * p.cheek_width, 10.0),
        (w * p.jaw_width, 0.60 * chin),
        (w * p.chin_width * 1.15, 0.93 * chin + grow),
    ])
    left = right[1:][::-1] * (-1, 1)
    return np.concatenate([right, [(0.0, chin + grow)], left])


def _open_moves(xy, chin):
    lower = np.clip((xy[:, 1] - 10.0) / (chin - 10.0), 0.0, 1.2)
    return np.stack([np.zeros(len(xy)), 4.5 * lower], 1)


def build_face(p: Identity, marks: np.random.Generator) -> FaceModel:
    b = _Builder()
    skin = bgr(p.skin_hue, 0.62 - 0.36 * p.skin_value, p.skin_value)
    hair = bgr(p.hair_hue, 0.8 - 0.25 * p.hair_value, p.hair_value)
    dark = shade(skin, 0.72)
    _hair_back(b, p, hair)
    _neck(b, p, skin)
    _ears(b, p, skin)
    _head(b, p, skin, hair)
    _cheeks(b, p, skin, marks)
    _nose(b, p, skin)
    _mouth(b, p, skin)
    _eyes(b, p, skin)
    _brows(b, p, hair)
    _glasses(b, p)
    _hair_front(b, p, hair)
    _mask(b, p)
    _hat(b, p)
    landmarks = np.array([(-p.eye_distance, p.eye_height), (p.eye_distance, p.eye_height), (0, p.eye_height + p.nose_length),
                          (-p.mouth_width, p.mouth_height), (p.mouth_width, p.mouth_height)])
    landmarks = np.concatenate([landmarks, depth(landmarks[:, 0], landmarks[:, 1])[:, None]], 1)
    landmarks[2, 2] += 8
    return FaceModel(np.concatenate(b.points), np.concatenate(b.moves, axis=1), tuple(b.parts), landmarks, skin, hair)


def _hair_back(b, p, hair):
    w = p.face_width + p.hair_volume * 0.9
    top = -47.0 - p.hair_volume
    end = p.hair_length
    right = np.array([(0.0, top), (0.66 * w, top + 5.0), (w, -22.0), (w * 1.02, min(-2.0, end)),
                      (w * (1.0 + 0.06 * (end > 20)), max(end * 0.5, end - 14)), (0.8 * w, end + 2), ])
    xy = _SPLINE[12] @ np.concatenate([right, [(0.0, end + 3.0)], right[1:][::-1] * (-1, 1)])
    b.add("hair", xy, -14.0, shade(hair, 0.72))


def _neck(b, p, skin):
    w = 0.5 * p.face_width * (0.7 + 0.4 * p.jaw_width)
    y = np.array([20.0, 50.0, 58.0, 90.0, 90.0, 58.0, 50.0, 20.0])
    x = np.array([1, 1, 1.25, 2.0, -2.0, -1.25, -1, -1]) * w
    b.add("neck", _xy(x, y), -16.0, shade(skin, 0.7))
    y = np.array([60.0, 66.0, 62.0, 66.0, 75.0, 120.0, 120.0, 75.0, 66.0, 62.0])
    x = np.array([-0.5, 0, 0.5, 1.4, 2.6, 3.4, -3.4, -2.6, -1.4, -0.5]) * w
    b.add("shirt", _xy(x, y), -16.0, (90, 90, 90))


def _ears(b, p, skin):
    for side in SIDES:
        x0, y0 = side * (p.face_width + p.ear_out * 0.35), p.eye_height + 7.0
        for part, factor in (("skin", 1.0), ("inner", 0.58)):
            e = _CIRCLE_12 * (2.5 + p.ear_out, p.ear_size) * factor
            e[:, 0] += side * 0.12 * -e[:, 1]
            b.add("ear", e + (x0, y0), -12.0, shade(skin, 0.94 if part == "skin" else 0.7))


def _head(b, p, skin, hair):
    xy = _SPLINE[14] @ _outline(p)
    z = np.clip((xy[:, 1] + 4) * 0.4, 0, 16)
    moves = {"open": _open_moves(xy, p.chin_length)}
    b.add("head", xy, z, skin, moves)
    # beard: jaw line and mouth field
    c = p.chin_length
    w = p.face_width
    right = np.array([(0.0, p.mouth_height - 7.0), (p.mouth_width + 3, p.mouth_height - 4), (0.9 * w * p.cheek_width, 6.0), (w * p.jaw_width, 0.60 * c), (w * p.chin_width * 1.15, 0.93 * c)])
    xy = _SPLINE[10] @ np.concatenate([right, [(0.0, c)], right[1:][::-1] * (-1, 1)])[:10]
    b.add("beard", xy, np.clip((xy[:, 1] + 4) * 0.4, 0, 16), mix(skin, hair, 0.6), {"open": _open_moves(xy, c)})


def _cheeks(b, p, skin, marks):
    red = mix(skin, (70, 60, 220), p.blush)
    for side in SIDES:
        xy = _CIRCLE_12 * (6.5, 5.0) + (side * 0.62 * p.face_width, 14.0)
        b.add("face", xy, depth(xy[:, 0], xy[:, 1]), red, {"smile": np.array([[side, -2.0]])})
    for side in SIDES:
        t = np.linspace(0, 1, 6)
        x = side * (p.nose_width + 3 + (p.mouth_width - p.nose_width + 4) * t**1.3)
        y = p.eye_height + p.nose_length - 3 + (p.mouth_height - p.eye_height - p.nose_length + 7) * t
        thick = 1.3 * np.sin(np.pi * np.clip(t, .05, .95))
        xy = np.concatenate([np.stack([x - thick, y], 1), np.stack([x + thick, y], 1)[::-1]])
        b.add("face", xy, depth(xy[:, 0], xy[:, 1]), shade(skin, 1 - p.fold_depth), {"smile": np.array([[side * 2.0, -1.0]])})
    for _ in range(int(p.freckles)):
        x, y = marks.uniform(-0.7, 0.7) * p.face_width, marks.uniform(3, 20)
        size = 0.9
        xy = _CIRCLE_12[::3] * size + (x, y)
        b.add("face", xy, depth(x, y), mix(skin, (40, 70, 120), 0.45))
    x, y = p.mole_x * 0.8 * p.face_width, -22 + p.mole_y * 52
    b.add("face", _CIRCLE_12[::2] * 2.0 + (x, y), depth(x, y), shade(skin, 0.28))


def _nose(b, p, skin):
    top, tip = p.eye_height - 1.0, p.eye_height + p.nose_length
    nw, bw = p.nose_width, p.nose_bridge
    z_tip = depth(0.0, tip) + 9.0
    for side, factor in ((-1, 0.86), (1, 0.9)):
        xy = np.array([(bw * 0.4, top), (bw, top + 3), (bw * 1.2, tip - 8), (nw, tip - 2.0), (nw * 0.8, tip + 1.5), (0.35 * nw, tip + 1), (0.3 * bw, tip - 6)]) * (side, 1)
        z = depth(xy[:, 0], xy[:, 1]) + np.array([1, 2, 4, 2, 3, 6, 7])
        b.add("face", xy, z, shade(skin, factor), {"smile": np.array([[side * 0.6, -0.6]])})
    xy = _CIRCLE_12 * (0.45 * nw + 0.6, p.nose_tip * 0.75) + (0, tip - p.nose_tip * 0.45)
    b.add("face", xy, z_tip, shade(skin, 1.1), {"smile": np.array([[0, -0.6]])})
    for side in SIDES:
        xy = _CIRCLE_12[::2] * (p.nostrils, p.nostrils * 0.7) + (side * nw * 0.55, tip + 0.8)
        b.add("face", xy, z_tip - 4, shade(skin, 0.38), {"smile": np.array([[side * 0.6, -0.6]])})


def _mouth(b, p, skin):
    t = _ARC_9
    x = p.mouth_width * t
    mid = p.mouth_height + p.mouth_tilt * (t**2 - 0.4)
    corner = {"x": 3.0 * t, "y": -4.5 * t**2 + 1.0}
    lip = mix(shade(skin, 0.72), (95, 80, 205), p.lip_redness * 0.75)
    bow = 1 - 0.35 * np.exp(-(t / 0.16) ** 2)
    top = mid - p.upper_lip * _BUMP_9**0.7 * bow
    bottom = mid + p.lower_lip * _BUMP_9**0.7
    smile = np.stack([corner["x"], corner["y"]], 1)
    up = np.stack([0 * t, -1.8 * _BUMP_9], 1)
    down = np.stack([0 * t, 8.0 * _BUMP_9], 1)
    both = lambda a, c: np.concatenate([a, c[::-1]])
    z = depth(x, mid) + 3.0
    zz = np.concatenate([z, z[::-1]])
    b.add("face", _loop(x, mid, mid + 0.01), zz, (40, 25, 70), {"smile": both(smile, smile), "open": both(up, down)})
    b.add("face", _loop(0.8 * x, mid, mid + 0.02), zz, (225, 235, 240), {"smile": both(0.8 * smile, 0.8 * smile), "open": both(up, up + np.stack([0 * t, 3.0 * _BUMP_9], 1))})
    thin = np.stack([0 * t, 0.25 * (mid - top)], 1)
    b.add("face", _loop(x, top, mid), zz, shade(lip, 0.9), {"smile": both(smile + thin, smile), "open": both(up, up)})
    b.add("face", _loop(x, mid, bottom), zz, lip, {"smile": both(smile, smile - thin), "open": both(down, down)})
    edge = 0.45 * _FULL_BUMP_9
    b.add("face", _loop(x, mid - edge, mid + edge), zz, shade(lip, 0.45), {"smile": both(smile, smile), "open": both(up, up)})


def _eyes(b, p, skin):
    iris = bgr(p.iris_hue, 0.65, p.iris_value)
    for side in SIDES:
        ex, ey, w, h = side * p.eye_distance, p.eye_height, p.eye_width, p.eye_opening
        t = _ARC_9
        x = ex + w * t
        slope = -side * p.eye_tilt * w * t
        upper = ey + slope - h * _BUMP_9
        lower = ey + slope + 0.62 * h * _BUMP_9
        z = depth(x, ey + 0 * x)
        zz = np.concatenate([z, z])
        still = np.zeros((9, 2))
        shut = np.stack([0 * t, 1.55 * h * _BUMP_9], 1)
        both = lambda a, c: np.concatenate([a, c[::-1]])
        b.add("face", _loop(x, upper, lower), zz, (232, 238, 240), {"close": both(shut, still)})
        gaze = {"gaze_x": np.array([[1.0, 0.0]]), "gaze_y": np.array([[0.0, 1.0]])}
        iy = ey - 0.15 * h
        b.add("face", _CIRCLE_12 * p.iris_size + (ex, iy), z[4], iris, gaze)
        b.add("face", _CIRCLE_12[::2] * (0.45 * p.iris_size) + (ex, iy), z[4], (12, 10, 10), gaze)
        b.add("face", _CIRCLE_12[::3] * 1.0 + (ex - 1.4, iy - 1.6), z[4], (250, 250, 250), gaze)
        cover = ey + slope - (h + 4.0) * _FULL_BUMP_9
        b.add("face", _loop(x, cover, upper), zz, shade(skin, 0.98 - p.eyelid_shadow), {"close": both(still, shut)})
        under = ey + slope + (0.62 * h + max(2.5, p.iris_size - 0.5 * h + 1.0)) * _FULL_BUMP_9
        b.add("face", _loop(x, lower, under), zz, shade(skin, 0.93))
        lash = p.lash_thickness * (0.35 + 0.65 * _FULL_BUMP_9)
        b.add("face", _loop(x, upper - lash, upper + 0.3), zz, shade(skin, 0.22), {"close": both(shut, shut)})


def _brows(b, p, hair):
    colour = shade(mix(hair, (20, 25, 35), 0.35), p.brow_value)
    for side in SIDES:
        t = np.linspace(-1, 1, 7)
        x = side * (p.eye_distance + 0.5 + p.brow_length * t)
        y = p.eye_height - p.brow_height - p.brow_tilt * p.brow_length * t - p.brow_arch * (1 - (t - 0.3) ** 2)
        thick = 0.5 * p.brow_thickness * (1 - 0.55 * np.clip(t, 0, 1)) 
        xy = np.concatenate([np.stack([x, y - thick], 1), np.stack([x, y + thick], 1)[::-1]])
        inner = np.clip(-t, 0, 1)
        frown = np.stack([-side * 2.0 * inner, 4.0 * inner + 0.5], 1)
        b.add("face", xy, depth(xy[:, 0], xy[:, 1]) + 1.5, colour,
              {"raise": np.array([[0, -4.5]]), "frown": np.concatenate([frown, frown[::-1]])})


def _glasses(b, p):
    for side in SIDES:
        ring = _CIRCLE_12 * (p.eye_width * 0.6 + 6.0, 9.0)
        ring = np.sign(ring) * np.abs(ring) ** 0.8 * (1.0 * np.array([16.0, 9.0]) ** 0.2) * (0.8, 1.0)
        centre = (side * (p.eye_distance + 0.5), p.eye_height + 1.0)
        for factor, layer in ((1.0, "lens"), (0.86, "lens_inside")):
            b.add(layer, ring * factor + centre, 36.0, (30, 30, 30))
    y = p.eye_height - 1.0
    b.add("bridge", np.array([(-5.0, y - 1), (5.0, y - 1), (5.0, y + 1), (-5.0, y + 1)]), 38.0, (30, 30, 30))


def _hair_front(b, p, hair):
    w = p.face_width
    top = -47.0 - p.hair_volume
    t = np.linspace(1.0, -1.0, 9)
    line = p.hair_line + 9.0 * np.abs(t - p.hair_part) ** 1.3
    line = np.minimum(line, p.eye_height - 5.0 - 0.5 * p.brow_height) + 22.0 * np.abs(t) ** 7
    hairline = np.stack([t * 0.97 * w * p.forehead_width, line], 1)
    arch_w = w + 0.8 * p.hair_volume
    a = np.linspace(np.pi, 0, 9)
    arch = np.stack([arch_w * np.cos(a), -14 + (top + 14) * np.sin(a) ** 0.8], 1)
    xy = np.concatenate([arch, hairline])
    z = np.concatenate([np.full(9, -6.0), 0.75 * depth(hairline[:, 0], hairline[:, 1])])
    b.add("hair", xy, z, hair)
    x0, y0 = p.hair_part * 0.9 * w, p.hair_line
    xy = np.array([(x0 - 0.6, y0 - 1), (x0 * 0.75 - 0.7, y0 - 10), (x0 * 0.6, y0 - 16), (x0 * 0.75 + 0.7, y0 - 10), (x0 + 0.6, y0 - 1)])
    b.add("hair", xy, 18.0, shade(hair, 0.65))


def _mask(b, p):
    w, c = p.face_width, p.chin_length
    t = np.linspace(1, -1, 7)
    top = np.stack([w * t, p.eye_height + 0.45 * p.nose_length + 4 * t**2], 1)
    bottom = np.array([(-0.9 * w, 0.7 * c), (-0.4 * w, c + 3), (0, c + 4), (0.4 * w, c + 3), (0.9 * w, 0.7 * c)])
    xy = np.concatenate([top, bottom])
    b.add("mask", xy, np.concatenate([depth(top[:, 0], top[:, 1]) + 4 * (1 - t**2), np.full(5, 18.0)]), (200, 200, 200))


def _hat(b, p):
    w = p.face_width + 0.8 * p.hair_volume + 1.5
    top = -50.0 - p.hair_volume
    a = np.linspace(np.pi, 0, 9)
    arch = np.stack([w * np.cos(a), -22 + (top + 22) * np.sin(a) ** 0.7], 1)
    t = np.linspace(1, -1, 7)
    brim = np.stack([w * t, -22 - 6 * (1 - t**2)], 1)
    b.add("hat", np.concatenate([arch, brim]), np.concatenate([np.zeros(9), 0.9 * depth(brim[:, 0], brim[:, 1])]), (80, 80, 80))
