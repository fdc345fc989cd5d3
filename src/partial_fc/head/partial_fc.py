"""The Partial FC classification layer: sharded class centers, sampled, under a margin softmax over all ranks.

Legend: B embeddings of a rank, R ranks, N = B·R, C identities, S sampled classes of this rank, D embedding size.

    cos[n,j]  = <x_n/|x_n|, w_j/|w_j|>
    logit     = s·cos, and s·margin(cos) at the target
    loss      = −(1/N) Σ_n log softmax(logit)[n, target(n)]       over the sampled classes of all ranks

Source: An et al., "Partial FC: Training 10 Million Identities on a Single Machine", arXiv 2010.05222.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mxnet as mx
import numpy as np

from partial_fc.center_storage import Storage
from partial_fc.collectives import Collectives
from partial_fc.head import matmul
from partial_fc.head.buffers import Buffers
from partial_fc.head.centers import CenterBlock, ClassCenters, LoadedBlock
from partial_fc.head.kernels import BlockTargets, NegativeRule, SoftmaxState, TargetColumns, UpdateRule
from partial_fc.head.kernels.select import select_kernels
from partial_fc.head.margin import Margin
from partial_fc.head.margin_softmax import BatchMargin, MarginSoftmax, as_margin_softmax
from partial_fc.head.normalization import normalize, through_normalization
from partial_fc.head.partition import ClassPartition
from partial_fc.head.sampler import SAMPLERS, RatioSchedule, sample_rows
from partial_fc.head.softmax import MergedSoftmax, merge_softmax

DEFAULT_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class SampledClasses:
    """The classes of one step on this rank, their rows on the way to where they are needed.

    Attributes:
        update: the step's number.
        row_S: (S,) int64, the rank's sampled rows, ascending.
        blocks: the rows in blocks.
        loaded: the blocks' rows, or nothing when they are loaded block by block as they are needed.
        columns: where the samples' targets are among the S classes.
    """

    update: int
    row_S: np.ndarray
    blocks: list[CenterBlock]
    loaded: list[LoadedBlock]
    columns: TargetColumns


@dataclass
class _Forward:
    """What a forward pass leaves for the backward pass."""

    sample: SampledClasses
    unit_ND: mx.nd.NDArray
    inverse_norm_N1: mx.nd.NDArray
    state: SoftmaxState
    softmax: MergedSoftmax
    margin: BatchMargin
    negatives: NegativeRule | None


class PartialFC:
    """The classification layer of one rank.

    A step is ``sample`` (as soon as the labels are known, beside the backbone's forward pass), ``forward`` and
    ``backward``. Every rank makes the same calls. Collectives: one all-gather of the embeddings (4·B·D bytes sent),
    one all-reduce of 2N float64, one reduce-scatter of the embeddings' gradient (4·N·D bytes); for a margin softmax
    that looks at the targets of all ranks an all-reduce of N float64 before the others.

    Args:
        num_classes: C.
        embedding_size: D.
        collectives: the ranks.
        margin: from the target's cosine to its logit, or a margin softmax that looks at the batch.
        scale: s, the logits' scale.
        sample_ratio: r in (0, 1], the share of its classes that a rank samples each step.
        sample_ratio_steps: (update, ratio), from which updates on the ratio is another one.
        sampler: ``pprn``, every positive and random negatives; or ``uniform``, purely random: a sample whose class is
            not drawn has no part in the loss then. For comparison: it learns less.
        filter_cosine: negatives whose cosine is above it are left out of the softmax, as what noisy labels make of an
            identity (An et al., "Killing Two Birds with One Stone", CVPR 2022, arXiv 2203.15565: 0.4). None: no filter.
        momentum, weight_decay: of the centers' SGD, on sampled rows only.
        seed: decides the initial centers and the negatives.
        context: the device that computes.
        storage: where and as what the centers are kept.
        kernels: the form of the element-wise work: ``auto``, ``C`` or ``NDArray``.
        block_rows: the most classes that are worked on at once, where ``logits_chunk`` does not say.
        logits_chunk: None keeps the logits of all sampled classes, N·S float32, from the forward to the backward
            pass. A number keeps those of so many classes alone and computes them again (arXiv 2411.09009): one
            matrix product more, and memory that does not grow with the classes.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        collectives: Collectives,
        *,
        margin: Margin | MarginSoftmax,
        scale: float = 64.0,
        sample_ratio: float = 1.0,
        sample_ratio_steps: Sequence[tuple[int, float]] = (),
        sampler: str = "pprn",
        filter_cosine: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        seed: int = 0,
        context: mx.Context | None = None,
        storage: Storage | None = None,
        kernels: str = "auto",
        block_rows: int = DEFAULT_BLOCK_ROWS,
        logits_chunk: int | None = None,
    ) -> None:
        ratios = RatioSchedule(sample_ratio, sample_ratio_steps)
        margin_softmax = as_margin_softmax(margin)
        if sampler not in SAMPLERS:
            raise ValueError(f"the sampler must be one of {', '.join(SAMPLERS)}, but is {sampler!r}")
        if sampler == "uniform" and margin_softmax.needs_targets:
            name = type(margin_softmax).__name__
            raise ValueError(f"{name} needs every sample's class, but the sampler is uniform: take the sampler pprn")
        if filter_cosine is not None and not -1.0 < filter_cosine < 1.0:
            raise ValueError(f"the cosine that negatives are left out above lies in (-1, 1), but is {filter_cosine}")
        if not 0.0 < scale < math.inf:
            raise ValueError(f"the scale of the logits must be finite and positive, but is {scale}")
        if logits_chunk is not None and logits_chunk < 1:
            raise ValueError(f"a chunk of logits must hold at least 1 class, but logits_chunk is {logits_chunk}")
        self.partition = ClassPartition(num_classes, collectives.size)
        self.margin = margin_softmax
        self.scale = scale
        self.sample_ratios = ratios
        self.filter_cosine = filter_cosine
        self._sampler = sampler
        self.momentum = momentum
        self.weight_decay = weight_decay
        self._seed = seed
        self._collectives = collectives
        self._context = context if context is not None else mx.cpu()
        storage = storage if storage is not None else Storage()
        stored_on = self._context if storage.tier == "device" else mx.cpu()
        self._kernels, row_kernels = select_kernels(kernels, self._context, stored_on)
        self._keeps_logits = logits_chunk is None
        self.first_class = self.partition.start(collectives.rank)
        self.centers = ClassCenters(
            self.first_class,
            self.partition.count(collectives.rank),
            embedding_size,
            seed=seed,
            context=self._context,
            storage=storage,
            kernels=row_kernels,
            block_rows=block_rows if logits_chunk is None else logits_chunk,
            rank=collectives.rank,
        )
        self._buffers = Buffers(self._context)
        self._pending: _Forward | None = None

    @property
    def kernels_name(self) -> str:
        """The form of the kernels that serves: for a log."""
        return self._kernels.name

    def sample(self, label_N: np.ndarray, update: int) -> SampledClasses:
        """Chooses this rank's classes for a step and starts the gather of their rows. No collective.

        Args:
            label_N: (N,) int64, the labels of the global batch in rank order, each in [0, C).
            update: number of the step; with the seed and the rank it decides the negatives.

        Raises:
            ValueError: a label outside [0, C).
        """
        label_N = np.asarray(label_N, dtype=np.int64)
        outside = (label_N < 0) | (label_N >= self.partition.num_classes)
        if outside.any():
            raise ValueError(
                f"labels must lie in [0, {self.partition.num_classes}), but one is {label_N[outside][0]}: "
                "the data set holds more identities than the classifier was made for"
            )
        row_N = label_N - self.first_class
        owned_N = (row_N >= 0) & (row_N < self.centers.count)
        positives = np.unique(row_N[owned_N])
        rng = np.random.default_rng([self._seed, self._collectives.rank, update])
        required = positives if self._sampler == "pprn" else positives[:0]
        row_S = sample_rows(self.centers.count, required, self.sample_ratios.at(update), rng)
        columns = TargetColumns.on(self._context, _columns(row_S, row_N))
        blocks = self.centers.blocks(row_S)
        # A sample travels beside the backbone's forward pass. All rows would be a second W: they are loaded block by
        # block, and so are those whose logits are not kept either.
        ahead = blocks if self._keeps_logits and len(row_S) < self.centers.count else []
        loaded = [self.centers.load(block, slot) for slot, block in enumerate(ahead)]
        return SampledClasses(update, row_S, blocks, loaded, columns)

    def forward(self, embedding_BD: mx.nd.NDArray, sample: SampledClasses) -> float:
        """Computes the loss of the global batch.

        Args:
            embedding_BD: (B, D) float32, this rank's embeddings; every rank passes as many.
            sample: what :meth:`sample` gave for the labels of the same batch.

        Returns:
            The mean cross-entropy over the N samples in nats, the same on every rank. When it is not finite,
            :meth:`backward` must not follow: skip the update, on every rank alike.
        """
        x_ND = self._collectives.all_gather(embedding_BD, "head.embeddings")
        n = x_ND.shape[0]
        assert n == len(sample.columns.column_N), (x_ND.shape, len(sample.columns.column_N))
        unit_ND, inverse_norm_N1 = normalize(x_ND)
        scaled_ND = unit_ND * self.scale
        margin = self._batch_margin(sample, scaled_ND, inverse_norm_N1)
        negatives = self._negative_rule(margin, n)
        state = SoftmaxState(*(self._buffers.get(part, 0, (n,)) for part in ("max", "sum", "target logit")))
        self._kernels.start(state)
        for number, block in enumerate(sample.blocks):
            loaded = self._loaded(sample, number)
            logits_NB = self._logits_buffer(number, n, block)
            matmul.logits(scaled_ND, loaded.weight_BD, logits_NB)
            targets = BlockTargets(sample.columns, block.first, block.size)
            self._kernels.forward(logits_NB, loaded.inverse_norm_B, targets, state, negatives)
        softmax = merge_softmax(
            state.max_N.asnumpy(),
            state.sum_N.asnumpy(),
            state.target_logit_N.asnumpy(),
            sample.columns.column_N >= 0,
            margin=margin.target,
            scale=self.scale,
            collectives=self._collectives,
            every_target=self._sampler == "pprn",
        )
        self._pending = _Forward(sample, unit_ND, inverse_norm_N1, state, softmax, margin, negatives)
        return softmax.loss

    def backward(self, learning_rate: float) -> mx.nd.NDArray:
        """Updates the sampled centers and gives the gradient of the loss.

        Args:
            learning_rate: η of the centers' SGD step.

        Returns:
            (B, D) float32, d loss / d embedding of this rank's samples, complete over all ranks.
        """
        pending, self._pending = self._pending, None
        assert pending is not None and math.isfinite(pending.softmax.loss)
        sample, (n, d) = pending.sample, pending.unit_ND.shape
        samples = max(pending.softmax.samples, 1)
        self.margin.keep(pending.margin.statistics)
        excess_N = self._on_device(pending.softmax.lse_N - pending.state.max_N.asnumpy())
        target_gradient_N = self._on_device(pending.softmax.target_gradient_N)
        scaled_ND = None if self._keeps_logits else pending.unit_ND * self.scale
        rule = self._update_rule(learning_rate, samples, sample.update)
        unit_gradient_ND = mx.nd.zeros((n, d), ctx=self._context)
        part_ND = self._buffers.get("unit gradient", 0, (n, d))
        for number, block in enumerate(sample.blocks):
            loaded = self._loaded(sample, number)
            logits_NB = self._logits_buffer(number, n, block)
            if scaled_ND is not None:
                matmul.logits(scaled_ND, loaded.weight_BD, logits_NB)
            targets = BlockTargets(sample.columns, block.first, block.size)
            projection_B = self._buffers.get("projection", 0, (block.size,))
            self._kernels.backward(
                logits_NB,
                loaded.inverse_norm_B,
                targets,
                pending.state,
                excess_N,
                target_gradient_N,
                projection_B,
                raw=scaled_ND is not None,
                negatives=pending.negatives,
            )
            gradient_BD = self._buffers.get("weight gradient", 0, (block.size, d))
            matmul.gradients(logits_NB, pending.unit_ND, loaded.weight_BD, part_ND, gradient_BD)
            unit_gradient_ND += part_ND
            self.centers.update(block, loaded, gradient_BD, projection_B, rule)
        unit_gradient_ND *= self.scale / samples
        own_BD = self._collectives.reduce_scatter(unit_gradient_ND, "head.embedding_gradients")
        own = slice(self._collectives.rank * own_BD.shape[0], (self._collectives.rank + 1) * own_BD.shape[0])
        return through_normalization(own_BD, pending.unit_ND[own], pending.inverse_norm_N1[own])

    def _loaded(self, sample: SampledClasses, number: int) -> LoadedBlock:
        """A block's rows: those on the way since the labels were known, or loaded now, where the last but one were."""
        return sample.loaded[number] if sample.loaded else self.centers.load(sample.blocks[number], slot=number % 2)

    def _batch_margin(
        self, sample: SampledClasses, scaled_ND: mx.nd.NDArray, inverse_norm_N1: mx.nd.NDArray
    ) -> BatchMargin:
        """The margin of this batch, the same on every rank."""
        norm_N = target_cosine_N = None
        if self.margin.needs_norms:
            inverse_norm_N = inverse_norm_N1.asnumpy().reshape(-1).astype(np.float64)
            norm_N = np.divide(1.0, inverse_norm_N, out=np.zeros_like(inverse_norm_N), where=inverse_norm_N != 0)
        if self.margin.needs_targets:
            target_cosine_N = self._target_cosines(sample, scaled_ND)
        return self.margin.for_batch(norm_N, target_cosine_N)

    def _target_cosines(self, sample: SampledClasses, scaled_ND: mx.nd.NDArray) -> np.ndarray:
        """(N,) float64, each sample's cosine to its own class center. One all-reduce of N float64."""
        column_N = sample.columns.column_N
        logit_N = np.zeros(len(column_N))
        sample_K = np.flatnonzero(column_N >= 0)
        row_P, place_K = np.unique(sample.row_S[column_N[sample_K]], return_inverse=True)
        for block in self.centers.blocks(row_P):
            loaded = self.centers.load(block, slot=-1)
            here_K = (place_K >= block.first) & (place_K < block.first + block.size)
            row_H = mx.nd.array(place_K[here_K] - block.first, ctx=self._context, dtype="int64")
            x_HD = mx.nd.take(scaled_ND, mx.nd.array(sample_K[here_K], ctx=self._context, dtype="int64"))
            dot_H = mx.nd.sum(x_HD * mx.nd.take(loaded.weight_BD, row_H), axis=1)
            logit_N[sample_K[here_K]] = (dot_H * mx.nd.take(loaded.inverse_norm_B, row_H)).asnumpy()
        tensor = mx.nd.array(logit_N / self.scale, ctx=mx.cpu(), dtype=np.float64)
        with self._collectives.waiting("head.target_cosines"):
            return self._collectives.all_reduce(tensor, "head.target_cosines").asnumpy()

    def _negative_rule(self, margin: BatchMargin, n: int) -> NegativeRule | None:
        """What the logits of the negatives become; None where they stay."""
        if margin.hard is None and self.filter_cosine is None:
            return None
        s = self.scale
        filter_logit = math.inf if self.filter_cosine is None else s * self.filter_cosine
        if margin.hard is None:
            return NegativeRule(self._on_device(np.full(n, np.inf)), filter=filter_logit)
        hard = margin.hard
        threshold_N = self._on_device(s * hard.threshold_N)
        return NegativeRule(threshold_N, hard.linear, hard.quadratic / s, hard.constant * s, filter_logit)

    def _logits_buffer(self, number: int, n: int, block: CenterBlock) -> mx.nd.NDArray:
        return self._buffers.get("logits", number if self._keeps_logits else 0, (n, block.size))

    def _update_rule(self, learning_rate: float, n: int, update: int) -> UpdateRule:
        return UpdateRule(
            gradient_factor=-learning_rate * self.scale / n,
            projection_factor=learning_rate / n,
            decay=learning_rate * self.weight_decay,
            momentum=self.momentum,
            random_key=int(np.random.SeedSequence([self._seed, self._collectives.rank, update]).generate_state(1)[0]),
        )

    def _on_device(self, values_N: np.ndarray) -> mx.nd.NDArray:
        return mx.nd.array(values_N, ctx=self._context, dtype="float32")


def _columns(row_S: np.ndarray, row_N: np.ndarray) -> np.ndarray:
    """(N,) the place of each row among the ascending sampled ones, −1 where it is not one of them."""
    place_N = np.minimum(np.searchsorted(row_S, row_N), len(row_S) - 1)
    return np.where(row_S[place_N] == row_N, place_N, -1)
