"""MegaFace: FaceScrub probes among distractors: `--targets megaface=DIR`, from images or from feature files.

Noises (InsightFace's lists). `noises=removed` leaves noisy probes and distractors out. `noises=insightface` leaves
noisy distractors out; a noisy probe gets the direction of the sum of its person's clean features, each number ± 0.001.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from partial_fc.collectives import together
from partial_fc.evaluation.distractor_search import Distractors, search_distractors
from partial_fc.evaluation.embedder import Embedder
from partial_fc.evaluation.images import check_files
from partial_fc.evaluation.megaface_files import (
    FaceList,
    noisy_distractors,
    noisy_probes,
    read_face_list,
    read_features,
    read_noises,
)
from partial_fc.evaluation.rates import far_metrics, roc_curve, score_histogram
from partial_fc.evaluation.score_blocks import normalize_rows
from partial_fc.evaluation.summed_embeddings import summed_embeddings
from partial_fc.evaluation.targets import Metric, Settings, Target, TargetKind, TargetResult, TargetSpec

TARGET_FAR = 1e-6
NOISE_FORMS = ("removed", "insightface")
_NOISE_AMPLITUDE = 0.001
_NOISE_SEED = 0


class MegaFaceTarget(Target):
    """Probes and distractors with their lists read and their files found.

    Raises:
        ValueError: a list is not what it should be, or all of a person's features are noises.
        OSError: a list, images or feature files (all of them in one message) are not there.
    """

    def __init__(self, spec: TargetSpec) -> None:
        super().__init__(spec.name)
        self._suffix = spec.options.get("suffix", "")
        self._replaces = spec.choice("noises", NOISE_FORMS) == "insightface"
        self._histogram = spec.flag("histogram", False)
        folders = ("facescrub", "megaface") if self._suffix else ("facescrub_images", "megaface_images")
        probe_folder = spec.path_option("probe_folder") or spec.path / folders[0]
        distractor_folder = spec.path_option("distractor_folder") or spec.path / folders[1]
        probes = read_face_list(spec.path_option("probes") or spec.path / "facescrub_lst", with_identities=True)
        distractors = read_face_list(
            spec.path_option("distractors") or spec.path / "megaface_lst", with_identities=False
        )
        is_noisy_P = noisy_probes(probes, _noises(spec, "probe_noises"))
        is_noisy_M = noisy_distractors(distractors, _noises(spec, "distractor_noises"))
        self.noise_counts = {"noisy probes": int(is_noisy_P.sum()), "noisy distractors": int(is_noisy_M.sum())}
        if not self._replaces:
            probes = _keep(probes, ~is_noisy_P)
            is_noisy_P = is_noisy_P[~is_noisy_P]
        distractors = _keep(distractors, ~is_noisy_M)
        if not distractors.paths or not probes.paths:
            raise ValueError(f"{spec.name}: the lists of noises leave no probe or no distractor")
        _, self._identity_P = np.unique(probes.identities, return_inverse=True)
        self._is_noisy_P = is_noisy_P
        if self._replaces:
            _check_clean(spec.name, probes, is_noisy_P)
        if len(np.unique(self._identity_P)) == len(self._identity_P):
            raise ValueError(f"{spec.name}: no two probes are of one person, and there is nothing to find")
        self._probe_paths = [probe_folder / (one + self._suffix) for one in probes.paths]
        self._distractor_paths = [distractor_folder / (one + self._suffix) for one in distractors.paths]
        # InsightFace has no file for a noisy probe's clean feature: it is not read.
        needed = [path for path, noisy in zip(self._probe_paths, is_noisy_P, strict=True) if not noisy]
        check_files(spec.name, [*needed, *self._distractor_paths])

    def evaluate(self, embedder: Embedder, settings: Settings) -> TargetResult:
        collectives = embedder.collectives
        if self._suffix:
            probe_PD: np.ndarray | None = None
            with together(collectives, f"{self.name}.probes"):
                probe_PD = self._read_probes()
            distractors = self._read_distractors(probe_PD.shape[1])
        else:
            clean_CD = summed_embeddings(embedder, f"{self.name} probes", self._clean_paths(), flip=settings.flip)
            all_MD = summed_embeddings(
                embedder, f"{self.name} distractors", self._distractor_paths, flip=settings.flip
            )
            with together(collectives, f"{self.name}.normalize"):
                probe_PD = self._with_noises(normalize_rows(clean_CD, f"probes of {self.name}"))
                normalize_rows(all_MD, f"distractors of {self.name}")
            distractors = all_MD.__getitem__
        count = len(self._distractor_paths)
        result = search_distractors(
            probe_PD, self._identity_P, distractors, count, [TARGET_FAR], collectives, self.name,
            histogram=self._histogram,
        )  # fmt: skip
        people = len(np.unique(self._identity_P))
        counts = {
            "probes": len(probe_PD), "identities": people, "distractors": count, **self.noise_counts,
            "searches": result.searches, "positives": len(result.positives_P), "negatives": result.negatives.count,
        }  # fmt: skip
        return TargetResult(
            target=self.name,
            kind="megaface",
            protocol=self._protocol(settings.flip),
            counts=counts,
            metrics=(Metric("Rank-1", result.rank_1), *far_metrics(result.points)),
            curves=tuple(roc_curve(result.positives_P, result.negatives)),
            histogram=score_histogram(result.positives_P, result.negatives),
        )

    def _clean_paths(self) -> list[Path]:
        return [path for path, noisy in zip(self._probe_paths, self._is_noisy_P, strict=True) if not noisy]

    def _read_probes(self) -> np.ndarray:
        return self._with_noises(normalize_rows(read_features(self._clean_paths()), f"probes of {self.name}"))

    def _read_distractors(self, dimension: int) -> Distractors:
        def read(rows: slice) -> np.ndarray:
            features_BD = read_features(self._distractor_paths[rows], dimension)
            return normalize_rows(features_BD, f"distractors of {self.name} after the first {rows.start}")

        return read

    def _with_noises(self, clean_CD: np.ndarray) -> np.ndarray:
        """The features of all probes: a noisy one's is made of its person's clean ones."""
        if not self._is_noisy_P.any():
            return clean_CD
        rng = np.random.default_rng(_NOISE_SEED)
        probe_PD = np.empty((len(self._is_noisy_P), clean_CD.shape[1]), np.float32)
        probe_PD[~self._is_noisy_P] = clean_CD
        for place in np.flatnonzero(self._is_noisy_P):
            of_person = (self._identity_P == self._identity_P[place]) & ~self._is_noisy_P
            change_D = rng.uniform(-_NOISE_AMPLITUDE, _NOISE_AMPLITUDE, clean_CD.shape[1])
            probe_PD[place] = probe_PD[of_person].sum(axis=0, dtype=np.float64) + change_D
        return normalize_rows(probe_PD, f"probes of {self.name}")

    def _protocol(self, flip: bool) -> str:
        source = "feature files" if self._suffix else f"images, {'with' if flip else 'without'} their mirrors"
        noise = "replaced by their person's mean" if self._replaces else "left out"
        form = "histograms" if self._histogram else "the highest scores"
        return (
            f"from {source}; each other image of a probe's person alone among the distractors; noisy probes {noise}, "
            f"noisy distractors left out; TAR over all pairs of a probe and a distractor, exact, by {form}"
        )


def _noises(spec: TargetSpec, option: str) -> set[str]:
    path = spec.path_option(option)
    return set() if path is None else read_noises(path)


def _keep(faces: FaceList, is_kept_N: np.ndarray) -> FaceList:
    places = np.flatnonzero(is_kept_N)
    return FaceList(
        [faces.paths[i] for i in places], [faces.identities[i] for i in places] if faces.identities else []
    )


def _check_clean(name: str, probes: FaceList, is_noisy_P: np.ndarray) -> None:
    clean = {one for one, noisy in zip(probes.identities, is_noisy_P, strict=True) if not noisy}
    without = sorted({*probes.identities} - clean)
    if without:
        raise ValueError(
            f"{name}: all probes of {len(without)} people are noises (the first: {', '.join(without[:10])}), and their "
            "features have nothing to be made of: use noises=removed"
        )


KINDS = {
    "megaface": TargetKind(
        MegaFaceTarget,
        "the folder of lists and images or features: facescrub_lst, megaface_lst, …",
        {
            "suffix": "of feature files, as _r100.bin: read them, in PATH/facescrub and PATH/megaface, not images",
            "probes": "list of probes: the kit's JSON or a path a line (PATH/facescrub_lst)",
            "distractors": "list of distractors, likewise (PATH/megaface_lst)",
            "probe_folder": "folder of the probes (PATH/facescrub_images)",
            "distractor_folder": "folder of the distractors (PATH/megaface_images)",
            "probe_noises": "list of noisy probes, as facescrub_noises.txt",
            "distractor_noises": "list of noisy distractors, as megaface_noises.txt",
            "noises": "removed, or insightface: a noisy probe's feature is replaced (removed)",
            "histogram": "yes: F²C's form, by histograms, in two passes (no)",
        },
    )
}
