"""How a run begins with what another one has learned: its backbone, its class centers.

Legend: C identities of this run, D embedding size, B images of a batch of a rank, R ranks, S new identities of a rank.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mxnet as mx
import numpy as np

from partial_fc.backbone import Backbone
from partial_fc.checkpoint.reader import SavedCheckpoint
from partial_fc.checkpoint.run_parts import assign
from partial_fc.checkpoint.settled_rows import SettledRows
from partial_fc.collectives import Collectives, together
from partial_fc.data.decode import DecodeError, decode
from partial_fc.data.source import ImageSource
from partial_fc.head.centers import ClassCenters
from partial_fc.head.initialization import INITIAL_DEVIATION, initial_rows
from partial_fc.params_file import model_files, read_params

logger = logging.getLogger("partial_fc")

NEW = -1
"""Stands for the old label of an identity that has none."""

_LINE = re.compile(r"(\d{1,18})\s+(\d{1,18})")
_LARGEST_LIST = 1 << 32
_ROWS_AT_ONCE = 4096


def load_pretrained(backbone: Backbone, model: str) -> None:
    """Gives a backbone the parameters and statistics of ``PREFIX,EPOCH``: of this project, or InsightFace's.

    What the file holds beyond the backbone, such as a classifier, is left out.

    Raises:
        ValueError: the file is damaged or of another network.
    """
    _, path = model_files(model)
    saved = {name.removeprefix("arg:").removeprefix("aux:"): array for name, array in read_params(path).items()}
    ours = backbone.parameters | backbone.statistics
    assign({name: array for name, array in saved.items() if name in ours}, ours, f"the parameters in {path}")


def read_identities(path: Path, classes: int, old_classes: int) -> np.ndarray:
    """Reads which identities of this run are which of a checkpoint.

    Args:
        path: a line ``LABEL OLD_LABEL`` for each identity that is kept; empty lines and lines after # say nothing.
            Identities of this run in no line are new, those of the checkpoint in no line are removed.
        classes: C, of this run.
        old_classes: of the checkpoint.

    Returns:
        (C,) int64, the old label of each identity, or ``NEW``.

    Raises:
        ValueError: a line is none, or a label does not exist or comes twice; the message names file and line.
    """
    old_C = np.full(classes, NEW, np.int64)
    used = np.zeros(old_classes, bool)
    if path.stat().st_size > _LARGEST_LIST:
        raise ValueError(f"{path} is too large for a list of identities")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(iter(lambda: file.readline(1000), ""), start=1):
            text = text.partition("#")[0].strip()
            match = _LINE.fullmatch(text)
            if not text:
                continue
            if match is None:
                raise ValueError(f"{path}, line {number}, must read `LABEL OLD_LABEL`, but is {text[:80]!r}")
            label, old = int(match[1]), int(match[2])
            if label >= classes or old >= old_classes:
                raise ValueError(
                    f"{path}, line {number}: {text!r} names an identity that there is not: this run has {classes}, "
                    f"the checkpoint {old_classes}"
                )
            if old_C[label] != NEW or used[old]:
                raise ValueError(f"{path}, line {number}: {text!r} names an identity that an earlier line has named")
            old_C[label], used[old] = old, True
    return old_C


def same_labels(classes: int, old_classes: int) -> np.ndarray:
    """(C,) int64: every identity of a checkpoint keeps its label, and what is beyond them is new.

    Raises:
        ValueError: this run has fewer identities than the checkpoint.
    """
    if classes < old_classes:
        raise ValueError(
            f"this run has {classes} identities and the checkpoint {old_classes}: say which ones are kept, and their "
            "labels, by a file (--identities)"
        )
    return np.where(np.arange(classes) < old_classes, np.arange(classes), NEW)


@dataclass
class CentersStart:
    """Class centers that begin as those of a checkpoint; their momentum begins at zero.

    Args:
        centers: of this rank.
        old_C: (C,) int64, the label that each identity had in the checkpoint, or ``NEW``.
        collectives: the ranks.
    """

    centers: ClassCenters
    old_C: np.ndarray
    collectives: Collectives

    def put_old(self, checkpoint: SavedCheckpoint) -> None:
        """Gives this rank's old identities their rows, one block in memory at a time.

        Raises:
            RankError: on every rank, when the checkpoint does not hold them.
        """
        with together(self.collectives, "fine-tune.centers"):
            size = checkpoint.part("centers").values.get("embedding_size")
            if size != self.centers.embedding_size:
                raise ValueError(
                    f"the class centers of {checkpoint.directory} have {size} numbers, but --embedding-size is "
                    f"{self.centers.embedding_size}"
                )
            settled = SettledRows(checkpoint.part("centers"))
            missing = self._put_saved(settled)
            if len(missing):
                self._put_untouched(checkpoint, settled, missing)

    def _put_saved(self, settled: SettledRows) -> np.ndarray:
        """Puts the rows that were saved; returns this rank's rows, ascending, whose identity had none."""
        old_R = self._own_old()
        row_K = np.flatnonzero(old_R != NEW)
        row_K = row_K[np.argsort(old_R[row_K], kind="stable")]
        old_K = old_R[row_K]
        put = np.zeros(len(old_R), bool)
        if len(old_K):
            for numbers_B, arrays in settled.rows(int(old_K[0]), int(old_K[-1]) + 1):
                begin, end = np.searchsorted(old_K, [numbers_B[0], numbers_B[-1] + 1])
                place = np.searchsorted(numbers_B, old_K[begin:end])
                found = numbers_B[place] == old_K[begin:end]
                rows, place = row_K[begin:end][found], place[found]
                order = np.argsort(rows)
                if len(order):
                    self._put(rows[order], arrays["weight"][place[order]])
                    put[rows] = True
        return np.flatnonzero((old_R != NEW) & ~put)

    def _put_untouched(self, checkpoint: SavedCheckpoint, settled: SettledRows, rows: np.ndarray) -> None:
        """Rows that no update of the other run has touched begin as they began there."""
        config = checkpoint.manifest.description.get("config")
        seed = config.get("seed") if isinstance(config, dict) else None
        if type(seed) is not int:
            raise ValueError(
                f"{checkpoint.directory} lacks rows of identities that are kept, and does not say the seed of such rows"
            )
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            old_B = self._own_old()[part]
            initial_BD = initial_rows(seed, old_B, self.centers.embedding_size)
            self._put(part, settled.untouched(old_B, initial_BD).arrays["weight"])

    def put_new(self, backbone: Backbone, source: ImageSource | None, threads: int) -> int:
        """Gives new identities the mean of their images' embeddings, at the mean length of the old rows.

            w = n · m/|m|     m: mean of x/|x| over the identity's images; n: mean |w| of all old rows

        An identity without an image that decodes begins as in any other run. The images are divided among the ranks
        evenly, whoever owns the identity: one all-gather of B·(D + 1) numbers for every B images of a rank.

        Returns:
            How many new identities there are, on all ranks.
        """
        new = np.flatnonzero(self.old_C == NEW)
        if len(new) == 0 or source is None:
            return len(new)
        length = self._mean_length()
        first, count = self.centers.first_class, self.centers.count
        own_S = new[(new >= first) & (new < first + count)]
        sum_SD = np.zeros((len(own_S), self.centers.embedding_size), np.float64)
        for unit_ND, label_N in _embeddings(backbone, source, self.old_C == NEW, threads, self.collectives):
            mine = np.flatnonzero((label_N >= first) & (label_N < first + count))
            np.add.at(sum_SD, np.searchsorted(own_S, label_N[mine]), unit_ND[mine])
        norm_S = np.linalg.norm(sum_SD, axis=1)
        seen = np.flatnonzero(norm_S > 0)
        for start in range(0, len(seen), _ROWS_AT_ONCE):
            part = seen[start : start + _ROWS_AT_ONCE]
            rows_BD = (sum_SD[part] * (length / norm_S[part, None])).astype(np.float32)
            self._put(own_S[part] - first, rows_BD)
        return len(new)

    def _own_old(self) -> np.ndarray:
        return self.old_C[self.centers.first_class : self.centers.first_class + self.centers.count]

    def _put(self, rows_B: np.ndarray, weight_BD: np.ndarray) -> None:
        self.centers.put_rows(rows_B, {"weight": weight_BD})

    def _mean_length(self) -> float:
        """Of the old rows of all ranks; of a row as it begins where none is kept."""
        rows = np.flatnonzero(self._own_old() != NEW)
        total = sum(self.centers.lengths(rows[i : i + _ROWS_AT_ONCE]).sum() for i in range(0, len(rows), _ROWS_AT_ONCE))
        sums = self.collectives.gather_objects((float(total), len(rows)), "fine-tune.length")
        kept = sum(count for _, count in sums)
        start = INITIAL_DEVIATION * self.centers.embedding_size**0.5
        return sum(part for part, _ in sums) / kept if kept else start


