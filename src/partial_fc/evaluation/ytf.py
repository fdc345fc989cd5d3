"""YouTube Faces: P pairs of videos in ten folds, each video judged by all its frames.

    x_f   = e_f / |e_f|                                  of frame f; e_f the sum over views
    d     = |m_1/|m_1| − m_2/|m_2||²                     mean over frames: m the mean of a video's x_f
    d     = mean over f, g of |x_f − y_g|² = 2 − 2<m_1, m_2>      mean over frame pairs

`splits.txt`: a heading, then `split, pair, NAME/VIDEO, NAME/VIDEO, …, is same` a line; the last column of
`splits_corrected.txt` is the corrected one. Frames lie in `images/NAME/VIDEO/`.

F frames of some videos, W videos, D the embedding size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partial_fc.collectives import together
from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.embedding import flip_sum, unit_rows
from partial_fc.evaluation.images import NAMED_AT_MOST, ImageFiles, load_pixels
from partial_fc.evaluation.pair_images import distinct
from partial_fc.evaluation.pair_lists import PairList
from partial_fc.evaluation.targets import Settings, Target, TargetKind, TargetResult, TargetSpec
from partial_fc.evaluation.verification_target import PICTURE_SIZE, judge, verification_result
from partial_fc.evaluation.worst_pairs import draw_pairs, worst_pairs

FRAMES_AT_ONCE = 65_536
"""What is embedded between two sums: 256 MiB of two views at D = 512, for 621,126 frames in all."""

_FRAME = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Videos:
    """W videos: their names, and the frames of each in order."""

    names: list[str]
    frames: list[list[Path]]

    def chunks(self, frames_at_once: int) -> Iterator[range]:
        """Runs of whole videos of about so many frames."""
        start, frames = 0, 0
        for video, own in enumerate(self.frames):
            if frames and frames + len(own) > frames_at_once:
                yield range(start, video)
                start, frames = video, 0
            frames += len(own)
        yield range(start, len(self.frames))


def read_splits(path: Path) -> PairList:
    """The pairs of videos of `splits.txt`, fold after fold.

    Raises:
        ValueError: a line is of another form, or there are no pairs of a kind.
    """
    videos: list[str] = []
    is_same, folds = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        words = [word.strip() for word in line.split(",")]
        if not line.strip() or words[0].lower().startswith("split"):
            continue
        well_formed = len(words) >= 5 and words[0].isdecimal() and words[-1] in ("0", "1")
        if not well_formed or not all("/" in word for word in words[2:4]):
            raise ValueError(f"{path}: line {number} must be `split, pair, NAME/VIDEO, NAME/VIDEO, is same`")
        folds.append(int(words[0]))
        videos += words[2:4]
        is_same.append(words[-1] == "1")
    order = np.argsort(folds, kind="stable")
    in_order = [videos[2 * pair + half] for pair in order for half in (0, 1)]
    return PairList(str(path), in_order, np.array(is_same, bool)[order], np.array(folds, np.int64)[order])


def find_videos(name: str, names: Sequence[str], images: Path, frames_at_most: int) -> Videos:
    """The frames of each video in the order of their numbers, `frames_at_most` of them evenly spread (0: all).

    Raises:
        FileNotFoundError: videos have no frames, all of them told in one message.
    """
    frames = [_frames_of(images / video, frames_at_most) for video in names]
    empty = [video for video, own in zip(names, frames, strict=True) if not own]
    if empty:
        shown = ", ".join(empty[:NAMED_AT_MOST])
        more = f", … and {len(empty) - NAMED_AT_MOST} more" if len(empty) > NAMED_AT_MOST else ""
        raise FileNotFoundError(
            f"{name}: {len(empty)} of its {len(names)} videos have no frames in {images}: {shown}{more}"
        )
    return Videos(list(names), frames)


class YtfTarget(Target):
    """Pairs of videos.

    Args:
        mean_over: "frames" or "pairs" (of frames).
    """

    def __init__(
        self, name: str, kind: str, pairs: PairList, index_N: np.ndarray, videos: Videos, mean_over: str
    ) -> None:
        super().__init__(name)
        self.kind, self.pairs, self.index_N, self.videos = kind, pairs, index_N, videos
        self.mean_over = mean_over

    def evaluate(self, embedder: Embedder, settings: Settings) -> TargetResult:
        """See `Target`."""
        means, norms = [], 0.0
        for chunk in self.videos.chunks(FRAMES_AT_ONCE):
            frames = [path for video in chunk for path in self.videos.frames[video]]
            lengths = [len(self.videos.frames[video]) for video in chunk]
            embeddings_VFD = embedder.embed(ImageFiles(self.name, frames), flip=settings.flip)
            norms += float(np.linalg.norm(embeddings_VFD, axis=2).mean(axis=0, dtype=np.float64).sum())
            with together(embedder.collectives, f"frames.{self.name}"):
                means.append(video_means(embeddings_VFD, lengths))
        with together(embedder.collectives, f"verify.{self.name}"):
            frames = sum(map(len, self.videos.frames))
            result = self._judge(
                np.concatenate(means), norms / frames, settings, with_picture=embedder.collectives.rank == 0
            )
        return result

    def _judge(self, means_WD: np.ndarray, xnorm: float, settings: Settings, with_picture: bool) -> TargetResult:
        is_same_P = self.pairs.is_same
        distance_P = video_distances(means_WD, self.index_N, self.mean_over)
        verified = judge(self.name, distance_P, is_same_P, self.pairs.fold_P, xnorm, settings)
        pictures = {}
        if with_picture:
            pairs = worst_pairs(distance_P, is_same_P, verified.best_threshold)
            pictures["worst pairs"] = draw_pairs(pairs, distance_P, is_same_P, self._middle_frame)
        frames = sum(map(len, self.videos.frames))
        counts = {"pairs": len(is_same_P), "videos": len(self.videos.names), "images": frames}
        what = "a video's mean over its frames" if self.mean_over == "frames" else "the mean over pairs of frames"
        views = f"{what}; " + ("images and their mirrors summed" if settings.flip else "images alone, no mirrors")
        return verification_result(
            self.name, self.kind, views, counts, distance_P, is_same_P, verified, settings, pictures
        )

    def _middle_frame(self, pair: int, half: int) -> np.ndarray:
        frames = self.videos.frames[self.index_N[2 * pair + half]]
        return load_pixels(ImageFiles(self.name, [frames[len(frames) // 2]]), 0, PICTURE_SIZE)


def video_means(embeddings_VFD: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """(W, D) float64: the mean of the unit embeddings of each video's frames, which follow one another.

    Raises:
        ValueError: an embedding is zero or not finite.
    """
    unit_FD = unit_rows(flip_sum(embeddings_VFD))
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.add.reduceat(unit_FD, starts, axis=0) / np.asarray(lengths)[:, None]


def video_distances(means_WD: np.ndarray, index_N: np.ndarray, mean_over: str) -> np.ndarray:
    """`distance_P`, squared, of pairs of videos: of their unit mean embeddings, or the mean over frame pairs.

    Raises:
        ValueError: a video's mean embedding is zero.
    """
    if mean_over == "frames":
        means_WD = unit_rows(means_WD)
        return np.square(means_WD[index_N[0::2]] - means_WD[index_N[1::2]]).sum(axis=1)
    return 2 - 2 * np.einsum("pd,pd->p", means_WD[index_N[0::2]], means_WD[index_N[1::2]])


def _frames_of(folder: Path, at_most: int) -> list[Path]:
    if not folder.is_dir():
        return []
    frames = [path for path in folder.iterdir() if path.suffix.lower() in _FRAME]
    frames.sort(key=lambda path: ([int(number) for number in re.findall(r"\d+", path.stem)], path.name))
    if 0 < at_most < len(frames):
        frames = [frames[i] for i in np.linspace(0, len(frames) - 1, at_most).round().astype(int)]
    return frames


def _open(spec: TargetSpec) -> YtfTarget:
    images = spec.path_option("images")
    if images is None or not images.is_dir():
        raise FileNotFoundError(
            f"{spec.name} needs the folder of its videos: {spec.kind}={spec.path},images=aligned_images_DB"
        )
    frames_at_most = spec.options.get("frames", "0")
    if not frames_at_most.isdecimal():
        raise ValueError(f"{spec.name}: frames must be a whole number from 0 up (0: all), not {frames_at_most!r}")
    pairs = read_splits(spec.path)
    names, index_N = distinct(pairs.paths)
    videos = find_videos(spec.name, names, images, int(frames_at_most))
    return YtfTarget(spec.name, spec.kind, pairs, index_N, videos, spec.choice("mean", ("frames", "pairs")))


KINDS = {
    "ytf": TargetKind(
        _open,
        "splits.txt of YouTube Faces",
        {
            "images": "the folder with NAME/VIDEO/ and the frames, aligned",
            "mean": "`frames` (a video is its mean embedding) or `pairs` (the mean over all pairs of frames)",
            "frames": "frames of a video to use, evenly spread (0: all)",
        },
    )
}
