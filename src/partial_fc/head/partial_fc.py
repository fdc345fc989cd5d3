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
from partial_fc.head.decay_history import DecayHistory
from partial_fc.head.kernels import BlockTargets, NegativeRule, SoftmaxState, TargetColumns, UpdateRule
from partial_fc.head.kernels.select import select_kernels
from partial_fc.head.layer import Labels, Layer, as_float32, check_loss_scale, check_rate
from partial_fc.head.margin import Margin
from partial_fc.head.margin_names import margin_of
from partial_fc.head.margin_softmax import BatchMargin, MarginSoftmax, as_margin_softmax
from partial_fc.head.normalization import normalize, through_normalization
from partial_fc.head.partition import ClassPartition
from partial_fc.head.sampler import SAMPLERS, RatioSchedule, sample_rows
from partial_fc.head.softmax import MergedSoftmax, merge_softmax
from partial_fc.horovod_collectives import current

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

    In a network and a loop of one's own, on one rank or on all those that Horovod has (docs/layer.md)::

        net = gluon.model_zoo.vision.mobilenet_v2_1_0(classes=128)     # any network: (B, D) from a batch
        net.initialize(mx.init.Xavier())
        trainer = hvd.DistributedTrainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9})
        head = PartialFC(num_classes, 128, margin="arcface", sample_ratio=0.1, learning_rate=0.1)
        for image, label in batches:
            with autograd.record():
                loss = head(net(image), label)
            loss.backward()
            trainer.step(1 / hvd.size())    # the sum over ranks, where Horovod's own is the mean
            head.step()

    A training loop of this project's own takes a step apart: ``sample`` (as soon as the labels are known, beside the
    backbone's forward pass), ``forward`` and ``backward``. Every rank makes the same calls. Collectives: one all-gather
    of the embeddings (4·B·D bytes sent), one all-reduce of 2N float64, one reduce-scatter of the embeddings' gradient
    (4·N·D bytes); for a margin softmax that looks at the targets of all ranks an all-reduce of N float64 before the
    others.

    Args:
        num_classes: C.
        embedding_size: D.
        collectives: the ranks; those of Horovod's run where none are given, or one process.
        margin: from the target's cosine to its logit, or a margin softmax that looks at the batch; or the name of one:
            ``cosface``, ``arcface``, ``combined``, ``sv``, ``adaface``, ``curricularface``.
        scale: s, the logits' scale.
        sample_ratio: r in (0, 1], the share of its classes that a rank samples each step.
        sample_ratio_steps: (update, ratio), from which updates on the ratio is another one.
        sampler: ``pprn``, every positive and random negatives; or ``uniform``, purely random: a sample whose class is
            not drawn has no part in the loss then. For comparison: it learns less.
        filter_cosine: negatives whose cosine is above it are left out of the softmax, as what noisy labels make of an
            identity (An et al., "Killing Two Birds with One Stone", CVPR 2022, arXiv 2203.15565: 0.4). None: no filter.
        learning_rate: η of the centers' SGD, for :meth:`step`.
        momentum, weight_decay: of the same, on sampled rows; see ``lazy_updates`` for the others.
        seed: decides the initial centers and the negatives.
        context: the device that computes.
        storage: where and as what the centers are kept.
        kernels: the form of the element-wise work: ``auto``, ``C`` or ``NDArray``.
        block_rows: the most classes that are worked on at once, where ``logits_chunk`` does not say.
        logits_chunk: None keeps the logits of all sampled classes, N·S float32, from the forward to the backward
            pass. A number keeps those of so many classes alone and computes them again (arXiv 2411.09009): one
            matrix product more, and memory that does not grow with the classes.
        lazy_updates: class centers that are not sampled move on by momentum and weight decay, as in the dense update,
            computed when they are next sampled. Otherwise they stay as they are, as in the paper.

    Attributes:
        update: the steps made by :meth:`step`, which decides the negatives of the next one.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        collectives: Collectives | None = None,
        *,
        margin: Margin | MarginSoftmax | str = "cosface",
        scale: float = 64.0,
        sample_ratio: float = 1.0,
        sample_ratio_steps: Sequence[tuple[int, float]] = (),
        sampler: str = "pprn",
        filter_cosine: float | None = None,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        seed: int = 0,
        context: mx.Context | None = None,
        storage: Storage | None = None,
        kernels: str = "auto",
        block_rows: int = DEFAULT_BLOCK_ROWS,
        logits_chunk: int | None = None,
        lazy_updates: bool = False,
    ) -> None:
        ratios = RatioSchedule(sample_ratio, sample_ratio_steps)
        margin_softmax = as_margin_softmax(margin_of(margin))
        if sampler not in SAMPLERS:
            raise ValueError(f"the sampler must be one of {', '.join(SAMPLERS)}, but is {sampler!r}")
        if sampler == "uniform" and margin_softmax.needs_targets:
            name = type(margin_softmax).__name__
            raise ValueError(f"{name} needs every sample's class, but the sampler is uniform: take the sampler pprn")
        if filter_cosine is not None and not -1.0 < filter_cosine < 1.0:
            raise ValueError(f"the cosine that negatives are left out above lies in (-1, 1), but is {filter_cosine}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"the momentum of the class centers must lie in [0, 1), but is {momentum}")
        if not 0.0 <= weight_decay < math.inf:
            raise ValueError(f"the weight decay must be finite and not negative, but is {weight_decay}")
        if not 0.0 < scale < math.inf:
            raise ValueError(f"the scale of the logits must be finite and positive, but is {scale}")
        if logits_chunk is not None and logits_chunk < 1:
            raise ValueError(f"a chunk of logits must hold at least 1 class, but logits_chunk is {logits_chunk}")
        collectives = collectives if collectives is not None else current()
        self.partition = ClassPartition(num_classes, collectives.size)
        self.margin = margin_softmax
        self.scale = scale
        self.sample_ratios = ratios
        self.filter_cosine = filter_cosine
        self._sampler = sampler
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.learning_rate = check_rate(learning_rate)
        self.update = 0
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
        if lazy_updates:
            self.centers.follow(DecayHistory())
        self._buffers = Buffers(self._context)
        self._pending: _Forward | None = None
        self._layer = Layer("PartialFC", embedding_size, self._context, collectives)

    def __call__(self, embedding_BD: mx.nd.NDArray, label_B: Labels) -> mx.nd.NDArray:
        """The loss of the global batch, for ``backward()`` where autograd records, and then :meth:`step`.

        Every rank makes the same calls, with as many embeddings each. One all-gather of the labels more than a
        training step has; it does not wait for the network. A call replaces what the one before left.

        Where autograd does not record, the loss is all there is: of the same classes as in the next step.

        Args:
            embedding_BD: (B, D) of any length and of any floating type, on the head's device.
            label_B: (B,) whole numbers in [0, C).

        Returns:
            (1,) float32, the mean cross-entropy over the N samples in nats, the same on every rank. Its gradient by
            this rank's embeddings is complete, so that those by the network's parameters are parts of a sum over
            ranks. Where it is not finite, so is no gradient: skip the network's update, on every rank alike.

        Raises:
            ValueError: arguments of other shapes, a label outside [0, C); on every rank.
        """
        self.forget()
        (label_N,) = self._layer.share([embedding_BD], [label_B])
        recorded, gradient_BD = mx.autograd.is_recording(), None
        with mx.autograd.pause():
            loss = self.forward(as_float32(embedding_BD), self.sample(label_N, self.update))
            if recorded and math.isfinite(loss):
                gradient_BD = self.embedding_gradient()
            else:
                self._pending = None
        return self._layer.loss(loss, embedding_BD, gradient_BD, recorded)

    def step(self, learning_rate: float | None = None, *, loss_scale: float = 1.0) -> bool:
        """Updates the sampled centers by the gradient of what ``backward()`` was called on. No collective.

        Args:
            learning_rate: η of this step; :attr:`learning_rate` where it is not given.
            loss_scale: what the loss was multiplied by against an underflow (AMP); the gradient is divided by it.

        Returns:
            Whether they were: not where the loss or its gradient is not finite, which is so on every rank or on none.

        Raises:
            ValueError: no call, or no ``backward()``, since the last step; a value out of its range.
        """
        learning_rate = self.learning_rate if learning_rate is None else check_rate(learning_rate)
        loss_scale = check_loss_scale(loss_scale)
        weight = self._layer.take_weight() / loss_scale
        self.update += 1
        if self._pending is None or not math.isfinite(weight):
            self._pending = None
            return False
        self.update_centers(learning_rate, weight)
        return True

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets η of the steps to come, as Gluon's Trainer does."""
        self.learning_rate = check_rate(learning_rate)

    def forget(self) -> None:
        """Drops what the last call left: no step belongs to it any more."""
        self._pending = None
        self._layer.forget()

    @property
    def collectives(self) -> Collectives:
        """The ranks."""
        return self._collectives

    @property
    def seed(self) -> int:
        """What decides the initial centers and the negatives."""
        return self._seed

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
            largest_negative=1.0 if margin.hard is None else margin.hard.largest,
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
        return self._embedding_gradient(pending, self._update_rule(pending, learning_rate))

    def embedding_gradient(self) -> mx.nd.NDArray:
        """What :meth:`backward` gives, with the centers as they were: :meth:`update_centers` may follow, once.

        Together they take more time than :meth:`backward`, which has both products of a block at once.
        """
        assert self._pending is not None and math.isfinite(self._pending.softmax.loss)
        return self._embedding_gradient(self._pending, None)

    def update_centers(self, learning_rate: float, gradient_scale: float = 1.0) -> None:
        """Updates the sampled centers, after :meth:`embedding_gradient`.

        Args:
            learning_rate: η.
            gradient_scale: what the gradient of the loss is multiplied by; weight decay is not.
        """
        pending, self._pending = self._pending, None
        assert pending is not None
        sample, (n, d) = pending.sample, pending.unit_ND.shape
        rule = self._update_rule(pending, learning_rate, gradient_scale)
        slopes = None if self._keeps_logits else self._slopes(pending)
        transposed_DN = mx.nd.transpose(pending.unit_ND, out=self._buffers.get("transposed", 0, (d, n)))
        for number, block in enumerate(sample.blocks):
            loaded = self._loaded(sample, number)
            logits_NB, projection_B = self._logits_buffer(number, n, block), self._projection_buffer(number, block)
            if slopes is not None:
                self._to_coefficients(pending, slopes, block, loaded, logits_NB, projection_B)
            gradient_BD = self._buffers.get("weight gradient", 0, (block.size, d))
            transposed_BN = self._buffers.get("transposed", 1, (block.size, n))
            matmul.weight_gradient(logits_NB, transposed_DN, transposed_BN, gradient_BD)
            self.centers.update(block, loaded, gradient_BD, projection_B, rule)
        self._updated(pending, rule)

    def _embedding_gradient(self, pending: _Forward, rule: UpdateRule | None) -> mx.nd.NDArray:
        """The gradient by this rank's embeddings; with a rule the centers are updated on the way, block by block."""
        sample, (n, d) = pending.sample, pending.unit_ND.shape
        slopes = self._slopes(pending)
        unit_gradient_ND = mx.nd.zeros((n, d), ctx=self._context)
        part_ND = self._buffers.get("unit gradient", 0, (n, d))
        for number, block in enumerate(sample.blocks):
            loaded = self._loaded(sample, number)
            logits_NB, projection_B = self._logits_buffer(number, n, block), self._projection_buffer(number, block)
            self._to_coefficients(pending, slopes, block, loaded, logits_NB, projection_B)
            if rule is None:
                transposed_DB = self._buffers.get("transposed", 1, (d, block.size))
                matmul.x_gradient(logits_NB, loaded.weight_BD, transposed_DB, part_ND)
                unit_gradient_ND += part_ND
                continue
            gradient_BD = self._buffers.get("weight gradient", 0, (block.size, d))
            matmul.gradients(logits_NB, pending.unit_ND, loaded.weight_BD, part_ND, gradient_BD)
            unit_gradient_ND += part_ND
            self.centers.update(block, loaded, gradient_BD, projection_B, rule)
        if rule is not None:
            self._updated(pending, rule)
        unit_gradient_ND *= self.scale / max(pending.softmax.samples, 1)
        own_BD = self._collectives.reduce_scatter(unit_gradient_ND, "head.embedding_gradients")
        own = slice(self._collectives.rank * own_BD.shape[0], (self._collectives.rank + 1) * own_BD.shape[0])
        return through_normalization(own_BD, pending.unit_ND[own], pending.inverse_norm_N1[own])

    def _slopes(self, pending: _Forward) -> tuple[mx.nd.NDArray, mx.nd.NDArray, mx.nd.NDArray | None]:
        """What turns a block's logits into coefficients; with what the logits are made of where they were not kept."""
        excess_N = self._on_device(pending.softmax.lse_N - pending.state.max_N.asnumpy())
        target_gradient_N = self._on_device(pending.softmax.target_gradient_N)
        return excess_N, target_gradient_N, None if self._keeps_logits else pending.unit_ND * self.scale

    def _to_coefficients(
        self,
        pending: _Forward,
        slopes: tuple[mx.nd.NDArray, mx.nd.NDArray, mx.nd.NDArray | None],
        block: CenterBlock,
        loaded: LoadedBlock,
        logits_NB: mx.nd.NDArray,
        projection_B: mx.nd.NDArray,
    ) -> None:
        """From a block's logits to (N/s)·d loss / d (cosine · |w|) in place, and its classes' projections."""
        excess_N, target_gradient_N, scaled_ND = slopes
        if scaled_ND is not None:
            matmul.logits(scaled_ND, loaded.weight_BD, logits_NB)
        self._kernels.backward(
            logits_NB,
            loaded.inverse_norm_B,
            BlockTargets(pending.sample.columns, block.first, block.size),
            pending.state,
            excess_N,
            target_gradient_N,
            projection_B,
            raw=scaled_ND is not None,
            negatives=pending.negatives,
        )

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

    def _projection_buffer(self, number: int, block: CenterBlock) -> mx.nd.NDArray:
        return self._buffers.get("projection", number if self._keeps_logits else 0, (block.size,))

    def _updated(self, pending: _Forward, rule: UpdateRule) -> None:
        """All blocks of the step have their update."""
        self.margin.keep(pending.margin.statistics)
        self.centers.updated(pending.sample.row_S, rule)

    def _update_rule(self, pending: _Forward, learning_rate: float, gradient_scale: float = 1.0) -> UpdateRule:
        update, samples = pending.sample.update, max(pending.softmax.samples, 1)
        return UpdateRule(
            gradient_factor=-learning_rate * gradient_scale * self.scale / samples,
            projection_factor=learning_rate * gradient_scale / samples,
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
