"""The F²C head: probe features against a pool of class centers made from gallery features, sharded over ranks.

Two logit matrices are taken of the same N samples: of prototype 0 of every slot, and of prototype 1 where a slot's
identity was used again in this batch and prototype 0 of the others. With I samples whose identity is in the pool and O
whose is not,

    loss = Σ over both matrices:  −(1/I) Σ_n log softmax(s·margin(cos))[n, slot(n)]
                                  + (1/(O·k)) Σ_n Σ of the k largest max(cos[n, ·], 0)

Both matrices share a product: the second one is the first without the columns H of slots used again, and beside it the
product with their prototypes 1.

Source: Wang et al., "An Efficient Training Approach for Very Large Scale Face Recognition", arXiv 2105.10375.

Legend: B samples of a rank and pass, R ranks, N = B·R, Q slots, Q_k of this rank, S slots of a block, D embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.head import matmul
from partial_fc.head.buffers import Buffers
from partial_fc.head.class_pool import ClassPool
from partial_fc.head.f2c_columns import Block, PoolColumns
from partial_fc.head.f2c_margin import F2CMargin
from partial_fc.head.f2c_outliers import Outliers, OutlierSearch, hard_negatives, outlier_gradient
from partial_fc.head.f2c_softmax import BothSoftmaxes, merge_both
from partial_fc.head.kernels import BlockTargets, SoftmaxState, TargetColumns
from partial_fc.head.kernels.select import select_kernels
from partial_fc.head.layer import Labels, Layer, as_float32
from partial_fc.head.margin import Margin
from partial_fc.head.margin_names import f2c_margin_of
from partial_fc.head.normalization import normalize, through_normalization
from partial_fc.horovod_collectives import current

nd = mx.nd

DEFAULT_BLOCK_SLOTS = 4096


@dataclass
class _Pass:
    """What a forward pass leaves for the backward pass. Rows are sorted: samples in the pool come first."""

    inside: int
    order_N: np.ndarray
    unit_ND: nd.NDArray
    inverse_norm_N1: nd.NDArray
    scaled_ND: nd.NDArray
    columns: PoolColumns
    targets: list[TargetColumns]
    thresholds: list[nd.NDArray] | None
    states: list[SoftmaxState]
    softmax: BothSoftmaxes | None = None
    outliers: Outliers | None = None


class F2C:
    """The head of one rank.

    In a network and a loop of one's own, on one rank or on all those that Horovod has (docs/layer.md)::

        gallery = Gallery.of_block(net, momentum=0.99)      # the second network, which follows net
        head = F2C(slots, 128)
        for x, x_label, y, y_label in pairs:                # y: other images, for the most part of the same identities
            gallery.follow()
            with autograd.record():
                loss = head(net(x), x_label, gallery(y), y_label) + head(net(y), y_label, gallery(x), x_label)
            loss.backward()
            trainer.step(1 / hvd.size())    # the sum over ranks, where Horovod's own is the mean
            head.step()

    A training loop of this project's own takes a step apart: two passes, each ``forward``, ``backward`` and then
    ``rollback`` or ``keep``; every rank makes the same calls. Collectives of a pass: one all-gather of both embeddings
    (8·B·D bytes sent), one all-reduce of 4N float64, one all-gather of 2·N·k float32 when a sample is out of the pool,
    one reduce-scatter of the embeddings' gradient (4·N·D bytes), and for a margin with hard negatives an all-reduce of
    2N float64 before the others.

    Args:
        slots: Q.
        embedding_size: D.
        collectives: the ranks; those of Horovod's run where none are given, or one process.
        margin: of the samples in the pool, or its name: ``cosface``, ``arcface``, ``combined``, ``sv``.
        scale: s.
        seed: decides the directions of slots never used.
        context: the device that computes.
        kernels: the form of the element-wise work: ``auto``, ``C`` or ``NDArray``.
        block_slots: the most slots that are worked on at once.
        keep_logits: False computes the logits of each block again in the backward pass: memory for one block's alone.

    Attributes:
        pool: the rank's part of the class pool.
        update: the steps made by :meth:`step`.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        slots: int,
        embedding_size: int,
        collectives: Collectives | None = None,
        *,
        margin: F2CMargin | Margin | str = "cosface",
        scale: float = 32.0,
        seed: int = 0,
        context: mx.Context | None = None,
        kernels: str = "auto",
        block_slots: int = DEFAULT_BLOCK_SLOTS,
        keep_logits: bool = True,
    ) -> None:
        if not 0.0 < scale < math.inf:
            raise ValueError(f"the scale of the logits must be finite and positive, but is {scale}")
        if block_slots < 1:
            raise ValueError(f"a block of logits must hold at least 1 slot, but block_slots is {block_slots}")
        collectives = collectives if collectives is not None else current()
        self._context = context if context is not None else mx.cpu()
        self.pool = pool = ClassPool(
            slots, embedding_size, rank=collectives.rank, ranks=collectives.size, seed=seed, context=self._context
        )
        self.margin = f2c_margin_of(margin)
        self.scale = scale
        self.seed = seed
        self.update = 0
        self._collectives = collectives
        self._kernels, _ = select_kernels(kernels, self._context, self._context)
        self._block_slots = block_slots
        self._keeps_logits = keep_logits
        self._hard_negatives = hard_negatives(pool.slots)
        self._buffers = Buffers(self._context)
        self._ones = nd.array(np.ones(min(block_slots, pool.slots)), ctx=self._context)
        self._pending: _Pass | None = None
        self._layer = Layer("F2C", embedding_size, self._context, collectives)
        self._on_trial = False  # a call of the layer has updated the pool, and step() may keep that

    def __call__(
        self, probe_BD: nd.NDArray, probe_label_B: Labels, gallery_BD: nd.NDArray, gallery_label_B: Labels
    ) -> nd.NDArray:
        """The loss of one pass over the global batch, for ``backward()`` where autograd records, and :meth:`step`.

        The gallery's embeddings update the pool on trial: the next call takes that back, and :meth:`step` keeps it. So
        two calls before a step, in which probe and gallery change roles, are the two passes of the method. Where
        autograd does not record, the pool is at once as before.

        Every rank makes the same calls, with as many embeddings each. One all-gather of the labels more than a pass
        of a training step has.

        Args:
            probe_BD, gallery_BD: (B, D) of any length and of any floating type, on the head's device. No gradient
                goes to the gallery's.
            probe_label_B, gallery_label_B: (B,) whole numbers in [0, 2⁶³), the identities of each.

        Returns:
            (1,) float32, the loss, the same on every rank. Its gradient by this rank's probe embeddings is complete,
            so that those by the network's parameters are parts of a sum over ranks. Where it is not finite, so is no
            gradient: skip the network's update, on every rank alike.

        Raises:
            ValueError: arguments of other shapes, labels that are none, more identities than slots; on every rank.
        """
        self.forget()
        probe_N, gallery_N = self._layer.share([probe_BD, gallery_BD], [probe_label_B, gallery_label_B])
        smallest = min(probe_N.min(), gallery_N.min())
        if smallest < 0:  # before the pool changes
            raise ValueError(f"labels must lie in [0, 2^63), but one is {smallest}")
        recorded, gradient_BD = mx.autograd.is_recording(), None
        with mx.autograd.pause():
            loss = self.forward(as_float32(probe_BD), as_float32(gallery_BD), probe_N, gallery_N)
            self._on_trial = recorded and math.isfinite(loss)
            if self._on_trial:
                gradient_BD = self.backward()
            else:
                self.rollback()
        return self._layer.loss(loss, probe_BD, gradient_BD, recorded)

    def step(self) -> bool:
        """Keeps the update of the pool that the last call made. No collective.

        Returns:
            Whether it did: not where the last call's loss is not finite, which is so on every rank or on none. What the
            call before it gave is not looked at: leave the step out where their sum is not finite.

        Raises:
            ValueError: no call, or no ``backward()``, since the last step.
        """
        self._layer.take_weight()
        self.update += 1
        kept, self._on_trial = self._on_trial, False
        if kept:
            self.keep()
        return kept

    def forget(self) -> None:
        """Drops what the last call left: the pool is as before it, and no step belongs to it any more."""
        self._layer.forget()
        if self._on_trial:
            self._on_trial = False
            self.rollback()

    @property
    def collectives(self) -> Collectives:
        """The ranks."""
        return self._collectives

    @property
    def kernels_name(self) -> str:
        """The form of the kernels that serves: for a log."""
        return self._kernels.name

    def forward(
        self,
        probe_BD: nd.NDArray,
        gallery_BD: nd.NDArray,
        probe_identity_N: np.ndarray,
        gallery_identity_N: np.ndarray,
    ) -> float:
        """Updates the pool by the gallery's embeddings, on trial, and computes the loss of the probe's.

        Args:
            probe_BD, gallery_BD: (B, D) float32, this rank's embeddings of any length.
            probe_identity_N, gallery_identity_N: (N,) int64, all ranks' identities in rank order.

        Returns:
            The loss of the global batch, the same on every rank. Where it is not finite, :meth:`rollback` must follow.

        Raises:
            ValueError: as :meth:`ClassPool.try_update`, the same on every rank.
        """
        both_N2D = self._collectives.all_gather(nd.concat(probe_BD, gallery_BD, dim=1), "head.embeddings")
        size = self.pool.embedding_size
        probe_ND, gallery_ND = (nd.slice_axis(both_N2D, 1, part * size, (part + 1) * size) for part in range(2))
        again = self.pool.try_update(gallery_identity_N, normalize(gallery_ND)[0])
        forward = self._begin(probe_ND, self.pool.lru.view(probe_identity_N), again)
        if self.margin.hard_weight is not None:
            target_logits = self._share_target_logits(forward)
        inside, n = forward.inside, len(probe_identity_N)
        search = OutlierSearch(self._hard_negatives, self.scale)
        for block in forward.columns.blocks:
            for matrix, logits_NS in self._logits(forward, block):
                if inside < n:
                    search.add(block, matrix, logits_NS[inside:])
                self._to_softmax(forward, block, matrix, logits_NS, forward.states[matrix])
        if self.margin.hard_weight is None:
            target_logits = [state.target_logit_N.asnumpy() for state in forward.states]
        forward.softmax = merge_both(
            forward.states,
            forward.targets,
            target_logits,
            n,
            margin=self.margin,
            scale=self.scale,
            collectives=self._collectives,
        )
        forward.outliers = search.merge(n, self._collectives) if inside < n else None
        self._pending = forward
        return forward.softmax.loss + (forward.outliers.loss if forward.outliers else 0.0)

    def backward(self) -> nd.NDArray:
        """The gradient of the loss by this rank's probe embeddings, (B, D) float32, complete over all ranks."""
        forward, self._pending = self._pending, None
        assert forward is not None
        n, d = forward.unit_ND.shape
        unit_gradient_ND = nd.zeros((n, d), ctx=self._context)
        if forward.inside:
            self._softmax_gradient(forward, unit_gradient_ND[: forward.inside])
        if forward.outliers is not None:
            part_OD = outlier_gradient(forward.outliers, n - forward.inside, forward.columns)
            if part_OD is not None:
                unit_gradient_ND[forward.inside :] = part_OD
        back = self._index(np.argsort(forward.order_N))
        own_BD = self._collectives.reduce_scatter(nd.take(unit_gradient_ND, back), "head.embedding_gradients")
        rank, size = self._collectives.rank, own_BD.shape[0]
        own = back[rank * size : (rank + 1) * size]
        return through_normalization(own_BD, nd.take(forward.unit_ND, own), nd.take(forward.inverse_norm_N1, own))

    def keep(self) -> None:
        """Ends a pass: the pool stays as its forward pass made it."""
        self._pending = None
        self.pool.keep()

    def rollback(self) -> None:
        """Ends a pass: the pool is exactly as before its forward pass."""
        self._pending = None
        self.pool.rollback()

    def _begin(self, probe_ND: nd.NDArray, slot_N: np.ndarray, again: np.ndarray) -> _Pass:
        """Sorts the samples, and finds the columns of the logits and each target's among them."""
        order_N = np.argsort(slot_N < 0, kind="stable")
        inside = int((slot_N >= 0).sum())
        unit_ND, inverse_norm_N1 = normalize(nd.take(probe_ND, self._index(order_N)))
        columns = PoolColumns(self.pool, again, self._block_slots)
        targets = [TargetColumns.on(self._context, part) for part in columns.targets(slot_N[order_N[:inside]])]
        states = [
            SoftmaxState(*(self._buffers.get(part, matrix, (max(inside, 1),)) for part in ("max", "sum", "target")))
            for matrix in range(2)
        ]
        for state in states:
            self._kernels.start(state)
        scaled_ND = unit_ND * self.scale
        return _Pass(inside, order_N, unit_ND, inverse_norm_N1, scaled_ND, columns, targets, None, states)

    def _logits(self, forward: _Pass, block: Block) -> Iterator[tuple[int, nd.NDArray]]:
        """The block's cosines times s in each of its matrices, (N, S); each is to be used before the next is made."""
        shape = (len(forward.order_N), block.size)
        number = block.number if self._keeps_logits else 0
        first_NS = self._buffers.get("logits", 2 * number, shape)
        matmul.logits(forward.scaled_ND, block.weight_SD, first_NS)
        if block.matrices == (1,):
            yield 1, first_NS
            return
        second_NS = self._buffers.get("logits", 2 * number + 1, shape)
        if block.mask_1S is None:
            first_NS.copyto(second_NS)
        else:
            nd.broadcast_add(first_NS, block.mask_1S, out=second_NS)
        yield 0, first_NS
        yield 1, second_NS

    def _kept_logits(self, block: Block, samples: int) -> Iterator[tuple[int, nd.NDArray]]:
        """What :meth:`_logits` and :meth:`_to_softmax` left of the block."""
        for place, matrix in enumerate(block.matrices):
            yield matrix, self._buffers.get("logits", 2 * block.number + place, (samples, block.size))

    def _to_softmax(
        self, forward: _Pass, block: Block, matrix: int, logits_NS: nd.NDArray, state: SoftmaxState
    ) -> None:
        """The logits of the samples in the pool, in place: hard negatives weighted, targets masked and noted."""
        if forward.inside == 0:
            return
        logits_IS = logits_NS[: forward.inside]
        if forward.thresholds is not None:
            weight = self.margin.hard_weight
            hard_IS = nd.broadcast_greater(logits_IS, forward.thresholds[matrix])
            logits_IS[:] = logits_IS + hard_IS * (logits_IS + self.scale) * (weight - 1.0)
        targets = BlockTargets(forward.targets[matrix], block.first, block.size)
        self._kernels.forward(logits_IS, self._ones[: block.size], targets, state)

    def _share_target_logits(self, forward: _Pass) -> list[np.ndarray]:
        """s·cos to the targets of both matrices, (I,) each on all ranks; sets from where on a negative is hard."""
        n, inside = len(forward.order_N), forward.inside
        sums_2N = np.zeros((2, n))
        for matrix, targets in enumerate(forward.targets):
            sample_K = np.flatnonzero(targets.column_N >= 0)
            if len(sample_K):
                target_KD = forward.columns.prototypes(targets.column_N[sample_K])
                own_KD = nd.take(forward.scaled_ND, self._index(sample_K))
                sums_2N[matrix, sample_K] = nd.sum(target_KD * own_KD, axis=1).asnumpy()
        tensor = nd.array(sums_2N, ctx=mx.cpu(), dtype=np.float64)
        with self._collectives.waiting("head.target_logits"):
            target_2N = self._collectives.all_reduce(tensor, "head.target_logits").asnumpy()
        hard_2N = target_2N - self.scale * self.margin.hard_margin
        forward.thresholds = [nd.array(hard_2N[matrix, :inside, None], ctx=self._context) for matrix in range(2)]
        return list(target_2N[:, :inside])

    def _softmax_gradient(self, forward: _Pass, unit_gradient_ID: nd.NDArray) -> None:
        n, inside = len(forward.order_N), forward.inside
        excesses = [self._on_device(part_I) for part_I in forward.softmax.excess_2I]
        slopes = [self._on_device(part_I) for part_I in forward.softmax.target_gradient_2I]
        scratch = SoftmaxState(*(self._buffers.get("scratch", number, (inside,)) for number in range(3)))
        for block in forward.columns.blocks:
            whole_IS = None
            recomputed = None if self._keeps_logits else self._logits(forward, block)
            for matrix, logits_NS in recomputed or self._kept_logits(block, n):
                if not self._keeps_logits:
                    self._kernels.start(scratch)
                    self._to_softmax(forward, block, matrix, logits_NS, scratch)
                logits_IS = logits_NS[:inside]
                self._coefficients(forward, block, matrix, logits_IS, excesses[matrix], slopes[matrix])
                whole_IS = logits_IS if whole_IS is None else whole_IS + logits_IS
            unit_gradient_ID += nd.dot(whole_IS, block.weight_SD)
        unit_gradient_ID *= self.scale / inside

    def _coefficients(
        self,
        forward: _Pass,
        block: Block,
        matrix: int,
        logits_IS: nd.NDArray,
        excess_I: nd.NDArray,
        slope_I: nd.NDArray,
    ) -> None:
        """From the logits to (I/s)·d loss / d cosine, in place."""
        if forward.thresholds is not None:  # past the threshold before it was weighted, and so after; targets are not
            hard_IS = nd.broadcast_greater(logits_IS, forward.thresholds[matrix])
        projection_S = self._buffers.get("projection", 0, (block.size,))
        targets = BlockTargets(forward.targets[matrix], block.first, block.size)
        ones_S, state = self._ones[: block.size], forward.states[matrix]
        self._kernels.backward(logits_IS, ones_S, targets, state, excess_I, slope_I, projection_S)
        if forward.thresholds is not None:
            logits_IS *= 1.0 + hard_IS * (self.margin.hard_weight - 1.0)

    def _index(self, rows: np.ndarray) -> nd.NDArray:
        return nd.array(rows, ctx=self._context, dtype="int64")

    def _on_device(self, values: np.ndarray) -> nd.NDArray:
        return nd.array(values, ctx=self._context, dtype="float32")
