"""The images of a `FaceSetPlan` as JPEG bytes, in order, drawn by any number of processes.

Image (identity i, image j) depends on (seed, i, j), the image size and the quality alone. Of W processes,
number w draws every W-th run of images and writes them to its pipe, each after its length; the pipes' limited
room holds a process back that is ahead. The processes run this module as their command: a fork of a program
with threads and MPI would not be safe, a second import of its main module slow, and OpenCV's threads, of no
use on small images, are switched off there without a change to the caller's.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from partial_fc.data.faces.conditions import draw_conditions
from partial_fc.data.faces.drawing import draw_face
from partial_fc.data.faces.identity import identity_parameters
from partial_fc.data.faces.model import FaceModel, build_face
from partial_fc.data.faces.plan import FaceSetPlan

_RUN_IMAGES = 32
_PIPE_BYTES = 1 << 20  # a run and more
_LENGTH = struct.Struct("<I")
_MARKS, _CONDITIONS = 2, 3  # what a generator is for; `identity` has 0 and 1


@functools.lru_cache(maxsize=1)
def face_model(seed: int, identity: int) -> FaceModel:
    """The face of one identity."""
    return build_face(identity_parameters(seed, identity), np.random.default_rng([seed, _MARKS, identity]))


def draw_image(plan: FaceSetPlan, n: int) -> bytes:
    """The JPEG bytes of image n of the set."""
    identity, image = plan[n]
    conditions = draw_conditions(np.random.default_rng([plan.seed, _CONDITIONS, identity, image]))
    pixels = draw_face(face_model(plan.seed, identity), conditions, plan.image_size)
    quality = round(plan.quality * (1.0 + conditions.camera.quality) / 2)
    encoded, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert encoded
    return jpeg.tobytes()


def stream_images(plan: FaceSetPlan, workers: int) -> Iterator[bytes]:
    """Yields image 0, 1, … of the set, drawn by so many processes. Closing the generator ends them.

    Memory: about 2 MiB a worker here. Raises ChildProcessError when a process ends before its images do.
    """
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    with ExitStack() as stack:
        processes = [stack.enter_context(_Worker(plan, worker, workers)) for worker in range(workers)]
        for n in range(len(plan)):
            yield processes[n // _RUN_IMAGES % workers].next_image()


class _Worker:
    """A process that draws its share, ended at the end of the `with` whether it is done or not."""

    def __init__(self, plan: FaceSetPlan, worker: int, workers: int):
        source_root = str(Path(__file__).parents[3])
        search_path = os.pathsep.join(filter(None, [source_root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(asdict(plan)), str(worker), str(workers)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": search_path, "OPENBLAS_NUM_THREADS": "1"},
            pipesize=_PIPE_BYTES,
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def next_image(self) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        length = pipe.read(_LENGTH.size)
        image = pipe.read(*_LENGTH.unpack(length)) if len(length) == _LENGTH.size else b""
        if not image:
            status = self._process.wait()
            raise ChildProcessError(
                f"a process that draws faces ended early with status {status}: see its message above"
            )
        return image


def _write_share(plan: FaceSetPlan, worker: int, workers: int, out: IO[bytes]) -> None:
    for start in range(worker * _RUN_IMAGES, len(plan), workers * _RUN_IMAGES):
        for n in range(start, min(start + _RUN_IMAGES, len(plan))):
            image = draw_image(plan, n)
            out.write(_LENGTH.pack(len(image)))
            out.write(image)


def _main() -> None:
    cv2.setNumThreads(1)
    plan, worker, workers = sys.argv[1:]
    try:
        _write_share(FaceSetPlan(**json.loads(plan)), int(worker), int(workers), sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Nobody reads on: not an error here. What is left in the buffer must not be flushed at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    _main()
