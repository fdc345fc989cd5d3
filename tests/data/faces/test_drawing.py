"""What an image shows: the face in its pose, and every condition."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from partial_fc.data.faces.conditions import NEUTRAL, Camera, Conditions, Light, Pose, draw_conditions
from partial_fc.data.faces.drawing import CROP_MIDDLE, draw_face, pose_corners
from partial_fc.data.faces.identity import (
    GAP,
    MIN_DIFFERING_PARAMETERS,
    RANGES,
    identity_parameters,
    parameters_at,
)
from partial_fc.data.faces.model import FaceModel, build_face
from partial_fc.data.faces.shapes import EXPRESSIONS

STILL = (0.0,) * len(EXPRESSIONS)
RED = (0.0, 0.0, 255.0)


def face_of(index: int) -> FaceModel:
    return build_face(identity_parameters(0, index), np.random.default_rng(index))


@pytest.fixture(scope="module")
def face() -> FaceModel:
    return face_of(0)


def neutral_image(position: np.ndarray) -> np.ndarray:
    return draw_face(build_face(parameters_at(position), np.random.default_rng(0)), NEUTRAL)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int))


def test_neutral_images_of_identities_all_differ_visibly():
    """Also when shrunk to 28×28, where nothing but the face as a whole is left."""
    neutral = [draw_face(face_of(index), NEUTRAL) for index in range(250)]
    small = [cv2.resize(image, (28, 28), interpolation=cv2.INTER_AREA) for image in neutral]
    images = np.stack(small).astype(np.int16)
    for k, image in enumerate(images[:-1]):
        changed = (np.abs(images[k + 1 :] - image) > 15).any(axis=3).mean(axis=(1, 2))
        assert changed.min() > 0.08


def test_the_nearest_that_two_identities_can_be_differ_visibly():
    """Twelve parameters, each by the gap: no two of a data set are nearer."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        position = rng.random(len(RANGES))
        nearest = position.copy()
        moved = rng.permutation(len(RANGES))[:MIN_DIFFERING_PARAMETERS]
        nearest[moved] += np.where(position[moved] < 0.5, GAP, -GAP)
        images = [neutral_image(p) for p in (position, nearest)]
        assert (difference(*images).max(axis=2) > 25).mean() > 0.01


@pytest.mark.parametrize("name", RANGES)
def test_every_parameter_is_seen(name):
    middle = np.full(len(RANGES), 0.5)
    low, high = middle.copy(), middle.copy()
    low[list(RANGES).index(name)], high[list(RANGES).index(name)] = 0.0, 1.0
    assert (difference(neutral_image(low), neutral_image(high)).max(axis=2) > 12).sum() >= 20


def test_an_image_twice_as_large_shows_the_same_picture(face):
    conditions = replace(draw_conditions(np.random.default_rng(5)), camera=Camera(blur=0.5))
    half = cv2.resize(draw_face(face, conditions, 224), (112, 112), interpolation=cv2.INTER_AREA)
    assert difference(half, draw_face(face, conditions)).mean() < 4.0
    assert draw_face(face, conditions, 57).shape == (57, 57, 3)


def test_an_image_depends_on_face_and_conditions_alone(face):
    conditions = draw_conditions(np.random.default_rng(8))
    first = draw_face(face, conditions)
    draw_face(face_of(1), draw_conditions(np.random.default_rng(9)))
    np.testing.assert_array_equal(first, draw_face(face, conditions))
    assert first.dtype == np.uint8 and first.flags.c_contiguous


# ---- pose ----


def test_landmarks_are_where_an_aligned_crop_has_them(face):
    landmarks_only = replace(face, points_P3=face.landmarks, moves_KP2=np.zeros((len(EXPRESSIONS), 5, 2)))
    for pose in (Pose(), Pose(yaw=0.4, pitch=-0.2, roll=0.3, scale=1.1, shift=(5.0, -3.0))):
        landmarks = pose_corners(landmarks_only, pose, STILL)
        np.testing.assert_allclose(landmarks.mean(axis=0), np.add(CROP_MIDDLE, pose.shift), atol=1e-9)
    eyes, mouth = landmarks[:2], landmarks[3:]
    across = eyes[1] - eyes[0]
    assert np.arctan2(across[1], across[0]) == pytest.approx(0.3, abs=0.1)
    assert mouth[:, 1].mean() > eyes[:, 1].mean()


@pytest.mark.parametrize(("pose", "axis"), [(Pose(yaw=0.3), 0), (Pose(pitch=0.2), 1)])
def test_what_is_nearer_moves_further(face, pose, axis):
    """Parallax: a turned head is not a turned picture."""
    points = np.array([(0.0, 0.0, -15.0), (0.0, 0.0, 0.0), (0.0, 0.0, 30.0)])
    probe = replace(face, points_P3=points, moves_KP2=np.zeros((len(EXPRESSIONS), 3, 2)))
    moved = (pose_corners(probe, pose, STILL) - pose_corners(probe, Pose(), STILL))[:, axis]
    assert moved[0] < moved[1] < moved[2]
    assert moved[2] - moved[0] > 8.0