def _embeddings(
    backbone: Backbone, source: ImageSource, wanted_C: np.ndarray, threads: int, collectives: Collectives
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(unit embeddings (N, D), labels (N,)) of all images with a wanted label, N = B·R at a time, on every rank."""
    indices = np.empty(0, np.int64)
    with together(collectives, "fine-tune.labels"):
        label_N = source.labels()
        if len(label_N) and not 0 <= label_N.min() <= label_N.max() < len(wanted_C):
            raise ValueError(f"{source.name} has labels outside [0, {len(wanted_C)})")
        indices = np.flatnonzero(wanted_C[label_N])
    b, step = backbone.batch_size, backbone.batch_size * collectives.size
    shape = (b, backbone.image_size, backbone.image_size, 3)
    broken = 0
    with ThreadPoolExecutor(threads) as pool, backbone.averaged_statistics():
        for start in range(0, len(indices), step):
            own = indices[start + collectives.rank * b : start + (collectives.rank + 1) * b]
            images_BHWC, label_B = np.zeros(shape, np.uint8), np.full(b, NEW, np.int64)
            with together(collectives, "fine-tune.images"):
                labels = pool.map(partial(_load, source), own.tolist(), images_BHWC)
                label_B[: len(own)] = list(labels)
            broken += int((label_B[: len(own)] == NEW).sum())
            embedding_BD = mx.nd.array(backbone.embed(images_BHWC))
            embedding_ND = collectives.all_gather(embedding_BD, "fine-tune.embeddings").asnumpy().astype(np.float64)
            label_all = collectives.all_gather(mx.nd.array(label_B, dtype="int64"), "fine-tune.image_labels").asnumpy()
            norm_N1 = np.linalg.norm(embedding_ND, axis=1, keepdims=True)
            known = np.flatnonzero((label_all != NEW) & np.isfinite(norm_N1[:, 0]) & (norm_N1[:, 0] > 0))
            yield embedding_ND[known] / norm_N1[known], label_all[known]
    if broken:
        logger.warning("rank %d: %d images of new identities did not decode and are left out", collectives.rank, broken)


def _load(source: ImageSource, index: int, out_HWC: np.ndarray) -> int:
    """Decodes an image; its label, or ``NEW`` where it does not decode."""
    image_bytes, label = source.read(index)
    try:
        decode(image_bytes, out_HWC.shape[:2], out_HWC=out_HWC)
    except DecodeError:
        return NEW
    return label
