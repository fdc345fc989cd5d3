"""The classification layer in its naive dense form, and small cases of it, for tests to compare with.

The reference is neither sharded nor fast, and takes nothing but the margins' parameters and the initial centers
from the code it checks: its gradients are MXNet's autograd of the loss as the paper writes it, in float64.

Legend: B embeddings of a rank, R ranks, N = B·R, C identities, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives, Traffic
from partial_fc.head.initialization import initial_rows
from partial_fc.head.margin import Margin
from partial_fc.head.margin_softmax import MarginSoftmax
from partial_fc.head.partial_fc import PartialFC
from partial_fc.head.row_store import RowStore
from partial_fc.testing_margins import DenseMarginSoftmax, dense_margin_softmax
from partial_fc.testing_plain import PlainPartialFC as PlainPartialFC  # for benchmarks

nd = mx.nd


def relative_error(actual: np.ndarray | float, expected: np.ndarray | float) -> float:
    """max|a − b| / max|b|, the measure of every gradient here; infinite where ``actual`` is not finite."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if not np.isfinite(actual).all():
        return np.inf
    difference = np.abs(actual - expected).max(initial=0.0)
    largest = np.abs(expected).max(initial=0.0)
    return float(difference / largest) if largest > 0 else (0.0 if difference == 0 else np.inf)


@dataclass(frozen=True)
class DenseGradients:
    """Loss and gradients of the dense layer.

    Attributes:
        loss: mean cross-entropy in nats.
        gradient_x_ND: (N, D) float64, d loss / d x.
        gradient_w_CD: (C, D) float64, d loss / d w; zero for classes that took no part.
    """

    loss: float
    gradient_x_ND: np.ndarray
    gradient_w_CD: np.ndarray


def dense_loss_and_gradients(
    x_ND: np.ndarray,
    label_N: np.ndarray,
    w_CD: np.ndarray,
    columns: np.ndarray | None = None,
    *,
    margin: Margin | DenseMarginSoftmax,
    scale: float,
    filter_cosine: float | None = None,
    missing_labels: bool = False,
) -> DenseGradients:
    """The loss over all classes, or over some, and its gradients by autograd.

        loss = −(1/N) Σ_n log softmax(scale·margin(cos))[n, label(n)]        margin at the label only

    Args:
        x_ND: (N, D) embeddings of any length. A cosine of exactly ±1 has no derivative here.
        label_N: (N,) integers in [0, C).
        w_CD: (C, D) class centers of any length.
        columns: distinct classes that take part, every label among them; all of them when not given.
        margin: only its m1, m2 and m3 are used; or a margin softmax in its dense form.
        scale: s.
        filter_cosine: negatives of a larger cosine take no part.
        missing_labels: labels need not be among the columns; the mean is over the samples whose label is.
    """
    columns = np.arange(len(w_CD)) if columns is None else np.asarray(columns)
    target_NS = label_N[:, None] == columns[None, :]
    occurs_N = target_NS.sum(axis=1)
    assert ((occurs_N == 1) | (missing_labels & (occurs_N == 0))).all(), "every label is one of the columns, once"
    x, w, target = (nd.array(a, dtype="float64") for a in (x_ND, w_CD[columns], target_NS))
    x.attach_grad()
    w.attach_grad()
    with mx.autograd.record():
        cosine = nd.dot(_unit(x), _unit(w), transpose_b=True)
        if isinstance(margin, Margin):
            with_margin, negatives = _with_margin(cosine, margin), cosine
        else:
            with_margin, negatives = margin(x, cosine, target)
        if filter_cosine is not None:
            negatives = nd.where(cosine > filter_cosine, -1e9 * nd.ones_like(cosine), negatives)
        logits = scale * nd.where(target, with_margin, negatives)
        shifted = logits - nd.max(logits, axis=1, keepdims=True)  # exp() of a logit of 64,000 is no number
        log_softmax = shifted - nd.log(nd.sum(nd.exp(shifted), axis=1, keepdims=True))
        loss = -nd.sum(target * log_softmax) / max(int(target_NS.sum()), 1)
    loss.backward()
    gradient_w_CD = np.zeros(w_CD.shape)
    gradient_w_CD[columns] = w.grad.asnumpy()
    return DenseGradients(float(loss.asscalar()), x.grad.asnumpy(), gradient_w_CD)


def _unit(rows: mx.nd.NDArray) -> mx.nd.NDArray:
    return rows / nd.sqrt(nd.sum(rows * rows, axis=1, keepdims=True))


def _with_margin(cosine: mx.nd.NDArray, margin: Margin) -> mx.nd.NDArray:
    """cos(m1·θ + m2) − m3, and from the θ on at which that cosine is −1, a plain cosine that joins it."""
    angle = margin.m1 * nd.arccos(cosine) + margin.m2
    cosine_at_pi = np.cos((np.pi - margin.m2) / margin.m1)
    return nd.where(angle <= np.pi, nd.cos(angle), cosine - cosine_at_pi - 1) - margin.m3


