"""What the paper measured: the two tables of training cost of arXiv 2010.05222.

ResNet50 at 112×112, mixed precision, RTX 2080 Ti with 11 GB, W on the GPUs, IO neglected.
"""

from __future__ import annotations

from dataclasses import dataclass

NETWORK = "r50"
EMBEDDING_SIZE = 512
CONDITIONS = "ResNet50, mixed precision, RTX2080Ti, W on GPU, IO neglected"


@dataclass(frozen=True)
class PaperRow:
    """One row of the tables.

    Attributes:
        method: ``Model Parallel`` is the full softmax over sharded centers.
        identities: C.
        sample_ratio: r.
        gpus: R.
        batch_size: images of all GPUs, N.
        memory_mb: of one GPU.
        images_per_second: of all GPUs.
    """

    method: str
    identities: int
    sample_ratio: float
    gpus: int
    batch_size: int
    memory_mb: int
    images_per_second: int

    @property
    def images_per_gpu(self) -> int:
        """B."""
        return self.batch_size // self.gpus


MODEL_PARALLEL = "Model Parallel"
PARTIAL_FC = "Partial FC"

ROWS = (
    PaperRow(MODEL_PARALLEL, 1_000_000, 1.0, 8, 1024, 10408, 2390),
    PaperRow(PARTIAL_FC, 1_000_000, 0.1, 8, 1024, 8100, 2780),
    PaperRow(MODEL_PARALLEL, 10_000_000, 1.0, 64, 2048, 9684, 4483),
    PaperRow(PARTIAL_FC, 10_000_000, 0.1, 64, 4096, 6722, 12600),
)


def tables() -> list[tuple[PaperRow, PaperRow]]:
    """(Model Parallel, Partial FC) of each number of identities."""
    return [(ROWS[0], ROWS[1]), (ROWS[2], ROWS[3])]
