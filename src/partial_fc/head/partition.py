"""Who owns which class: contiguous ranges of identities, the first ``C mod R`` ranks holding one more.

    C classes, R ranks:   count(k) = C // R + (k < C mod R)      start(k) = k·(C // R) + min(k, C mod R)

Every class has exactly one owner and no center exists that no class owns (unlike arXiv 2010.05222 §3.2, where
ranks hold ⌈C/R⌉ rows each and the last ones hold rows of no identity).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClassPartition:
    """The division of ``num_classes`` identities among ``ranks``.

    Raises:
        ValueError: there is no class, no rank, or a rank that would own no class.
    """

    num_classes: int
    ranks: int

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"a classification layer needs at least 1 identity, but got {self.num_classes}")
        if self.ranks < 1:
            raise ValueError(f"the number of ranks must be at least 1, but is {self.ranks}")
        if self.num_classes < self.ranks:
            raise ValueError(
                f"every rank owns at least one identity, but there are {self.num_classes} identities for "
                f"{self.ranks} ranks: start at most {self.num_classes} ranks, or train on more identities"
            )

    def count(self, rank: int) -> int:
        """The number of classes that the rank owns, C_k."""
        return self.num_classes // self.ranks + (rank < self.num_classes % self.ranks)

    def start(self, rank: int) -> int:
        """The first class that the rank owns; ``start(ranks)`` is C."""
        return rank * (self.num_classes // self.ranks) + min(rank, self.num_classes % self.ranks)
