"""RFW: 6,000 pairs for each of four groups of people: `--targets rfw=RFW/test`.

PATH/txts/GROUP/GROUP_pairs.txt has `NAME n1 n2` or `NAME1 n1 NAME2 n2` a line, in ten folds; the images are
PATH/data/GROUP/NAME/NAME_0001.jpg. Each group is verified as LFW is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from partial_fc.collectives import together
from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.images import Images
from partial_fc.evaluation.pair_images import distinct, open_images
from partial_fc.evaluation.score_blocks import normalize_rows
from partial_fc.evaluation.targets import Metric, Settings, Target, TargetKind, TargetResult, TargetSpec
from partial_fc.evaluation.verification_target import judge


def read_rfw_pairs(path: Path, group: str) -> tuple[list[str], np.ndarray]:
    """The 2P paths of a group's pairs below the folder of images, and (P,) whether they are of one person.

    Raises:
        ValueError: a line is of another form, or there are no pairs of one of the two kinds.
    """
    paths, labels = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        is_same = len(words) == 3
        if is_same:
            words.insert(2, words[0])
        if len(words) != 4 or not (words[1].isdecimal() and words[3].isdecimal()):
            raise ValueError(f"{path}, line {number}: a pair is `NAME n1 n2` or `NAME1 n1 NAME2 n2`, not {line!r}")
        paths += [f"{group}/{name}/{name}_{int(image):04d}.jpg" for name, image in (words[:2], words[2:])]
        labels.append(is_same)
    positives = sum(labels)
    if positives in (0, len(labels)):
        raise ValueError(f"{path} needs pairs of both kinds, but {positives} of its {len(labels)} are of one person")
    return paths, np.array(labels, bool)


class RfwTarget(Target):
    """The pairs of each group. Raises ValueError and OSError for lists and for images that are not there."""

    def __init__(self, spec: TargetSpec) -> None:
        super().__init__(spec.name)
        lists = sorted((spec.path / "txts").glob("*/*_pairs.txt"))
        if not lists:
            raise FileNotFoundError(f"{spec.name}: there is no list of pairs {spec.path}/txts/GROUP/GROUP_pairs.txt")
        paths: list[str] = []
        self._groups: dict[str, tuple[slice, np.ndarray]] = {}
        for one in lists:
            group = one.parent.name
            group_paths, is_same_P = read_rfw_pairs(one, group)
            self._groups[group] = (slice(len(paths), len(paths) + len(group_paths)), is_same_P)
            paths += group_paths
        names, self._index_N = distinct(paths)
        folder = spec.path_option("images") or spec.path / "data"
        self._images: Images = open_images(spec.name, names, folder, spec.path_option("landmarks"))

    def evaluate(self, embedder: Embedder, settings: Settings) -> TargetResult:
        embeddings_VUD = embedder.embed(self._images, flip=settings.flip)
        metrics: list[Metric] = []
        counts = {"images": len(self._images), "pairs": len(self._index_N) // 2}
        with together(embedder.collectives, f"verify.{self.name}"):
            norm_U = np.linalg.norm(embeddings_VUD, axis=2).mean(axis=0, dtype=np.float64)
            unit_UD = normalize_rows(embeddings_VUD.sum(axis=0), f"embeddings of {self.name}")
            for group, (part, is_same_P) in self._groups.items():
                index = self._index_N[part]
                distance_P = np.square(unit_UD[index[0::2]] - unit_UD[index[1::2]]).sum(axis=1)
                name = f"{self.name} {group}"
                verified = judge(name, distance_P, is_same_P, None, float(norm_U[index].mean()), settings)
                details = {"tar_at_far": {f"{p.target_far:.0e}": p.tar for p in verified.tar_at_far}}
                metrics.append(
                    Metric(group, verified.accuracy, deviation=verified.accuracy_std, details=details)
                )
            metrics.append(Metric("mean", float(np.mean([metric.value for metric in metrics]))))
        return TargetResult(
            target=self.name,
            kind="rfw",
            protocol=f"accuracy of each group's pairs, {settings.folds} folds, and their mean",
            counts=counts,
            metrics=tuple(metrics),
        )


KINDS = {
    "rfw": TargetKind(
        RfwTarget,
        "the folder with txts/GROUP/GROUP_pairs.txt and data",
        {
            "images": "folder of the images (PATH/data)",
            "landmarks": "`PATH x1 y1 … x5 y5` a line, by which images that are not aligned are",
        },
    )
}
