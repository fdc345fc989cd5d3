"""Work on many images by several threads, its results in the order of the images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import cv2
import numpy as np

Result = TypeVar("Result")

_IMAGES_A_TASK = 32  # a task costs some 30 µs, an image 100 or more
_TASKS_A_WORKER = 4  # that wait or are done: as much memory as keeps all workers at work


def map_in_order(
    work: Callable[[int], Result], images: Sequence[int] | np.ndarray | range, workers: int
) -> Iterator[Result]:
    """`work(image)` for each of `images`, in their order, by `workers` threads.

    Reading and decoding leave Python's lock, so that threads are as quick as processes and send nothing. An
    error of `work` is raised where its result would stand. Raises ValueError for fewer than one worker.
    """
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    cv2.setNumThreads(1)  # images are what is done in parallel
    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    pending: deque[Future[list[Result]]] = deque()
    try:
        for start in range(0, len(images), _IMAGES_A_TASK):
            part = images[start : start + _IMAGES_A_TASK]
            pending.append(pool.submit(lambda part=part: [work(int(image)) for image in part]))
            if len(pending) > workers * _TASKS_A_WORKER:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
