"""Labels past 2^24, where a float32 no longer tells neighbours apart: from the file to the class centers."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from partial_fc.collectives import SingleProcess
from partial_fc.data.loader import TrainingLoader
from partial_fc.data.open_source import open_source
from partial_fc.data.record_writer import RecordWriter
from partial_fc.head.margin import Margin
from partial_fc.head.partial_fc import PartialFC
from partial_fc.step import exchange_labels

NUM_IDENTITIES = (1 << 24) + 7
LABELS = [(1 << 24) - 1, 1 << 24, (1 << 24) + 1, (1 << 24) + 3, 3, (1 << 24) + 6]


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    path = tmp_path / "train.rec"
    with RecordWriter(path, (16, 16), in_order=False) as writer:
        for label in LABELS:
            pixels_HWC = np.full((16, 16, 3), 40 * LABELS.index(label), np.uint8)
            writer.add(cv2.imencode(".png", pixels_HWC)[1].tobytes(), label)
    return path


def test_they_are_exact_from_the_file_to_the_sampled_centers(rec: Path) -> None:
    with closing(open_source(rec)) as source:
        assert (source.labels().tolist(), source.num_identities) == (LABELS, NUM_IDENTITIES)
        with TrainingLoader(source, batch_size=6, image_size=16) as loader:
            batch = loader.next_batch()
        shades = batch.images_BHWC.reshape(6, -1).max(axis=1) // 40
        assert batch.labels_B.tolist() == [LABELS[shade] for shade in shades]
        num_classes = source.num_identities
    collectives = SingleProcess()
    label_N, _ = exchange_labels(collectives, batch, None, batch_size=6)
    assert label_N.tolist() == batch.labels_B.tolist()
    head = PartialFC(num_classes, 1, collectives, margin=Margin(1.0, 0.0, 0.4), sample_ratio=1e-5)
    sample = head.sample(label_N, update=0)
    assert {*LABELS} <= {*sample.row_S.tolist()}
    assert (sample.row_S < num_classes).all()
