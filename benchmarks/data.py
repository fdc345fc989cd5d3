"""How fast training images are read and decoded, beside decoding alone, in one run.

    python benchmarks/data.py [--rec FILE] [--json] [--rounds 15]
    python benchmarks/data.py --records 17000000          opening a set of that size instead: seconds and memory

Each round measures every way once, in an order of its own, over the same images; what is told are medians. With
`--others 0.1` a way is measured again where other programs used more than a tenth of a core meanwhile.

    decode_only    cv2.imdecode of bytes in memory, one thread: what libjpeg-turbo does
    decode_2       the same by two threads: what two workers could do at most on this machine
    rec_1, rec_2   this project's loader from .rec with 1 and 2 workers, batches uint8 RGB (B, H, W, 3), mirrored
    lmdb_2, folder_2
    processes_1, processes_2    the same work by processes that write into shared memory
    plain          a loop: mx.recordio, decode, cvtColor, flip, np.stack
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import islice
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import psutil
from data_open import measure_opening
from results import quantiles, write_results

from partial_fc.data.augment import mirror_flags
from partial_fc.data.decode import decode
from partial_fc.data.folder import FolderSource
from partial_fc.data.lmdb_source import LmdbSource
from partial_fc.data.lmdb_writer import LmdbWriter
from partial_fc.data.loader import TrainingLoader
from partial_fc.data.order import EpochOrder
from partial_fc.data.records import RecordSource
from partial_fc.data.source import ImageSource
from partial_fc.data.synthetic_faces import write_synthetic_faces

WAYS = "decode_only decode_2 rec_1 rec_2 lmdb_2 folder_2 processes_1 processes_2 plain".split()
SIDE = 112
FACES = {"identities": 128, "images_per_identity": 20, "held_out_identities": 20, "pairs": 20}
IMAGES_A_TASK = 64  # of a process; the same as a thread takes here
ATTEMPTS = 40

Way = Callable[[], int]  # goes over the images of a round, and returns how many these were


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rec", type=Path, help="images to read; otherwise synthetic faces are drawn")
    parser.add_argument("--images", type=int, default=2560, help="of a way and round (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--others", type=float, metavar="SHARE", help="largest share of a core that others may use")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--csv", action="store_true", help="write benchmarks/results/data.csv")
    parser.add_argument("--records", type=int, metavar="N", help="measure the opening of a set of N records instead")
    return parser.parse_args()


def write_formats(rec: RecordSource, images: int, folder: Path) -> None:
    """The first `images` images as `lmdb` and as `folders` below `folder`."""
    with LmdbWriter(folder / "lmdb") as writer:
        for index in range(images):
            image_bytes, label = rec.read(index)
            writer.add(image_bytes, label)
            path = folder / "folders" / f"{label:08d}" / f"{index:08d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image_bytes)


class FirstImages:
    """The first `count` images of a source, so that every way goes over the same ones."""

    def __init__(self, source: ImageSource, count: int):
        self.name, self.num_identities = source.name, source.num_identities
        self.read, self.where = source.read, source.where
        self._count = count

    def __len__(self) -> int:
        return self._count


def decode_way(encoded: list[np.ndarray], threads: int) -> Way:
    pool = ThreadPoolExecutor(threads)
    parts = [encoded[part::threads] for part in range(threads)]

    def decode_part(part: list[np.ndarray]) -> None:
        for data in part:
            cv2.imdecode(data, cv2.IMREAD_COLOR)

    def go() -> int:
        if threads == 1:
            decode_part(encoded)
        else:
            list(pool.map(decode_part, parts))
        return len(encoded)

    return go


def loader_way(source: ImageSource, workers: int, given: argparse.Namespace, resources: ExitStack) -> Way:
    loader = TrainingLoader(
        FirstImages(source, given.images), batch_size=given.batch_size, image_size=SIDE, threads=workers, prefetch=0
    )
    resources.enter_context(closing(loader))
    resources.callback(source.close)

    def go() -> int:
        # Started and emptied within the time: nothing is made ahead of it, nothing is left at its end.
        loader._prefetch = 2
        batches = loader.updates_per_epoch
        for left in range(batches, 0, -1):
            loader._prefetch = min(2, left - 1)
            loader.next_batch()
        return batches * given.batch_size

    return go


def plain_way(rec: Path, given: argparse.Namespace) -> Way:
    """One thread, one image after the other, as one would write it first."""
    reader = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "r")
    generator = random.Random(1)

    def batches() -> Iterator[np.ndarray]:
        keys = list(range(1, given.images + 1))
        generator.shuffle(keys)
        for start in range(0, len(keys) - given.batch_size + 1, given.batch_size):
            images, labels = [], []
            for key in keys[start : start + given.batch_size]:
                header, image_bytes = mx.recordio.unpack(reader.read_idx(key))
                image = cv2.imdecode(np.frombuffer(image_bytes, np.uint8), cv2.IMREAD_COLOR)
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                if generator.random() < 0.5:
                    image = cv2.flip(image, 1)
                images.append(image)
                labels.append(header.label)
            yield np.stack(images)

    return lambda: sum(len(batch) for batch in batches())


# ---- processes in place of threads ----

_process: dict[str, object] = {}


def start_process(rec: str, memory: str, shape: tuple[int, ...]) -> None:
    cv2.setNumThreads(1)
    shared = SharedMemory(memory)
    _process.update(source=RecordSource(rec), shared=shared, slots=np.ndarray(shape, np.uint8, shared.buf))


def fill_in_process(slot: int, start: int, indices: list[int], mirrored: list[bool]) -> list[int]:
    source, slots = _process["source"], _process["slots"]
    encoded = [source.read(index) for index in indices]
    for row, ((image_bytes, _), mirror) in enumerate(zip(encoded, mirrored, strict=True), start):
        decode(image_bytes, (SIDE, SIDE), mirror=mirror, out_HWC=slots[slot, row])
    return [label for _, label in encoded]


def processes_way(rec: Path, workers: int, given: argparse.Namespace, resources: ExitStack) -> Way:
    """Batches in three slots of shared memory, each copied out for whoever takes it, as the loader hands them over."""
    shape = (3, given.batch_size, SIDE, SIDE, 3)
    memory = SharedMemory(create=True, size=int(np.prod(shape)))
    resources.callback(memory.unlink)
    slots = np.ndarray(shape, np.uint8, memory.buf)
    pool = multiprocessing.get_context("spawn").Pool(workers, start_process, (str(rec), memory.name, shape))
    resources.callback(pool.join)
    resources.callback(pool.terminate)
    order = EpochOrder(given.images, batch_size=given.batch_size)

    def begin(update: int) -> tuple[int, list]:
        slot, indices_B = update % 3, order.indices(0, update * given.batch_size)
        mirrored_B = mirror_flags(0, 0, indices_B)
        tasks = []
        for start in range(0, given.batch_size, IMAGES_A_TASK):
            rows = slice(start, start + IMAGES_A_TASK)
            task = slot, start, indices_B[rows].tolist(), mirrored_B[rows].tolist()
            tasks.append(pool.apply_async(fill_in_process, task))
        return slot, tasks

    def go() -> int:
        updates = iter(range(order.updates_per_epoch))
        pending = [begin(update) for update in islice(updates, 3)]
        while pending:
            slot, tasks = pending.pop(0)
            labels_B = np.array([label for task in tasks for label in task.get(600)], np.int64)
            images_BHWC = slots[slot].copy()
            assert len(labels_B) == len(images_BHWC)
            pending += [begin(update) for update in islice(updates, 1)]
        return order.updates_per_epoch * given.batch_size

    return go


# ---- measuring ----


def busy_seconds() -> tuple[float, float]:
    """(processor seconds that the machine has worked, those of this program and its processes)."""
    times, own = psutil.cpu_times(), psutil.Process()
    machine = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
    processes = [process.cpu_times() for process in [own, *own.children(recursive=True)]]
    return machine, sum(process.user + process.system for process in processes)


def measure_alone(way: Way, largest_share: float | None) -> tuple[float, float]:
    """(images a second, the share of a core that other programs used meanwhile).

    Repeated while that share is above the largest one, forty times at most; the run with the least of it counts.
    """
    runs = []
    for _ in range(1 if largest_share is None else ATTEMPTS):
        machine, own = busy_seconds()
        start = time.perf_counter()
        images = way()
        seconds = time.perf_counter() - start
        machine_after, own_after = busy_seconds()
        runs.append((max(0.0, machine_after - machine - (own_after - own)) / seconds, images / seconds))
        if largest_share is not None and runs[-1][0] <= largest_share:
            break
    share, speed = min(runs)
    return speed, share


def measure_round(ways: dict[str, Way], largest_share: float | None) -> tuple[dict[str, float], float]:
    """(images a second of each way, the mean share of others), the ways in a random order."""
    measured = {name: measure_alone(ways[name], largest_share) for name in random.sample(list(ways), len(ways))}
    return {name: speed for name, (speed, _) in measured.items()}, statistics.mean(s for _, s in measured.values())


def measure(given: argparse.Namespace, folder: Path) -> dict[str, object]:
    if given.rec is None:
        given.rec = folder / "faces" / "train.rec"
        write_synthetic_faces(given.rec.parent, workers=os.cpu_count() or 1, **FACES)
    with ExitStack() as resources:
        rec = RecordSource(given.rec)
        given.images = min(given.images, len(rec)) // given.batch_size * given.batch_size
        write_formats(rec, given.images, folder)
        encoded = [np.frombuffer(rec.read(index)[0], np.uint8) for index in range(given.images)]
        ways = {
            "decode_only": decode_way(encoded, 1),
            "decode_2": decode_way(encoded, 2),
            "rec_1": loader_way(RecordSource(given.rec), 1, given, resources),
            "rec_2": loader_way(rec, 2, given, resources),
            "lmdb_2": loader_way(LmdbSource(folder / "lmdb", folder / "lmdb" / "keys.txt"), 2, given, resources),
            "folder_2": loader_way(FolderSource(folder / "folders"), 2, given, resources),
            "processes_1": processes_way(given.rec, 1, given, resources),
            "processes_2": processes_way(given.rec, 2, given, resources),
            "plain": plain_way(given.rec, given),
        }
        assert list(ways) == WAYS
        measure_round(ways, None)  # warms up
        rounds, others = [], []
        for _ in range(given.rounds):
            speeds, share = measure_round(ways, given.others)
            rounds.append(speeds)
            others.append(share)
    return summary(rounds, others) | {
        "images": given.images,
        "bytes_an_image": statistics.mean(map(len, encoded)),
        "batch_size": given.batch_size,
    }


def summary(rounds: list[dict[str, float]], others: list[float]) -> dict[str, object]:
    """Medians of the speeds; ratios are medians of the ratios of a round."""

    def ratio(name: str, other: str) -> float:
        return statistics.median(speeds[name] / speeds[other] for speeds in rounds)

    return {
        **{name: statistics.median(speeds[name] for speeds in rounds) for name in WAYS},
        "one_worker_over_decoding": ratio("rec_1", "decode_only"),
        "two_workers_over_one": ratio("rec_2", "rec_1"),
        "decoding_by_two_over_one": ratio("decode_2", "decode_only"),
        "rounds": len(rounds),
        "others_share_of_a_core": statistics.median(others),
        "quantiles": {name: quantiles(name, [speeds[name] for speeds in rounds]) for name in WAYS},
    }


def main() -> int:
    given = parse()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="partial-fc-data-") as folder:
        if given.records is not None:
            found = measure_opening(given.records, Path(folder))
        else:
            found = measure(given, Path(folder))
    spread = found.pop("quantiles", {})
    if given.csv:
        name = "data" if given.records is None else "data_open"
        row = {key: value for key, value in found.items() if key not in spread}
        write_results(name, [row | {key: value for part in spread.values() for key, value in part.items()}])
    if given.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:<26} {value:,.3f}" if isinstance(value, float) else f"{key:<26} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
