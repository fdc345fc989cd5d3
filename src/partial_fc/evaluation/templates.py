"""Features of templates: sets of images of one person, some of them frames of the same video.

    image     f_i = e(x_i) + e(mirror x_i)        with `flip`; e(x_i) without
              f_i ← f_i / |f_i|                   without `feature_norm`
              f_i ← f_i · detector score          with `detector_score`
    media     m   = mean of f_i over its images   a photograph is a medium of its own, a video one with many frames
    template  t   = Σ m / |Σ m|

The three switches are InsightFace's F, N and D. N image rows, T templates, D embedding size.
"""

from __future__ import annotations

import numpy as np

from partial_fc.evaluation.score_blocks import normalize_rows

_ROWS_AT_ONCE = 16384


def weigh_images(
    embeddings_VND: np.ndarray, detector_score_N: np.ndarray, *, feature_norm: bool, detector_score: bool
) -> np.ndarray:
    """`features_ND` float32 of images, in the memory of the first view: the embeddings are used up.

    Raises:
        ValueError: the scores are not one an image, or a feature is zero or not finite.
    """
    if detector_score_N.shape != embeddings_VND.shape[1:2]:
        raise ValueError(
            f"{embeddings_VND.shape[1]} images need a detector score each, but there are {len(detector_score_N)}"
        )
    features_ND = embeddings_VND[0]
    for view_ND in embeddings_VND[1:]:
        features_ND += view_ND
    if not feature_norm:
        normalize_rows(features_ND, "image features")
    if detector_score:
        features_ND *= detector_score_N.astype(np.float32)[:, None]
    return features_ND


def template_features(
    features_ND: np.ndarray, template_N: np.ndarray, media_N: np.ndarray, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct templates `template_T`, ascending, and their `features_TD` float32 of unit length.

    Sums are float64, some templates at a time.

    Raises:
        ValueError: the lists differ in length, or a template's feature (which is named) is zero or not finite.
    """
    if not len(features_ND) == len(template_N) == len(media_N) > 0:
        raise ValueError(
            f"{what}: {len(features_ND)} features need a template and a medium each, "
            f"but there are {len(template_N)} and {len(media_N)}"
        )
    order = np.lexsort((media_N, template_N))
    template, media = template_N[order], media_N[order]
    new_template = np.r_[True, template[1:] != template[:-1]]
    new_media = new_template | np.r_[True, media[1:] != media[:-1]]
    first_T = np.flatnonzero(new_template)
    features_TD = np.empty((len(first_T), features_ND.shape[1]), np.float32)
    end_T = np.r_[first_T[1:], len(order)]
    start = 0
    while start < len(first_T):
        stop = max(start + 1, int(np.searchsorted(end_T, first_T[start] + _ROWS_AT_ONCE, side="right")))
        rows = slice(first_T[start], end_T[stop - 1])
        images = features_ND[order[rows]].astype(np.float64)
        first_M = np.flatnonzero(new_media[rows])
        media_MD = np.add.reduceat(images, first_M, axis=0)
        media_MD /= np.diff(np.r_[first_M, len(images)])[:, None]
        first_media_T = np.searchsorted(first_M, first_T[start:stop] - first_T[start])
        features_TD[start:stop] = np.add.reduceat(media_MD, first_media_T, axis=0)
        start = stop
    return template[first_T], normalize_rows(features_TD, f"templates of {what}")