def dense_sgd_momentum(
    w_CD: np.ndarray,
    momentum_CD: np.ndarray,
    gradient_w_CD: np.ndarray,
    rows: np.ndarray,
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> tuple[np.ndarray, np.ndarray]:
    """One step of SGD with momentum on some rows, in float64: M ← μM − η(dW + λW), W ← W + M.

    Returns:
        The new W and M, (C, D) float64 each; rows outside ``rows`` are as they were.
    """
    w_CD, momentum_CD = w_CD.astype(np.float64), momentum_CD.astype(np.float64)
    for row in rows:
        change = gradient_w_CD[row] + weight_decay * w_CD[row]
        momentum_CD[row] = momentum * momentum_CD[row] - learning_rate * change
        w_CD[row] = w_CD[row] + momentum_CD[row]
    return w_CD, momentum_CD


@dataclass(frozen=True)
class LayerCase:
    """A few steps of the layer, described: any number of ranks can take them, and so can the reference.

    Attributes:
        num_classes, embedding_size, samples: C, D, and N, which the rank count must divide.
        steps: how many updates.
        margin, scale, sample_ratio, sampler, filter_cosine, learning_rate, momentum, weight_decay: of the layer; a
            margin softmax, which keeps something from batch to batch, as the function that makes it.
        seed: decides centers, embeddings, labels and negatives.
        labels: the classes that labels are drawn from; all when not given.
    """

    num_classes: int
    embedding_size: int = 16
    samples: int = 12
    steps: int = 3
    margin: Margin | Callable[[], MarginSoftmax] = Margin(m2=0.5)
    scale: float = 64.0
    sample_ratio: float = 1.0
    learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 5.0  # seen beside gradients of some 100 on rows of length 0.04
    seed: int = 0
    labels: tuple[int, ...] | None = None
    sampler: str = "pprn"
    filter_cosine: float | None = None

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The global batch of a step: embeddings (N, D) float32 of lengths from 0.1 to 10, labels (N,) int64.

        An embedding lies anywhere between its center and the opposite of it, so that every branch of a margin
        and every probability from 0 to 1 occurs.
        """
        rng = np.random.default_rng([self.seed, step])
        classes = np.arange(self.num_classes) if self.labels is None else np.array(self.labels)
        label_N = rng.choice(classes, size=self.samples).astype(np.int64)
        toward_N1 = rng.uniform(-0.9, 0.9, size=(self.samples, 1))
        noise_ND = _unit_rows(rng.normal(size=(self.samples, self.embedding_size)))
        center_ND = _unit_rows(initial_rows(self.seed, label_N, self.embedding_size))
        direction_ND = _unit_rows(toward_N1 * center_ND + (1 - np.abs(toward_N1)) * noise_ND)
        length_N1 = 10.0 ** rng.uniform(-1, 1, size=(self.samples, 1))
        return (length_N1 * direction_ND).astype(np.float32), label_N

    def make_layer(self, collectives: Collectives, **options: Any) -> PartialFC:
        """The layer of one rank; ``options`` are further arguments of :class:`PartialFC`."""
        return PartialFC(
            self.num_classes,
            self.embedding_size,
            collectives,
            margin=self.margin if isinstance(self.margin, Margin) else self.margin(),
            scale=self.scale,
            sample_ratio=self.sample_ratio,
            sampler=self.sampler,
            filter_cosine=self.filter_cosine,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            seed=self.seed,
            **options,
        )


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass
class LayerTrace:
    """What the steps of a case did on one rank, copied out of the layer.

    Attributes:
        first_class: number of the rank's first class.
        loss: one a step.
        sampled_classes: (S,) int64 a step, global numbers.
        gradient_x_BD: (B, D) a step.
        weight_CD, momentum_CD: (C_k, D) before the first step, then after each.
        traffic: what the layer's collectives carried, by name, one a step.
    """

    first_class: int
    loss: list[float] = field(default_factory=list)
    sampled_classes: list[np.ndarray] = field(default_factory=list)
    gradient_x_BD: list[np.ndarray] = field(default_factory=list)
    weight_CD: list[np.ndarray] = field(default_factory=list)
    momentum_CD: list[np.ndarray] = field(default_factory=list)
    traffic: list[dict[str, Traffic]] = field(default_factory=list)


def centers_of(layer: PartialFC) -> tuple[np.ndarray, np.ndarray]:
    """Copies of the rank's centers and their momentum, (C_k, D) float32 each, touched or not yet."""
    parts = [(_rows_of(store), _momentum_of(store)) for store in layer.centers.stores]
    weights, momenta = zip(*parts, strict=True)
    return np.concatenate(weights), np.concatenate(momenta)


def _rows_of(store: RowStore) -> np.ndarray:
    weight_RD = store.weight_RD.asnumpy()
    untouched = np.flatnonzero(~store.touched_R)
    weight_RD[untouched] = initial_rows(store.seed, store.first_class + untouched, weight_RD.shape[1])
    return weight_RD.astype(np.float32)


def _momentum_of(store: RowStore) -> np.ndarray:
    momentum_RD = store.momentum_RD.asnumpy()
    if store.scale_R1 is None:
        return momentum_RD.astype(np.float32)
    return momentum_RD.view(np.int8) * store.scale_R1.asnumpy()


def own_part(x_ND: np.ndarray, collectives: Collectives) -> np.ndarray:
    """The rank's B of the N rows of a global batch."""
    size = len(x_ND) // collectives.size
    assert size * collectives.size == len(x_ND), (len(x_ND), collectives.size)
    return x_ND[collectives.rank * size : (collectives.rank + 1) * size]


def train_layer(case: LayerCase, collectives: Collectives, **options: Any) -> LayerTrace:
    """Takes the case's steps on one rank; every rank calls it."""
    layer = case.make_layer(collectives, **options)
    trace = LayerTrace(layer.first_class)
    _record_centers(layer, trace)
    for step in range(case.steps):
        x_ND, label_N = case.batch(step)
        collectives.reset_traffic()
        sample = layer.sample(label_N, step)
        trace.loss.append(layer.forward(mx.nd.array(own_part(x_ND, collectives)), sample))
        trace.gradient_x_BD.append(layer.backward(case.learning_rate).asnumpy())
        trace.sampled_classes.append(layer.first_class + sample.row_S)
        trace.traffic.append({name: replace(entry) for name, entry in collectives.traffic.items()})
        _record_centers(layer, trace)
    return trace


def _record_centers(layer: PartialFC, trace: LayerTrace) -> None:
    weight_CD, momentum_CD = centers_of(layer)
    trace.weight_CD.append(weight_CD)
    trace.momentum_CD.append(momentum_CD)


@dataclass(frozen=True)
class LayerErrors:
    """How far the layer's steps are from the reference's, each the worst over the steps.

    Attributes:
        loss: relative, of the rank that is furthest off.
        gradient_x, gradient_w, momentum: :func:`relative_error`.
        weight: max|w − w'| over the largest change that the steps make in W.
    """

    loss: float
    gradient_x: float
    gradient_w: float
    momentum: float
    weight: float


def compare_with_dense(case: LayerCase, traces: Sequence[LayerTrace], *, restart: bool = False) -> LayerErrors:
    """Takes the case's steps with the dense layer, over the union of what the ranks sampled, and compares.

    Args:
        traces: of every rank, in rank order.
        restart: the dense layer starts each step where the ranks did, and not where its own last step ended. For
            rows of fewer than 32 bits, whose rounding the steps before would carry on.
    """
    w_CD = initial_rows(case.seed, np.arange(case.num_classes), case.embedding_size).astype(np.float64)
    initial_CD, momentum_CD = w_CD, np.zeros_like(w_CD)
    margin = case.margin if isinstance(case.margin, Margin) else dense_margin_softmax(case.margin())
    worst = np.zeros(5)
    for step in range(case.steps):
        if restart:
            w_CD, momentum_CD = _whole(traces, "weight_CD", step), _whole(traces, "momentum_CD", step)
        x_ND, label_N = case.batch(step)
        columns = np.concatenate([trace.sampled_classes[step] for trace in traces])
        dense = dense_loss_and_gradients(
            x_ND,
            label_N,
            w_CD,
            columns,
            margin=margin,
            scale=case.scale,
            filter_cosine=case.filter_cosine,
            missing_labels=case.sampler == "uniform",
        )
        w_CD, momentum_CD = dense_sgd_momentum(
            w_CD, momentum_CD, dense.gradient_w_CD, columns,
            learning_rate=case.learning_rate, momentum=case.momentum, weight_decay=case.weight_decay,
        )  # fmt: skip
        change = np.abs(w_CD - initial_CD).max()
        errors = (
            max(relative_error(trace.loss[step], dense.loss) for trace in traces),
            relative_error(_whole(traces, "gradient_x_BD", step), dense.gradient_x_ND),
            relative_error(_gradient_w(case, traces, step)[columns], dense.gradient_w_CD[columns]),
            relative_error(_whole(traces, "momentum_CD", step + 1), momentum_CD),
            relative_error(1 + (_whole(traces, "weight_CD", step + 1) - w_CD) / change, np.ones_like(w_CD)),
        )
        worst = np.maximum(worst, errors)
    return LayerErrors(*worst.tolist())


def _whole(traces: Sequence[LayerTrace], part: str, number: int) -> np.ndarray:
    """One of the parts that :class:`LayerTrace` lists, of all ranks together, in float64."""
    return np.concatenate([vars(trace)[part][number] for trace in traces]).astype(np.float64)


def _gradient_w(case: LayerCase, traces: Sequence[LayerTrace], step: int) -> np.ndarray:
    """dW of a step from what it did to the momentum: −(M' − μM)/η − λW; only sampled rows mean anything."""
    before_CD, after_CD = (_whole(traces, "momentum_CD", number) for number in (step, step + 1))
    change_CD = (case.momentum * before_CD - after_CD) / case.learning_rate
    return change_CD - case.weight_decay * _whole(traces, "weight_CD", step)
