"""IJB-B and IJB-C, 1:1 and 1:N: `--targets ijbc=IJBC`.

1:1: TAR at FAR over the official pairs of templates. 1:N: the probes ("mixed") against the two galleries: TPIR at FPIR
for each gallery, averaged; Rank 1, 5, 10 on their union. The template features: see `templates`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from partial_fc.collectives import together
from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.embedding import contiguous_share
from partial_fc.evaluation.identification import (
    check_mates,
    find_mates,
    insightface_tpir,
    rank_rates,
    search,
    tpir_at_fpir,
)
from partial_fc.evaluation.ijb_lists import (
    GALLERIES,
    SubjectList,
    places_of,
    read_images,
    read_pairs,
    read_subjects,
)
from partial_fc.evaluation.images import ImageFiles
from partial_fc.evaluation.negative_scores import count_bins, negative_scores, operating_points
from partial_fc.evaluation.pair_scores import PairPlan, pair_scores
from partial_fc.evaluation.rates import far_metrics, roc_curve, score_histogram
from partial_fc.evaluation.targets import (
    Curve,
    Metric,
    ScoreHistogram,
    Settings,
    Target,
    TargetKind,
    TargetResult,
    TargetSpec,
)
from partial_fc.evaluation.templates import template_features, weigh_images

TARGET_FPIRS = (0.01, 0.1)
RANKS = (1, 5, 10)
PROTOCOLS = ("both", "1:1", "1:N")
_COUNTED_AT_ONCE = 1 << 22


class IjbTarget(Target):
    """IJB-B or IJB-C with its lists read.

    Args:
        spec: kind `ijbb` or `ijbc`; the path is the folder with `meta` and `loose_crop`.

    Raises:
        ValueError: a list is not what it should be, or names a template without media.
        OSError: a list or images (all of them in one message) are not there.
    """

    def __init__(self, spec: TargetSpec) -> None:
        super().__init__(spec.name)
        self.kind = spec.kind
        self._flip = spec.flag("flip", True)
        self._feature_norm = spec.flag("feature_norm", True)
        self._detector_score = spec.flag("detector_score", True)
        self._union = spec.flag("insightface", False)
        protocol = spec.choice("protocol", PROTOCOLS)
        meta = spec.path_option("meta") or spec.path / "meta"
        prefix = str(meta / spec.kind)
        self._list = read_images(Path(f"{prefix}_face_tid_mid.txt"), Path(f"{prefix}_name_5pts_score.txt"))
        known_T = np.unique(self._list.template_N)
        self._plan: PairPlan | None = None
        self._galleries: list[SubjectList] = []
        self._probes: SubjectList | None = None
        if protocol in ("both", "1:1"):
            pairs, name = read_pairs(Path(f"{prefix}_template_pair_label.txt")), f"{spec.kind}_template_pair_label.txt"
            places = [places_of(templates, known_T, name) for templates in (pairs.first_P, pairs.second_P)]
            self._plan = PairPlan(len(known_T), *places)
            self._same_places = np.flatnonzero(pairs.is_same_P[self._plan.order_P])
        if protocol in ("both", "1:N"):
            names = [f"{prefix}_1N_gallery_{gallery}.csv" for gallery in GALLERIES[spec.kind]]
            self._galleries = [read_subjects(Path(name)) for name in names]
            self._probes = read_subjects(Path(f"{prefix}_1N_probe_mixed.csv"))
            lists = zip([*names, f"{prefix}_1N_probe_mixed.csv"], [*self._galleries, self._probes], strict=True)
            for name, subjects in lists:
                places_of(subjects.template_Q, known_T, Path(name).name)
            mate_P = find_mates(self._probes.subject_Q, self._gallery_subjects())
            check_mates(mate_P, self._gallery_parts(), for_union=self._union)
        folder = spec.path_option("images") or spec.path / "loose_crop"
        paths = [folder / name for name in self._list.name_N]
        self._images = ImageFiles(spec.name, paths, self._list.landmarks_N52)

    def evaluate(self, embedder: Embedder, settings: Settings) -> TargetResult:
        flip = self._flip and settings.flip
        embeddings_VND = embedder.embed(self._images, flip=flip)
        with together(embedder.collectives, f"{self.name}.templates"):
            features_ND = weigh_images(
                embeddings_VND,
                self._list.detector_score_N,
                feature_norm=self._feature_norm,
                detector_score=self._detector_score,
            )
            del embeddings_VND
            template_T, unit_TD = template_features(features_ND, self._list.template_N, self._list.media_N, self.name)
            del features_ND
        counts = {"images": len(self._images), "templates": len(template_T)}
        metrics: list[Metric] = []
        curves: list[Curve] = []
        histogram = None
        if self._plan is not None:
            histogram = self._verify(unit_TD, embedder, settings, counts, metrics, curves)
        if self._probes is not None:
            self._identify(template_T, unit_TD, embedder, counts, metrics, curves)
        protocol = self._protocol(flip)
        return TargetResult(self.name, self.kind, protocol, counts, tuple(metrics), tuple(curves), histogram)

    def _verify(
        self, unit_TD, embedder: Embedder, settings: Settings, counts, metrics, curves
    ) -> ScoreHistogram | None:
        collectives = embedder.collectives
        scores_P = pair_scores(unit_TD, self._plan, collectives, self.name)
        positives_P = np.sort(scores_P[self._same_places])
        scores_P[self._same_places] = -np.inf  # what is left are the negatives
        negatives = len(scores_P) - len(positives_P)
        own = scores_P[contiguous_share(len(scores_P), collectives.rank, collectives.size)]
        below = negative_scores(lambda: [own], negatives, settings.target_fars, collectives, f"{self.name}.pairs")
        counted = count_bins(np.array_split(own, 1 + len(own) // _COUNTED_AT_ONCE))
        below = replace(below, histogram=sum(collectives.gather_objects(counted, f"{self.name}.histogram")))
        metrics += far_metrics(operating_points(positives_P, below))
        curves += roc_curve(positives_P, below)
        counts |= {"pairs": len(scores_P), "positives": len(positives_P), "negatives": negatives}
        return score_histogram(positives_P, below)

    def _identify(self, template_T, unit_TD, embedder: Embedder, counts, metrics, curves) -> None:
        probes = self._probes
        places_Q = [places_of(one.template_Q, template_T, self.name) for one in (*self._galleries, probes)]
        gallery_GD, probe_PD = unit_TD[np.concatenate(places_Q[:-1])], unit_TD[places_Q[-1]]
        parts = self._gallery_parts()
        mate_P = find_mates(probes.subject_Q, self._gallery_subjects())
        others = int(np.ceil(max(TARGET_FPIRS) * len(probe_PD))) if self._union else 0
        result = search(probe_PD, gallery_GD, mate_P, parts, embedder.collectives, self.name, others=others)
        with together(embedder.collectives, f"{self.name}.identification"):
            ranks = rank_rates(result, RANKS)
            points = tpir_at_fpir(result, parts, TARGET_FPIRS)
            metrics += [Metric(f"Rank-{rank}", rate) for rank, rate in zip(RANKS, ranks, strict=True)]
            for place, fpir in enumerate(TARGET_FPIRS):
                both = [one[place] for one in points]
                names = GALLERIES[self.kind]
                details = {name: {"tpir": p.tar, "threshold": p.threshold} for name, p in zip(names, both, strict=True)}
                mean = float(np.mean([point.tar for point in both]))
                resolved = all(point.is_resolved for point in both)
                metrics.append(Metric(f"TPIR@FPIR={fpir}", mean, is_resolved=resolved, details=details))
            if self._union:
                names = [f"TPIR@FPIR={fpir} (InsightFace)" for fpir in TARGET_FPIRS]
                rates = [insightface_tpir(result, fpir) for fpir in TARGET_FPIRS]
                metrics += [Metric(name, rate) for name, rate in zip(names, rates, strict=True)]
        last = np.arange(1, 51)
        curves.append(Curve("cmc", last, np.array(rank_rates(result, last))))
        counts |= {"gallery": len(gallery_GD), "probes": len(probe_PD), "mated probes": int((mate_P >= 0).sum())}

    def _gallery_subjects(self) -> np.ndarray:
        return np.concatenate([one.subject_Q for one in self._galleries])

    def _gallery_parts(self) -> list[slice]:
        starts = np.cumsum([0, *(len(one.template_Q) for one in self._galleries)])
        return [slice(int(a), int(b)) for a, b in zip(starts[:-1], starts[1:], strict=True)]

    def _protocol(self, flip: bool) -> str:
        switches = {"flip": flip, "feature norm": self._feature_norm, "detector score": self._detector_score}
        used = ", ".join(f"{name} {'on' if is_on else 'off'}" for name, is_on in switches.items())
        return (
            f"template features by the mean over a medium's images, then the sum over media ({used}); TAR the largest "
            "whose FAR does not exceed the target; TPIR at FPIR for each gallery, its non-mates the probes absent from "
            "it, averaged; ranks on the union of the galleries"
        )


_OPTIONS = {
    "images": "folder of the images (PATH/loose_crop)",
    "meta": "folder of the lists (PATH/meta)",
    "protocol": "both, 1:1 or 1:N (both)",
    "flip": "yes or no: an image's feature is the sum with its mirror's (yes)",
    "feature_norm": "yes or no: an image weighs by its feature's norm (yes)",
    "detector_score": "yes or no: an image weighs by its detector score (yes)",
    "insightface": "yes or no: also InsightFace's TPIR, over the union of the galleries (no)",
}

KINDS = {
    kind: TargetKind(IjbTarget, f"the folder of {title}: meta, loose_crop", _OPTIONS)
    for kind, title in (("ijbb", "IJB-B"), ("ijbc", "IJB-C"))
}
