"""IFRT: groups of identities, all pairs of images 1:1 inside each group and over all: `--targets ifrt=LIST,images=DIR`.

LIST has `path identity group` a line; TAR at FAR 1e-6, exact: over 2.6·10¹² pairs in IFRT itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partial_fc.collectives import together
from partial_fc.evaluation.all_pairs import all_pairs
from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.images import check_files
from partial_fc.evaluation.rates import far_metric, roc_curve, score_histogram
from partial_fc.evaluation.score_blocks import normalize_rows
from partial_fc.evaluation.summed_embeddings import summed_embeddings
from partial_fc.evaluation.targets import Settings, Target, TargetKind, TargetResult, TargetSpec

ALL = "ALL"
TARGET_FAR = 1e-6


@dataclass(frozen=True)
class GroupList:
    """N images sorted by group, then by identity: `identity_N` integers, `groups` the part of each by its name."""

    paths: list[str]
    identity_N: np.ndarray
    groups: dict[str, slice]


def read_groups(path: Path) -> GroupList:
    """The list `path identity group`; a path may hold spaces.

    Raises:
        ValueError: a line has not three words, an image is named twice, an identity is in two groups, or a group has
            no pair of one person or none of two.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        words = line.rsplit(maxsplit=2)
        if len(words) != 3:
            raise ValueError(f"{path.name}, line {number}: a line is PATH IDENTITY GROUP, not {line!r}")
        rows.append((words[2], words[1], words[0].strip()))
    if not rows:
        raise ValueError(f"{path.name} names no images")
    group_order = {group: place for place, group in enumerate(dict.fromkeys(row[0] for row in rows))}
    if ALL in group_order:
        raise ValueError(f"{path.name}: a group must not be called {ALL}, which stands for all of them")
    rows.sort(key=lambda row: (group_order[row[0]], row[1]))
    groups_of: dict[str, str] = {}
    for group, identity, _ in rows:
        if groups_of.setdefault(identity, group) != group:
            raise ValueError(f"{path.name}: identity {identity} is in the groups {groups_of[identity]} and {group}")
    paths = [row[2] for row in rows]
    if len(set(paths)) < len(paths):
        raise ValueError(f"{path.name} names {len(paths) - len(set(paths))} images twice")
    place = {identity: number for number, identity in enumerate(groups_of)}
    identity_N = np.array([place[row[1]] for row in rows], np.int64)
    group_N = np.array([group_order[row[0]] for row in rows])
    ends = np.searchsorted(group_N, np.arange(len(group_order)), side="right")
    starts = np.r_[0, ends[:-1]]
    groups = {group: slice(int(a), int(b)) for group, a, b in zip(group_order, starts, ends, strict=True)}
    for group, part in groups.items():
        people = len(np.unique(identity_N[part]))
        if people == part.stop - part.start or people == 1:
            kind = "one person" if people > 1 else "two people"
            images = part.stop - part.start
            raise ValueError(f"{path.name}: group {group} has no pair of {kind} among its {images} images")
    return GroupList(paths, identity_N, groups)


class IfrtTarget(Target):
    """The images of a list in groups. Raises ValueError and OSError for the list and for images that are not there."""

    def __init__(self, spec: TargetSpec) -> None:
        super().__init__(spec.name)
        self._list = read_groups(spec.path)
        self._histogram = spec.flag("histogram", False)
        folder = spec.path_option("images") or spec.path.parent
        self._paths = [folder / path for path in self._list.paths]
        check_files(spec.name, self._paths)

    def evaluate(self, embedder: Embedder, settings: Settings) -> TargetResult:
        unit_ND = summed_embeddings(embedder, self.name, self._paths, flip=settings.flip)
        with together(embedder.collectives, f"{self.name}.normalize"):
            normalize_rows(unit_ND, f"embeddings of {self.name}")
        identity_N = self._list.identity_N
        parts = dict(self._list.groups)
        if len(parts) > 1:
            parts[ALL] = slice(0, len(unit_ND))
        counts = {"images": len(unit_ND), "identities": len(np.unique(identity_N))}
        metrics, details = [], {}
        for group, part in parts.items():
            result = all_pairs(
                unit_ND[part], identity_N[part], [TARGET_FAR], embedder.collectives, f"{self.name}.{group}",
                histogram=self._histogram,
            )  # fmt: skip
            metrics.append(far_metric(group, result.points[0]))
            details[group] = {
                "images": part.stop - part.start,
                "identities": len(np.unique(identity_N[part])),
                "positives": len(result.positives_P),
                "negatives": result.negatives.count,
            }
        counts |= {"positives": len(result.positives_P), "negatives": result.negatives.count}
        return TargetResult(
            target=self.name,
            kind="ifrt",
            protocol=f"TAR at FAR {TARGET_FAR:.0e} over all pairs inside a group, and over all groups' images; exact",
            counts=counts,
            metrics=tuple(metrics),
            curves=tuple(roc_curve(result.positives_P, result.negatives)),
            histogram=score_histogram(result.positives_P, result.negatives),
            details=details,
        )


KINDS = {
    "ifrt": TargetKind(
        IfrtTarget,
        "a list with `path identity group` a line",
        {
            "images": "folder of the images, aligned (the list's own)",
            "histogram": "yes: F²C's form, by histograms, in two passes (no)",
        },
    )
}
