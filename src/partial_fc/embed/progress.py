"""How far the work is: a bar where a person looks on, lines in a log where nobody does."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from partial_fc.collectives import Collectives

logger = logging.getLogger("partial_fc")

LOG_SECONDS = 30.0


@contextmanager
def progress_of(images: int, done: int, collectives: Collectives) -> Iterator[Callable[[int], None]]:
    """A function to tell of how many more images are done; rank 0 shows it, and says at the end how quick it was."""
    if collectives.rank != 0:
        yield lambda more: None
        return
    started = last = time.perf_counter()
    now_done = done
    if done:
        logger.info("%d of %d images are done already", done, images)
    is_watched = sys.stderr.isatty()
    with tqdm(
        total=images, initial=done, desc="embed", unit=" images", smoothing=0.05, disable=not is_watched
    ) as bar:

        def advance(more: int) -> None:
            nonlocal now_done, last
            now_done += more
            bar.update(more)
            now = time.perf_counter()
            if not is_watched and now - last > LOG_SECONDS:
                last, per_second = now, (now_done - done) / (now - started)
                left = (images - now_done) / max(per_second, 1e-9)
                logger.info("%d of %d images, %.0f images/s, %.0f s left", now_done, images, per_second, left)

        yield advance
    seconds = max(time.perf_counter() - started, 1e-9)
    logger.info("%d images in %.1f s, %.1f images/s", now_done - done, seconds, (now_done - done) / seconds)
