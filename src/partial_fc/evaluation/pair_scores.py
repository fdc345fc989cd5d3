"""Scores of a long list of pairs, as parts of matrix products.

    scores[p] = <unit_first(p), unit_second(p)>

IJB-C has 15.7 million pairs of 23,124 templates. Pair by pair each row would be fetched over a thousand times; sorted
by tile, a product gives a tile's scores at the processor's full speed, and its pairs are picked out of the cache.

N templates, D embedding size, P pairs.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.evaluation.score_blocks import Tile, own_share, score_tiles, tiles_of

_TILE = 1024  # 4 MiB of scores, which are still near the processor when they are picked

class PairPlan:
    """A list of pairs sorted by the tiles that hold them: made once for a list, used for every model.

    Attributes:
        order_P: the list's pairs in the plan's order, uint32.
        rows, columns: the templates that stand at the left and on top of the scores.
        tiles: those that hold a pair.
    """

    def __init__(self, templates: int, first_P: np.ndarray, second_P: np.ndarray, *, tile: int = _TILE) -> None:
        """Plans P pairs of `templates` templates, which `first_P` and `second_P` number from 0."""
        self.rows, first_P = _used(templates, first_P)
        self.columns, second_P = _used(templates, second_P)
        across = -(-len(self.columns) // tile)
        all_tiles = tiles_of(len(self.rows), len(self.columns), size=tile)
        row_P, offset_P = np.divmod(first_P, np.int32(tile))
        by_row_P = np.argsort(offset_P.astype(np.uint16 if tile <= 1 << 16 else np.int32), kind="stable")
        column_P, column_in_tile_P = np.divmod(second_P, np.int32(tile))
        widths = np.full(across, tile, np.int32)
        widths[-1] = len(self.columns) - (across - 1) * tile
        offset_P *= widths[column_P]
        offset_P += column_in_tile_P
        tile_P = row_P.astype(np.int64) * across + column_P
        # NumPy sorts integers of 16 bits by counting.
        tile_P = tile_P.astype(np.uint16 if len(all_tiles) <= 1 << 16 else np.int64)
        # Row after row inside a tile, so that its scores are picked in the order in which they lie.
        self.order_P = by_row_P[np.argsort(tile_P[by_row_P], kind="stable")].astype(np.uint32)
        del by_row_P
        self._offset_P = offset_P[self.order_P]
        counts = np.bincount(tile_P, minlength=len(all_tiles))
        held = np.flatnonzero(counts)
        self.tiles: list[Tile] = [all_tiles[i] for i in held]
        self._ends = np.r_[0, np.cumsum(counts[held])]

    def __len__(self) -> int:
        return len(self.order_P)

    def pairs(self, place: int) -> slice:
        """The pairs of a tile, a part of the plan's order."""
        return slice(int(self._ends[place]), int(self._ends[place + 1]))

    def pick(self, place: int, scores_ab: np.ndarray, scores_P: np.ndarray, pool: ThreadPoolExecutor) -> None:
        """Writes the scores of a tile's pairs to their place in `scores_P`, a part of them each thread of the pool."""
        pairs = self.pairs(place)
        bounds = np.linspace(pairs.start, pairs.stop, _threads() + 1).astype(np.int64).tolist()
        flat = scores_ab.reshape(-1)

        def part(start: int, stop: int) -> None:
            # The mode is for speed: "raise" would make a copy first. NumPy lets go of the interpreter meanwhile.
            flat.take(self._offset_P[start:stop], out=scores_P[start:stop], mode="clip")

        list(pool.map(part, bounds[:-1], bounds[1:]))


def pair_scores(unit_ND: np.ndarray, plan: PairPlan, collectives: Collectives, name: str) -> np.ndarray:
    """`scores_P` float32 of pairs of rows of `unit_ND` (N, D) float32, in the plan's order, the same on every rank.

    Ranks share out the tiles that hold pairs; one object gather of 4·P bytes in all.
    """
    own = own_share(range(len(plan.tiles)), collectives)
    products = score_tiles(unit_ND[plan.rows], unit_ND[plan.columns], [plan.tiles[place] for place in own])
    scores_P = np.empty(len(plan), np.float32)
    with ThreadPoolExecutor(_threads()) as pool:
        for place, (_, scores_ab) in zip(own, products, strict=True):
            plan.pick(place, scores_ab, scores_P, pool)
    if collectives.size == 1:
        return scores_P
    picked = [scores_P[plan.pairs(place)].copy() for place in own]  # ranks may be threads, and scores be written to
    for rank, parts in enumerate(collectives.gather_objects(picked, f"{name}.pairs")):
        for place, part in zip(range(rank, len(plan.tiles), collectives.size), parts, strict=True):
            scores_P[plan.pairs(place)] = part
    return scores_P


def _threads() -> int:
    """As many as the products have."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def _used(templates: int, index_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The templates that an index names, ascending, and the index as places among them, int32."""
    is_used = np.zeros(templates, bool)
    is_used[index_P] = True
    place = np.cumsum(is_used, dtype=np.int32) - 1
    return np.flatnonzero(is_used), place[index_P]
