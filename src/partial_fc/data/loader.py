"""Batches of decoded images, made by a pool of threads ahead of their use.

Threads, not processes: reading and decoding leave Python's lock, which is then free for nine tenths of the
time, and threads write their pixels where they are wanted. Processes take no lock, and hand their batches over
by a copy out of shared memory and messages: `benchmarks/data.py` measures both, and two of either are as fast.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np

from partial_fc.augmentation import Augmentation
from partial_fc.data.augment import Augmenter, Change
from partial_fc.data.batch import Batch, check_state
from partial_fc.data.decode import DecodeError, decode
from partial_fc.data.order import EpochOrder
from partial_fc.data.source import ImageSource

log = logging.getLogger("partial_fc")

_REPLACED_LIMIT = 0.01  # of the images that a rank reads in an epoch
# A task costs some 30 µs and an image of 112×112 some 115; the steps of many images at once stay in the caches.
_IMAGES_A_TASK = (8, 64)  # at least, at most: a batch for all threads, where it is large enough


class _Pending(NamedTuple):
    batch: Batch
    tasks: list[Future[list[str]]]


class TrainingLoader:
    """Batches of one rank's part of `source`, shuffled anew each epoch, without end: a `Loader`.

    The content of a batch depends on (source, seed, batch size, rank, ranks) alone, not on the number of
    threads, and what `augmentation` does to each image on (seed, epoch, image). `prefetch` batches beyond the
    one asked for are in the making at any time; each lies in an array of its own, which belongs to whom it is
    handed to.

    An image that does not decode is named in the log and replaced by the next one of the source that does;
    `replaced` counts these. When they are more than 1 % of the images that this rank reads in an epoch,
    `next_batch` raises ValueError. Other errors of the source are raised by `next_batch` as they are.

    image_size: (height, width), or one number for a square. Raises ValueError when an epoch has fewer images
    than one update of all ranks, and for a size below 1. order: which images a batch has, where it is not that
    of all images; the four sizes and seeds before it are then its own. Closing the source is left to the caller.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        batch_size: int,
        image_size: int | tuple[int, int],
        rank: int = 0,
        ranks: int = 1,
        seed: int = 0,
        threads: int = 2,
        augmentation: Augmentation = Augmentation(),  # noqa: B008, it is frozen
        prefetch: int = 2,
        order: EpochOrder | None = None,
    ):
        if threads < 1:
            raise ValueError(f"decoding takes at least 1 thread, got {threads}")
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if min(self.image_size) < 1:
            raise ValueError(f"the image size is at least 1 pixel, got {image_size}")
        if order is None:
            order = EpochOrder(len(source), batch_size=batch_size, rank=rank, ranks=ranks, seed=seed)
        self._order = order
        self._source = source
        self._augmentation = augmentation
        self._augmenter = Augmenter(augmentation, order.seed)
        self._prefetch = prefetch
        least, most = _IMAGES_A_TASK
        self._images_a_task = min(max(-(-batch_size // threads), least), most)
        self._max_replaced = int(_REPLACED_LIMIT * batch_size * self._order.updates_per_epoch)
        self.replaced = 0
        self._replaced_in_epoch = 0
        self._handed_out = (0, 0)  # epoch, images of it
        self._next_start = (0, 0)
        self._pending: deque[_Pending] = deque()
        cv2.setNumThreads(1)  # images are what is done in parallel: OpenCV's own threads get in the way
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    @property
    def updates_per_epoch(self) -> int:
        return self._order.updates_per_epoch

    def __enter__(self) -> TrainingLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def next_batch(self) -> Batch:
        """The next batch; waits for it where it is not ready. An error is raised again by later calls."""
        while len(self._pending) <= self._prefetch:
            self._begin_batch()
        batch, tasks = self._pending[0]
        failures = [failure for task in tasks for failure in task.result()]
        same_epoch = batch.epoch == self._handed_out[0]
        replaced_in_epoch = len(failures) + (self._replaced_in_epoch if same_epoch else 0)
        for failure in failures:
            log.warning("%s: the next image takes its place", failure)
        if failures and replaced_in_epoch > self._max_replaced:
            raise self._too_many(replaced_in_epoch, failures[-1])
        self._pending.popleft()
        self._replaced_in_epoch = replaced_in_epoch
        self.replaced += len(failures)
        self._handed_out = batch.epoch, batch.position + self._order.global_batch
        return batch

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on after the last batch handed out, on any number of ranks."""
        epoch, position = self._handed_out
        return {
            "images": self._order.num_images,
            "seed": self._order.seed,
            "epoch": epoch,
            "position": position,
            "replaced": self.replaced,
            "replaced_in_epoch": self._replaced_in_epoch,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken, within the epoch: no image of it is repeated or lost.

        Raises ValueError when the state belongs to data of another number of images or to another seed, which
        have another order.
        """
        check_state(state, images=self._order.num_images, seed=self._order.seed)
        self._cancel()
        self._handed_out = state["epoch"], state["position"]
        self._next_start = self._order.update_at(*self._handed_out)
        self.replaced = state["replaced"]
        self._replaced_in_epoch = state["replaced_in_epoch"]

    def close(self) -> None:
        """Ends the threads, after the image that each is at."""
        self._cancel()
        self._pool.shutdown(wait=True)

    def _cancel(self) -> None:
        for _, tasks in self._pending:
            for task in tasks:
                task.cancel()
        self._pending.clear()

    def _begin_batch(self) -> None:
        epoch, position = self._next_start
        indices_B = self._order.indices(epoch, position)
        size = len(indices_B)
        draws_B = self._draws_of(indices_B)
        mirrored_B = self._mirror_flags(epoch, indices_B) if self._augmentation.mirror else np.zeros(size, bool)
        images_BHWC = np.empty((size, *self.image_size, 3), np.uint8)
        batch = Batch(images_BHWC, np.empty(size, np.int64), epoch, position, indices_B)
        tasks = [
            self._pool.submit(self._fill, batch, draws_B, mirrored_B, slice(start, start + self._images_a_task))
            for start in range(0, size, self._images_a_task)
        ]
        self._pending.append(_Pending(batch, tasks))
        self._next_start = self._order.update_at(epoch, position + self._order.global_batch)

    def _mirror_flags(self, epoch: int, indices_B: np.ndarray) -> np.ndarray:
        return self._augmenter.mirrored(epoch, self._draws_of(indices_B))

    def _draws_of(self, indices_B: np.ndarray) -> np.ndarray:
        """The number by which the random changes of each row are drawn: its image's."""
        return indices_B

    def _fill(self, batch: Batch, draws_B: np.ndarray, mirrored_B: np.ndarray, rows: slice) -> list[str]:
        """Decodes the images of `rows` into the batch; what each row that did not decode has to say."""
        failures: list[str] = []
        labels = []
        indices, mirrored = batch.indices_B[rows].tolist(), mirrored_B[rows].tolist()
        changes = self._augmenter.changes(batch.epoch, draws_B[rows])
        # All are read before one is decoded: a decoding drives the reader's code out of the caches.
        encoded = [self._source.read(index) for index in indices]
        images_BHWC = batch.images_BHWC[rows]
        for index, (image_bytes, label), mirror, out_HWC in zip(indices, encoded, mirrored, images_BHWC, strict=True):
            try:
                decode(image_bytes, self.image_size, mirror=mirror, out_HWC=out_HWC)
            except DecodeError as error:
                failures.append(f"{self._source.where(index)} {error}")
                if len(failures) > self._max_replaced:
                    return failures  # `next_batch` refuses the batch whatever the other rows hold
                label = self._replace(index, mirror, out_HWC)
            labels.append(label)
        batch.labels_B[rows] = labels
        for row, changes_of_image in changes.items():
            _change(images_BHWC[row], changes_of_image)
        return failures

    def _replace(self, index: int, mirror: bool, out_HWC: np.ndarray) -> int:
        """Decodes the first image after `index` that does; its label."""
        for distance in range(1, self._max_replaced + 2):
            candidate = (index + distance) % len(self._source)
            image_bytes, label = self._source.read(candidate)
            try:
                decode(image_bytes, self.image_size, mirror=mirror, out_HWC=out_HWC)
                return label
            except DecodeError as error:
                failure = f"{self._source.where(candidate)} {error}"
        raise self._too_many(self._max_replaced + 1, failure)

    def _too_many(self, count: int, failure: str) -> ValueError:
        return ValueError(
            f"{count} images of this epoch did not decode, more than 1 % of those a rank reads in it: the "
            f"last is {failure}; repair the data or take these images out"
        )


def _change(image_HWC: np.ndarray, changes: Sequence[Change]) -> None:
    """Makes the changes of an image in its place."""
    changed_HWC = image_HWC
    for change in changes:
        changed_HWC = change(changed_HWC)
    image_HWC[...] = changed_HWC