def test_what_is_nearer_looks_larger(face):
    points = np.array([(-10.0, 0.0, -15.0), (10.0, 0.0, -15.0), (-10.0, 0.0, 30.0), (10.0, 0.0, 30.0)])
    probe = replace(face, points_P3=points, moves_KP2=np.zeros((len(EXPRESSIONS), 4, 2)))
    x = pose_corners(probe, Pose(), STILL)[:, 0]
    assert x[3] - x[2] > 1.1 * (x[1] - x[0])


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_is_seen(face, expression):
    weights = tuple(float(name == expression) for name in EXPRESSIONS)
    changed = difference(draw_face(face, NEUTRAL), draw_face(face, Conditions(expression_K=weights)))
    assert (changed.max(axis=2) > 20).sum() > 10


# ---- surroundings, light, camera ----


@pytest.mark.parametrize(
    "worn",
    [
        {"hat": RED},
        {"mask": RED},
        {"glasses": RED},
        {"glasses": RED, "dark_glasses": True},
        {"beard": True},
        {"shirt": RED},
        {"background": np.zeros((3, 3, 3), np.uint8)},
        {"occluder": "patch", "occluder_colour": RED, "occluder_place": (0.5,) * 8},
        {"occluder": "hand", "occluder_place": (0.5,) * 8},
        {"occluder": "strands", "occluder_place": (0.5, 0.4, 0.3, 0.2, 0.1, 0.9, 0.5, 0.5)},
    ],
)
def test_what_surrounds_the_face_is_seen(face, worn):
    surroundings = replace(NEUTRAL.surroundings, **worn)
    image = draw_face(face, Conditions(surroundings=surroundings))
    assert (difference(draw_face(face, NEUTRAL), image).max(axis=2) > 20).sum() > 60
    if any(value is RED for value in worn.values()):
        assert (np.abs(image - np.array(RED)).max(axis=2) < 30).sum() > 30


def test_light_comes_from_its_side(face):
    bright = draw_face(face, Conditions(light=Light(direction=(-0.8, 0.0, 0.6), contrast=0.8))).astype(float)
    assert bright[40:80, 20:50].mean() > 1.15 * bright[40:80, 62:92].mean()


def test_a_shadow_falls_on_its_side(face):
    light = Light(shadow_depth=0.5, shadow_angle=0.0, shadow_offset=0.0, shadow_softness=2.0)
    shadowed = draw_face(face, Conditions(light=light)) / np.maximum(draw_face(face, NEUTRAL), 1.0)
    np.testing.assert_allclose(shadowed[:, 90:].mean(), 0.5, atol=0.05)
    np.testing.assert_allclose(shadowed[:, :22].mean(), 1.0, atol=0.05)


def test_gain_and_saturation(face):
    neutral = draw_face(face, NEUTRAL).astype(float)
    blueish = draw_face(face, Conditions(light=Light(gain=(1.0, 0.5, 0.5))))
    np.testing.assert_allclose(blueish, neutral * (1.0, 0.5, 0.5), atol=1.0)
    grey = draw_face(face, Conditions(light=Light(saturation=0.0))).astype(int)
    assert np.ptp(grey, axis=2).max() <= 1


def test_noise_has_its_deviation_and_another_place_is_another_noise(face):
    neutral = draw_face(face, NEUTRAL).astype(float)
    middle = (neutral > 30) & (neutral < 225)
    noisy = [draw_face(face, Conditions(camera=Camera(noise=6.0, noise_at=at))) for at in ((0, 0), (7, 100))]
    assert (noisy[0] - neutral)[middle].std() == pytest.approx(6.0, rel=0.05)
    assert np.corrcoef((noisy[0] - neutral)[middle], (noisy[1] - neutral)[middle])[0, 1] < 0.1


def test_blur_takes_the_edges_away(face):
    images = [draw_face(face, Conditions(camera=Camera(blur=blur))).astype(int) for blur in (0.0, 2.0)]
    sharp, soft = (np.abs(np.diff(image, axis=1)).max() for image in images)
    assert soft < 0.6 * sharp


# ---- conditions at random ----


def test_random_conditions_are_sane_and_unlike(face):
    rng = np.random.default_rng(2)
    images = np.stack([draw_face(face, draw_conditions(rng)) for _ in range(150)]).astype(float)
    means, deviations = images.mean(axis=(1, 2, 3)), images.std(axis=(1, 2, 3))
    assert 70 < means.mean() < 160 and means.std() > 10
    assert deviations.min() > 15
    assert (images == 255).mean() < 0.1 and (images == 0).mean() < 0.1
    assert np.abs(images[1:] - images[:-1]).mean(axis=(1, 2, 3)).min() > 10


def test_random_conditions_have_everything_now_and_then():
    rng = np.random.default_rng(3)
    drawn = [draw_conditions(rng) for _ in range(1500)]
    around = [conditions.surroundings for conditions in drawn]
    for thing in ("hat", "mask", "glasses"):
        assert 10 < sum(getattr(s, thing) is not None for s in around) < 500
    assert {s.occluder for s in around} == {None, "patch", "hand", "strands"}
    assert 10 < sum(s.beard for s in around) < 500
    assert any(s.glasses is not None and s.dark_glasses for s in around)
    yaw = np.array([conditions.pose.yaw for conditions in drawn])
    assert abs(yaw.mean()) < 0.05 and yaw.std() > 0.1
    for conditions in drawn:
        assert np.linalg.norm(conditions.light.direction) == pytest.approx(1.0)
