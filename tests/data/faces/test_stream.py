"""The images of a set in order, by any number of processes."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from partial_fc.data.faces import stream
from partial_fc.data.faces.plan import FaceSetPlan
from partial_fc.data.faces.stream import draw_image, stream_images

PLAN = FaceSetPlan(7, 5, 20, 20, image_size=40)  # 75 images: two runs and a part of one


@pytest.fixture
def processes(monkeypatch) -> list[subprocess.Popen]:
    """The processes that the test starts."""
    started = []
    popen = subprocess.Popen

    def record(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(stream.subprocess, "Popen", record)
    return started


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_processes_gives_the_same_images(workers, processes):
    images = list(stream_images(PLAN, workers))
    assert images == [draw_image(PLAN, n) for n in range(len(PLAN))]
    assert len(processes) == workers and all(process.poll() is not None for process in processes)


def test_an_image_is_a_jpeg_of_its_size_and_no_two_are_equal():
    images = [draw_image(PLAN, n) for n in range(len(PLAN))]
    assert len(set(images)) == len(PLAN)
    for image in images[::9]:
        assert cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR).shape == (40, 40, 3)


def test_an_image_depends_on_seed_identity_and_number_alone():
    larger = FaceSetPlan(9, 6, 44, 60, image_size=40)
    assert draw_image(PLAN, 2 * 5 + 3) == draw_image(larger, 2 * 6 + 3)
    assert draw_image(PLAN, 0) != draw_image(FaceSetPlan(7, 5, 20, 20, seed=1, image_size=40), 0)


def test_a_better_quality_takes_more_bytes():
    sizes = [len(draw_image(FaceSetPlan(quality=quality), 0)) for quality in (20, 60, 100)]
    assert sizes == sorted(sizes) and sizes[2] > 1.5 * sizes[0]


def test_closing_the_stream_ends_its_processes(processes):
    images = stream_images(FaceSetPlan(100_000), 2)
    next(images)
    images.close()
    assert len(processes) == 2 and all(process.poll() is not None for process in processes)


def test_a_process_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError, match="ended early with status 1"):
        next(stream_images(PLAN, 2))


def test_no_process_is_refused():
    with pytest.raises(ValueError, match="workers must be 1 or more, got 0"):
        next(stream_images(PLAN, 0))
