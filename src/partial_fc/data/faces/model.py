"""The face of an identity: its shapes in space, and what each expression does to them.

    corners(weights) = points_P3 + Σ_k weights_k · moves_KP2     (in x and y)

so that posing a face is one small product. Lengths are those of `shapes.py`; a `side` is −1.0 for what is on
the left of the image and 1.0 on the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from partial_fc.data.faces.identity import Identity
from partial_fc.data.faces.shapes import (
    ARC,
    BUMP,
    CIRCLE,
    DOT,
    FLAT_BUMP,
    Colour,
    Part,
    ShapeList,
    band,
    hsv_to_bgr,
    mirrored,
    mix,
    shade,
    skull_depth,
    smooth,
    there_and_back,
    xy,
)

_SIDES = (-1.0, 1.0)
_SKULL_TOP = -46.0
_BLACK: Colour = (12.0, 10.0, 10.0)
_WHITE: Colour = (232.0, 238.0, 240.0)
_ANY: Colour = (0.0, 0.0, 0.0)
"""The colour of a part that the conditions of an image colour."""


@dataclass(frozen=True)
class FaceModel:
    """A face, ready to be drawn any number of times.

    `landmarks` (5, 3) are the eyes, the nose and the corners of the mouth, by which an image is cropped.
    """

    parts: tuple[Part, ...]
    points_P3: np.ndarray
    moves_KP2: np.ndarray
    landmarks: np.ndarray
    skin: Colour
    hair: Colour


def build_face(p: Identity, marks: np.random.Generator) -> FaceModel:
    """The face with the parameters `p`; `marks` says where its freckles and scar are."""
    shapes = ShapeList()
    skin = hsv_to_bgr(p.skin_hue, 0.62 - 0.36 * p.skin_value, p.skin_value)
    hair = hsv_to_bgr(p.hair_hue, 0.8 - 0.25 * p.hair_value, p.hair_value)
    _hair_behind(shapes, p, hair)
    _neck(shapes, p, skin)
    _ears(shapes, p, skin)
    _head(shapes, p, skin, hair)
    _cheeks(shapes, p, skin)
    _marks(shapes, p, skin, marks)
    _nose(shapes, p, skin)
    _mouth(shapes, p, skin)
    _eyes(shapes, p, skin)
    _brows(shapes, p, hair)
    _glasses(shapes, p)
    _mask(shapes, p)
    _hair(shapes, p, hair)
    _hat(shapes, p)
    return FaceModel(tuple(shapes.parts), shapes.points_P3(), shapes.moves_KP2(), _landmarks(p), skin, hair)


def _landmarks(p: Identity) -> np.ndarray:
    x = np.array([-p.eye_distance, p.eye_distance, 0.0, -p.mouth_width, p.mouth_width])
    y = np.array([p.eye_height, p.eye_height, p.eye_height + p.nose_length, p.mouth_height, p.mouth_height])
    return np.column_stack([x, y, skull_depth(x, y) + np.array([0.0, 0.0, 8.0, 3.0, 3.0])])


def _hair_behind(shapes: ShapeList, p: Identity, hair: Colour) -> None:
    width, end = p.face_width + 0.9 * p.hair_volume, p.hair_length
    right = np.array(
        [
            (0.0, _SKULL_TOP - p.hair_volume),
            (0.66 * width, _SKULL_TOP + 5.0 - p.hair_volume),
            (width, -22.0),
            (1.02 * width, min(-2.0, end)),
            (1.04 * width, max(0.5 * end, end - 14.0)),
            (0.8 * width, end + 2.0),
            (0.0, end + 3.0),
        ]
    )
    shapes.add("face", smooth(mirrored(right)), -14.0, shade(hair, 0.72))


def _neck(shapes: ShapeList, p: Identity, skin: Colour) -> None:
    width = 0.5 * p.face_width * (0.7 + 0.4 * p.jaw_width)
    neck = [(0.0, 20.0), (1.0, 20.0), (1.0, 50.0), (1.25, 58.0), (2.0, 90.0), (0.0, 90.0)]
    shirt = [(0.0, 66.0), (0.5, 61.0), (1.4, 64.0), (2.6, 72.0), (3.4, 120.0), (0.0, 120.0)]
    shapes.add("face", mirrored(np.array(neck)) * (width, 1.0), -16.0, shade(skin, 0.7))
    shapes.add("shirt", mirrored(np.array(shirt)) * (width, 1.0), -16.0, _ANY)


def _ears(shapes: ShapeList, p: Identity, skin: Colour) -> None:
    for side in _SIDES:
        middle = (side * (p.face_width + 0.35 * p.ear_out), p.eye_height + 7.0)
        ear = CIRCLE * (2.5 + p.ear_out, p.ear_size)
        ear[:, 0] -= 0.12 * side * ear[:, 1]
        shapes.add("face", ear + middle, -12.0, shade(skin, 0.94))
        shapes.add("face", 0.58 * ear + middle, -12.0, shade(skin, 0.7))


def _head(shapes: ShapeList, p: Identity, skin: Colour, hair: Colour) -> None:
    width, chin = p.face_width, p.chin_length
    jaw = [(width * p.jaw_width, 0.6 * chin), (1.15 * width * p.chin_width, 0.93 * chin), (0.0, chin)]
    head = [
        (0.0, _SKULL_TOP),
        (0.62 * width * p.forehead_width, _SKULL_TOP + 5.0),
        (width * p.forehead_width, -24.0),
        (width, -4.0),
        (width * p.cheek_width, 10.0),
        *jaw,
    ]
    beard = [
        (0.0, p.mouth_height - 7.0),
        (p.mouth_width + 3.0, p.mouth_height - 4.0),
        (0.9 * width * p.cheek_width, 6.0),
        *jaw,
    ]
    for layer, outline, colour in (("face", head, skin), ("beard", beard, mix(skin, hair, 0.6))):
        corners = smooth(mirrored(np.array(outline)))
        y = corners[:, 1]
        z = np.clip(0.4 * y + 1.6, 0.0, 16.0)
        lowered = 4.5 * np.clip((y - 10.0) / (chin - 10.0), 0.0, 1.2)
        shapes.add(layer, corners, z, colour, {"open_mouth": xy(0.0, lowered)})


def _cheeks(shapes: ShapeList, p: Identity, skin: Colour) -> None:
    red = mix(skin, (70.0, 60.0, 220.0), p.blush)
    nose_end = p.eye_height + p.nose_length
    down = np.linspace(0.0, 1.0, 6)
    across = p.nose_width + 3.0 + (p.mouth_width - p.nose_width + 4.0) * down**1.3
    fold_y = nose_end - 3.0 + (p.mouth_height - nose_end + 7.0) * down
    half = 1.3 * np.sin(np.pi * np.clip(down, 0.05, 0.95))
    shadow = shade(skin, 1.0 - p.fold_depth)
    for side in _SIDES:
        cheek = CIRCLE * (6.5, 5.0) + (side * 0.62 * p.face_width, 14.0)
        shapes.add("face", cheek, skull_depth(*cheek.T), red, {"smile": (side, -2.0)})
        fold = there_and_back(xy(side * across - half, fold_y), xy(side * across + half, fold_y))
        shapes.add("face", fold, skull_depth(*fold.T), shadow, {"smile": (2.0 * side, -1.0)})


def _marks(shapes: ShapeList, p: Identity, skin: Colour, marks: np.random.Generator) -> None:
    places = marks.uniform((-0.7, 3.0), (0.7, 20.0), (int(p.freckles), 2)) * (p.face_width, 1.0)
    freckle = mix(skin, (40.0, 70.0, 120.0), 0.45)
    for place in places:
        shapes.add("face", 0.9 * CIRCLE[::3] + place, skull_depth(*place), freckle)
    mole = DOT * 2.0 + (0.8 * p.mole_x * p.face_width, -22.0 + 52.0 * p.mole_y)
    shapes.add("face", mole, skull_depth(*mole.T), shade(skin, 0.28))
    if marks.random() < 0.3:
        angle = marks.uniform(0.0, np.pi)
        middle = marks.uniform((-0.6, -25.0), (0.6, 25.0)) * (p.face_width, 1.0)
        along = np.array([np.cos(angle), np.sin(angle)])
        thick = np.array([-along[1], along[0]])
        scar = np.stack([-6.0 * along, thick, 6.0 * along, -thick]) + middle
        shapes.add("face", scar, skull_depth(*scar.T), mix(skin, (150.0, 140.0, 235.0), 0.6))


def _nose(shapes: ShapeList, p: Identity, skin: Colour) -> None:
    top, tip = p.eye_height - 1.0, p.eye_height + p.nose_length
    wing, bridge = p.nose_width, p.nose_bridge
    half = np.array(
        [
            (0.4 * bridge, top),
            (bridge, top + 3.0),
            (1.2 * bridge, tip - 8.0),
            (wing, tip - 2.0),
            (0.8 * wing, tip + 1.5),
            (0.35 * wing, tip + 1.0),
            (0.3 * bridge, tip - 6.0),
        ]
    )
    lift = np.array([1.0, 2.0, 4.0, 2.0, 3.0, 6.0, 7.0])
    tip_z = float(skull_depth(0.0, tip)) + 9.0
    for side, factor in zip(_SIDES, (0.86, 0.9), strict=True):
        flank = half * (side, 1.0)
        z = skull_depth(*flank.T) + lift
        shapes.add("face", flank, z, shade(skin, factor), {"smile": (0.6 * side, -0.6)})
    ball = CIRCLE * (0.45 * wing + 0.6, 0.75 * p.nose_tip) + (0.0, tip - 0.45 * p.nose_tip)
    shapes.add("face", ball, tip_z, shade(skin, 1.1), {"smile": (0.0, -0.6)})
    for side in _SIDES:
        nostril = DOT * (p.nostrils, 0.7 * p.nostrils) + (0.55 * side * wing, tip + 0.8)
        shapes.add("face", nostril, tip_z - 4.0, shade(skin, 0.38), {"smile": (0.6 * side, -0.6)})


def _mouth(shapes: ShapeList, p: Identity, skin: Colour) -> None:
    x = p.mouth_width * ARC
    middle = p.mouth_height + p.mouth_tilt * (ARC**2 - 0.4)
    cupids_bow = 1.0 - 0.35 * np.exp(-((ARC / 0.16) ** 2))
    top = middle - p.upper_lip * BUMP**0.7 * cupids_bow
    bottom = middle + p.lower_lip * BUMP**0.7
    edge = 0.45 * FLAT_BUMP
    lip = mix(shade(skin, 0.72), (95.0, 80.0, 205.0), 0.75 * p.lip_redness)
    z = np.tile(skull_depth(x, middle) + 3.0, 2)

    smile, thinner = xy(3.0 * ARC, 1.0 - 4.5 * ARC**2), xy(0.0, 0.25 * (middle - top))
    up, down, teeth = xy(0.0, -1.8 * BUMP), xy(0.0, 8.0 * BUMP), xy(0.0, 1.2 * BUMP)

    def add(corners: np.ndarray, colour: Colour, smiles: tuple, opens: tuple) -> None:
        moves = {"smile": there_and_back(*smiles), "open_mouth": there_and_back(*opens)}
        shapes.add("face", corners, z, colour, moves)

    add(band(x, middle, middle), (40.0, 25.0, 70.0), (smile, smile), (up, down))
    add(band(0.8 * x, middle, middle), _WHITE, (0.8 * smile, 0.8 * smile), (up, teeth))
    add(band(x, top, middle), shade(lip, 0.9), (smile + thinner, smile), (up, up))
    add(band(x, middle, bottom), lip, (smile, smile - thinner), (down, down))
    add(band(x, middle - edge, middle + edge), shade(lip, 0.45), (smile, smile), (up, up))


def _eyes(shapes: ShapeList, p: Identity, skin: Colour) -> None:
    """Eye white, iris and pupil, then the lids, which hide what of the iris is outside the eye."""
    iris = hsv_to_bgr(p.iris_hue, 0.65, p.iris_value)
    opening, below = p.eye_opening, 0.62 * p.eye_opening
    shut, still = xy(0.0, 1.55 * opening * BUMP), np.zeros((len(ARC), 2))
    look = {"look_right": (1.0, 0.0), "look_down": (0.0, 1.0)}
    lash = p.lash_thickness * (0.35 + 0.65 * FLAT_BUMP)
    lower_lid = below + max(2.5, p.iris_size - 0.5 * opening + 1.0)
    for side in _SIDES:
        x = side * p.eye_distance + p.eye_width * ARC
        axis = p.eye_height - side * p.eye_tilt * p.eye_width * ARC
        upper, lower = axis - opening * BUMP, axis + below * BUMP
        depth = skull_depth(x, p.eye_height)
        z, middle_z = np.tile(depth, 2), depth[len(ARC) // 2]
        middle = np.array([side * p.eye_distance, p.eye_height - 0.15 * opening])
        shapes.add("face", band(x, upper, lower), z, _WHITE, {"close_eyes": there_and_back(shut, still)})
        shapes.add("face", p.iris_size * CIRCLE + middle, middle_z, iris, look)
        shapes.add("face", 0.45 * p.iris_size * DOT + middle, middle_z, _BLACK, look)
        shapes.add("face", CIRCLE[::3] + middle - (1.4, 1.6), middle_z, (250.0, 250.0, 250.0), look)
        shapes.add(
            "face",
            band(x, axis - (opening + 4.0) * FLAT_BUMP, upper),
            z,
            shade(skin, 0.98 - p.eyelid_shadow),
            {"close_eyes": there_and_back(still, shut)},
        )
        shapes.add("face", band(x, lower, axis + lower_lid * FLAT_BUMP), z, shade(skin, 0.93))
        lashes = band(x, upper - lash, upper + 0.3)
        shapes.add("face", lashes, z, shade(skin, 0.22), {"close_eyes": there_and_back(shut, shut)})


def _brows(shapes: ShapeList, p: Identity, hair: Colour) -> None:
    outward = np.linspace(-1.0, 1.0, 7)
    distance = p.eye_distance + 0.5 + p.brow_length * outward
    y = p.eye_height - p.brow_height - p.brow_tilt * p.brow_length * outward
    y -= p.brow_arch * (1.0 - (outward - 0.3) ** 2)
    half = 0.5 * p.brow_thickness * (1.0 - 0.55 * np.clip(outward, 0.0, 1.0))
    inner = np.clip(-outward, 0.0, 1.0)
    colour = shade(mix(hair, (20.0, 25.0, 35.0), 0.35), p.brow_value)
    for side in _SIDES:
        brow = band(side * distance, y - half, y + half)
        frown = xy(-2.0 * side * inner, 4.0 * inner + 0.5)
        moves = {"raise_brows": (0.0, -4.5), "frown": there_and_back(frown, frown)}
        shapes.add("face", brow, skull_depth(*brow.T) + 1.5, colour, moves)


def _glasses(shapes: ShapeList, p: Identity) -> None:
    lens = np.sign(CIRCLE) * np.abs(CIRCLE) ** 0.8 * (0.6 * p.eye_width + 6.5, 9.0)
    outer = np.concatenate([lens, lens[:1]])
    rim = there_and_back(outer, 0.84 * outer)
    for side in _SIDES:
        middle = (side * (p.eye_distance + 0.5), p.eye_height + 1.0)
        shapes.add("dark_lens", lens + middle, 33.0, (30.0, 30.0, 30.0))
        shapes.add("frame", rim + middle, 33.0, _ANY)
    bridge = np.array([(-5.0, -2.0), (5.0, -2.0), (5.0, 0.0), (-5.0, 0.0)]) + (0.0, p.eye_height)
    shapes.add("frame", bridge, 35.0, _ANY)


def _mask(shapes: ShapeList, p: Identity) -> None:
    width, chin, across = p.face_width, p.chin_length, ARC[::-1]
    top = xy(width * across, p.eye_height + 0.45 * p.nose_length + 4.0 * across**2)
    bottom = np.array([(-0.9, 0.7), (-0.4, 1.06), (0.0, 1.1), (0.4, 1.06), (0.9, 0.7)]) * (width, chin)
    z = np.concatenate([skull_depth(*top.T) + 4.0 * BUMP, np.full(len(bottom), 18.0)])
    shapes.add("mask", np.concatenate([top, bottom]), z, _ANY)


def _hair(shapes: ShapeList, p: Identity, hair: Colour) -> None:
    width, crown = p.face_width, _SKULL_TOP - p.hair_volume
    turn = np.linspace(np.pi, 0.0, 9)
    top = xy((width + 0.8 * p.hair_volume) * np.cos(turn), -14.0 + (crown + 13.0) * np.sin(turn) ** 0.8)
    across = ARC[::-1]
    line = p.hair_line + 9.0 * np.abs(across - p.hair_part) ** 1.3
    line = np.minimum(line, p.eye_height - 0.5 * p.brow_height - 5.0) + 22.0 * np.abs(across) ** 7
    hairline = xy(0.97 * width * p.forehead_width * across, line)
    z = np.concatenate([np.full(len(top), -6.0), 0.75 * skull_depth(*hairline.T)])
    shapes.add("face", np.concatenate([top, hairline]), z, hair)
    x = 0.9 * p.hair_part * width
    line_y = np.array([0.0, -9.0, -15.0, -9.0, 0.0]) + p.hair_line
    line_x = np.array([x - 0.6, 0.75 * x - 0.7, 0.6 * x, 0.75 * x + 0.7, x + 0.6])
    shapes.add("face", xy(line_x, line_y), 16.0, shade(hair, 0.65))


def _hat(shapes: ShapeList, p: Identity) -> None:
    width = p.face_width + 0.8 * p.hair_volume + 1.5
    turn = np.linspace(np.pi, 0.0, 9)
    top = xy(width * np.cos(turn), -22.0 - (28.0 + p.hair_volume) * np.sin(turn) ** 0.7)
    brim = xy(width * ARC[::-1], -22.0 - 6.0 * BUMP)
    z = np.concatenate([np.zeros(len(top)), 0.9 * skull_depth(*brim.T)])
    shapes.add("hat", np.concatenate([top, brim]), z, _ANY)
