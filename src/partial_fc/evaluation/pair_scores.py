"""Scores of a long list of pairs, as parts of matrix products.

    scores[p] = <unit_first(p), unit_second(p)>

IJB-C has 15.7 million pairs of 23,124 templates. Pair by pair each row would be fetched over a thousand times; sorted
by tile, a product gives a tile's scores at the processor's full speed, and its pairs are picked out of the cache.

N templates, D embedding size, P pairs.
"""

from __future__ import annotations

import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.evaluation.score_blocks import TILE, Tile, own_share, score_tiles, tiles_of


def pair_scores(
    unit_ND: np.ndarray,
    first_P: np.ndarray,
    second_P: np.ndarray,
    collectives: Collectives,
    name: str,
    *,
    tile: int = TILE,
) -> np.ndarray:
    """`scores_P` float32 of pairs of rows of `unit_ND` (N, D) float32, the same on every rank.

    Ranks share out the tiles that hold pairs; one object gather of 4·P bytes in all. Memory: some 30 bytes a pair
    beside the lists.
    """
    plan = PairPlan(len(unit_ND), first_P, second_P, tile)
    places = own_share(range(len(plan.tiles)), collectives)
    left_AD, right_BD = unit_ND[plan.rows], unit_ND[plan.columns]
    own = []
    for place, (_, scores_ab) in zip(
        places, score_tiles(left_AD, right_BD, [plan.tiles[i] for i in places]), strict=True
    ):
        own.append(scores_ab.reshape(-1).take(plan.offsets(place), mode="clip"))  # "raise" copies first
    gathered = collectives.gather_objects(own, f"{name}.pairs")
    scores_P = np.empty(len(first_P), np.float32)
    for rank, parts in enumerate(gathered):
        for place, part in zip(range(rank, len(plan.tiles), collectives.size), parts, strict=True):
            scores_P[plan.pairs(place)] = part
    return scores_P


class PairPlan:
    """Which tiles hold the pairs, and where in them.

    Attributes:
        rows, columns: the templates that stand at the left and on top of the scores.
        tiles: those that hold a pair.
    """

    def __init__(self, templates: int, first_P: np.ndarray, second_P: np.ndarray, tile: int) -> None:
        self.rows, first_P = _used(templates, first_P)
        self.columns, second_P = _used(templates, second_P)
        across = -(-len(self.columns) // tile)
        all_tiles = tiles_of(len(self.rows), len(self.columns), size=tile)
        row_P, row_in_tile_P = np.divmod(first_P, np.int32(tile))
        column_P, self._offset_P = np.divmod(second_P, np.int32(tile))
        widths = np.full(across, tile, np.int32)
        widths[-1] = len(self.columns) - (across - 1) * tile
        self._offset_P += row_in_tile_P * widths[column_P]
        tile_P = row_P.astype(np.int64) * across + column_P
        # NumPy sorts integers of 16 bits by counting.
        tile_P = tile_P.astype(np.uint16 if len(all_tiles) <= 1 << 16 else np.int64)
        self._order = np.argsort(tile_P, kind="stable").astype(np.uint32)
        counts = np.bincount(tile_P, minlength=len(all_tiles))
        held = np.flatnonzero(counts)
        self.tiles: list[Tile] = [all_tiles[i] for i in held]
        self._ends = np.cumsum(counts[held])

    def pairs(self, place: int) -> np.ndarray:
        """The pairs of a tile, as places in the list."""
        return self._order[self._ends[place - 1] if place else 0 : self._ends[place]]

    def offsets(self, place: int) -> np.ndarray:
        """Where in a tile's scores, row after row, its pairs are."""
        return self._offset_P[self.pairs(place)]


def _used(templates: int, index_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The templates that an index names, ascending, and the index as places among them, int32."""
    is_used = np.zeros(templates, bool)
    is_used[index_P] = True
    place = np.cumsum(is_used, dtype=np.int32) - 1
    return np.flatnonzero(is_used), place[index_P]
