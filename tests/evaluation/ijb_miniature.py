"""A miniature of IJB-C's folder, in the official formats, and models that need no network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from partial_fc.collectives import Collectives, SingleProcess
from partial_fc.evaluation.embedder import Embedder

# image, template, medium
MEDIA = """1.jpg 10 100
2.jpg 10 101
3.jpg 10 101
4.jpg 11 102
5.jpg 12 103
6.jpg 12 104
7.jpg 13 105
8.jpg 14 106
9.jpg 15 107
10.jpg 15 107
11.jpg 16 108
"""
PAIRS = """10 13 1
11 14 1
12 15 1
10 14 0
10 15 0
11 13 0
11 15 0
12 13 0
12 14 0
10 16 1
"""
TITLES = "TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X\n"
GALLERY_1 = TITLES + "10,7,img/1.jpg,3\n10,7,frames/2.png,4\n10,7,frames/3.png,4\n"
GALLERY_2 = TITLES + "11,8,img/4.jpg,3\n12,9,img/5.jpg,3\n12,9,img/6.jpg,3\n"
PROBES = TITLES + "13,7,a,1\n14,8,b,1\n15,9,c,1\n15,9,d,1\n16,7,e,1\n"

_TEMPLATE = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])


class TinyModel:
    """Embeds by the mean colours of 3 × 3 fields, less a middle gray."""

    batch_size, image_size, embedding_size = 4, 112, 27

    def embed(self, images_BHWC: np.ndarray) -> np.ndarray:
        fields = images_BHWC[:, :111, :111].reshape(-1, 3, 37, 3, 37, 3).mean(axis=(2, 4), dtype=np.float64)
        return (fields.reshape(-1, 27) - 120.5).astype(np.float32) / 64


def tiny_embedder(collectives: Collectives | None = None) -> Embedder:
    return Embedder("tiny", TinyModel(), collectives or SingleProcess())


def write_image(path: Path, person: int, image: int, side: int = 112) -> None:
    """A person's picture with a little that is the image's own."""
    fields = np.random.default_rng(person).integers(0, 256, (3, 3, 3)).astype(float)
    fields += np.random.default_rng(1000 + image).normal(0, 12, fields.shape)
    pixels = cv2.resize(fields.clip(0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_ijb(folder: Path, kind: str = "ijbc") -> Path:
    """Seven templates of three people; their images are cropped loosely, and turned by their landmarks' doing."""
    people = [7, 7, 7, 8, 9, 9, 7, 8, 9, 9, 7]
    meta = folder / "meta"
    meta.mkdir(parents=True)
    (meta / f"{kind}_face_tid_mid.txt").write_text(MEDIA)
    (meta / f"{kind}_template_pair_label.txt").write_text(PAIRS)
    names = ("G1", "G2") if kind == "ijbc" else ("S1", "S2")
    for name, text in zip(names, (GALLERY_1, GALLERY_2), strict=True):
        (meta / f"{kind}_1N_gallery_{name}.csv").write_text(text)
    (meta / f"{kind}_1N_probe_mixed.csv").write_text(PROBES)
    lines = []
    for number, person in enumerate(people, 1):
        write_image(folder / "loose_crop" / f"{number}.jpg", person, number, side=150)
        points = (_TEMPLATE * 1.2 + 8 + number / 8).ravel()
        lines.append(f"{number}.jpg {' '.join(f'{p:.2f}' for p in points)} {0.5 + number / 30:.4f}\n")
    (meta / f"{kind}_name_5pts_score.txt").write_text("".join(lines))
    return folder
