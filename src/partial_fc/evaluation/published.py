"""What was published on these benchmarks, to set beside what is measured (`--compare paper`).

Rates in percent, keyed by kind of target and name of metric as results have them.
"""

from __future__ import annotations

from dataclasses import dataclass

PARTIAL_FC = "Partial FC, arXiv 2010.05222"
GLINT360K = "Glint360K, table of InsightFace's partial_fc"
BENCHMARK_SITE = "listing of a benchmark site"

IFRT_GROUPS = ("African", "Caucasian", "Indian", "Asian", "ALL")


@dataclass(frozen=True)
class Published:
    """A row of numbers.

    Attributes:
        model: network, training set and sample ratio, as far as they are told.
        source: who published it.
        percent: by (kind of target, name of metric).
    """

    model: str
    source: str
    percent: dict[tuple[str, str], float]


def _ifrt(*values: float) -> dict[tuple[str, str], float]:
    return {("ifrt", group): value for group, value in zip(IFRT_GROUPS, values, strict=True)}


def _glint(ijbc: float, identification: float, verification: float) -> dict[tuple[str, str], float]:
    return {
        ("ijbc", "TAR@FAR=1e-04"): ijbc,
        ("megaface", "Rank-1"): identification,
        ("megaface", "TAR@FAR=1e-06"): verification,
    }


ROWS = (
    Published(
        "Partial FC (paper)",
        PARTIAL_FC,
        {
            ("lfw", "accuracy"): 99.83,
            ("cfp_fp", "accuracy"): 98.51,
            ("agedb30", "accuracy"): 98.20,
            ("calfw", "accuracy"): 96.20,
            ("cplfw", "accuracy"): 93.10,
            ("ytf", "accuracy"): 97.76,
            ("ijbb", "TAR@FAR=1e-04"): 96.1,
            ("megaface", "Rank-1"): 99.13,
        },
    ),
    Published("Glint360K", GLINT360K, _glint(97.3, 99.1, 99.1)),
    Published("MS1MV2", GLINT360K, _glint(96.4, 98.3, 98.6)),
    Published("R50, MS1M-V3", GLINT360K, _ifrt(76.24, 86.21, 84.44, 37.43, 71.02)),
    Published("R124, MS1M-V3", GLINT360K, _ifrt(81.08, 89.06, 87.53, 38.40, 74.76)),
    Published("R100, Glint360K, r = 1.0", GLINT360K, _ifrt(89.50, 94.23, 93.54, 65.07, 88.67)),
    Published("R100, Glint360K, r = 0.1", GLINT360K, _ifrt(90.45, 94.60, 93.96, 63.91, 88.23)),
    Published("Partial FC (listing)", BENCHMARK_SITE, {("ijbc", "TAR@FAR=1e-04"): 94.4}),
)
"""IJB-C's 97.3 and 96.4 and the listing's 94.4 are TAR at FAR 1e-4; MegaFace's pairs are Rank-1 and TAR at FAR 1e-6."""


def rows_for(kinds: set[str]) -> list[Published]:
    """The rows that have a number of any of these kinds of target."""
    return [row for row in ROWS if any(kind in kinds for kind, _ in row.percent)]
