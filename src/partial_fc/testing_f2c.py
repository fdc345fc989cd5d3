"""The F²C head in its naive form, for tests to compare with: one process, loops, dictionaries, float64.

Takes nothing but the initial prototypes from the code it checks. Gradients are MXNet's autograd of the loss as the
paper writes it, sample by sample.

Legend: N samples of the global batch, Q slots, D embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.head.f2c import F2C
from partial_fc.head.f2c_margin import F2CMargin
from partial_fc.head.initialization import initial_rows
from partial_fc.head.margin import Margin, SVMargin
from partial_fc.testing import own_part, relative_error

nd = mx.nd

MARGINS = {
    "AM": F2CMargin(Margin(m3=0.4)),
    "Arc": F2CMargin(Margin(m2=0.5)),
    "SV": F2CMargin(SVMargin(0.4), hard_weight=1.2, hard_margin=0.4),
}


@dataclass
class NaivePool:
    """Slots in a list from the most to the least recently used, prototypes and pointers in dictionaries."""

    slots: int
    entries: list[tuple[int, int]] = field(default_factory=list)  # (identity, slot)
    prototypes: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)  # (prototype, slot) → (D,)
    pointer: dict[int, int] = field(default_factory=dict)

    @classmethod
    def initial(cls, slots: int, size: int, seed: int) -> NaivePool:
        rows = initial_rows(seed, np.arange(slots), size).astype(np.float64)
        pool = cls(slots)
        for slot, row in enumerate(rows):
            pool.prototypes[0, slot] = row / np.linalg.norm(row)
            pool.prototypes[1, slot] = np.zeros(size)
            pool.pointer[slot] = 0
        return pool

    def slot_of(self, identity: int) -> int | None:
        return dict(self.entries).get(identity)

    def update(self, identity_N: Sequence[int], feature_ND: np.ndarray) -> set[int]:
        """The slots that were used while their identity was present."""
        again = set()
        for identity, feature in zip(identity_N, feature_ND, strict=True):
            slot = self.slot_of(identity)
            if slot is None:
                if len(self.entries) < self.slots:
                    slot = len(self.entries)
                else:
                    slot = self.entries.pop()[1]
                prototype, self.pointer[slot] = 0, 1
            else:
                self.entries.remove((identity, slot))
                prototype, self.pointer[slot] = self.pointer[slot], 1 - self.pointer[slot]
                again.add(slot)
            self.entries.insert(0, (identity, slot))
            self.prototypes[prototype, slot] = np.array(feature, dtype=np.float64)
        return again


def naive_loss(
    pool: NaivePool, again: set[int], probe_ND: np.ndarray, identity_N: Sequence[int], kind: str, scale: float
) -> tuple[float, np.ndarray]:
    """The loss of one pass and its gradient by the probe embeddings, (N, D) float64."""
    first_QD = np.stack([pool.prototypes[0, slot] for slot in range(pool.slots)])
    second_QD = np.stack([pool.prototypes[int(slot in again), slot] for slot in range(pool.slots)])
    slots = [pool.slot_of(identity) for identity in identity_N]
    inside = sum(slot is not None for slot in slots)
    k = min(max(int(0.0002 * pool.slots), 3), 10, pool.slots)
    x = nd.array(probe_ND, dtype="float64")
    x.attach_grad()
    with mx.autograd.record():
        loss = nd.zeros((1,), dtype="float64")
        for prototype_QD in (first_QD, second_QD):
            weight = nd.array(prototype_QD, dtype="float64")
            for n, slot in enumerate(slots):
                unit = x[n] / nd.sqrt(nd.sum(x[n] * x[n]))
                cosine = nd.dot(weight, unit)
                if slot is None:
                    largest = np.sort(cosine.asnumpy())[-k]
                    chosen = nd.array((cosine.asnumpy() >= largest) * (cosine.asnumpy() > 0), dtype="float64")
                    loss = loss + nd.sum(chosen * cosine) / (k * (len(slots) - inside))
                else:
                    loss = loss - nd.log_softmax(scale * _with_margin(cosine, slot, kind))[slot] / inside
    loss.backward()
    return float(loss.asscalar()), x.grad.asnumpy()


def _with_margin(cosine: nd.NDArray, slot: int, kind: str) -> nd.NDArray:
    is_target = nd.one_hot(nd.array([slot]), cosine.shape[0], dtype="float64")[0]
    target = cosine[slot]
    others = cosine
    if kind == "AM":
        target = target - 0.4
    elif kind == "Arc":
        angle = nd.arccos(target)
        past = float(angle.asscalar()) + 0.5 > math.pi
        target = target - math.cos(math.pi - 0.5) - 1 if past else nd.cos(angle + 0.5)
    else:
        others = nd.where(cosine > target - 0.4, 1.2 * cosine + 0.2, cosine)
        target = target - 0.4 if float(target.asscalar()) > 0.4 else target
    return is_target * target + (1 - is_target) * others


@dataclass(frozen=True)
class F2CCase:
    """A few steps of the head, described: any number of ranks can take them, and so can the reference."""

    kind: str
    slots: int = 17
    embedding_size: int = 12
    samples: int = 12
    identities: int = 50
    steps: int = 5
    scale: float = 32.0
    seed: int = 0

    def batch(self, step: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Embeddings of (probe x, gallery x, probe y, gallery y), (N, D) float32 each, and the identities of x and y.

        Two thirds of the samples show the same identity in x and y; the others, any. An embedding lies near its
        identity's direction or far from it.
        """
        rng = np.random.default_rng([self.seed, step])
        x_N = rng.integers(0, self.identities, self.samples)
        y_N = np.where(rng.random(self.samples) < 2 / 3, x_N, rng.integers(0, self.identities, self.samples))
        centers = np.random.default_rng(self.seed).normal(size=(self.identities, self.embedding_size))
        embeddings = []
        for identity_N in (x_N, x_N, y_N, y_N):
            toward_N1 = rng.uniform(-0.5, 1.5, size=(self.samples, 1))
            rows = toward_N1 * centers[identity_N] + rng.normal(size=(self.samples, self.embedding_size))
            embeddings.append((rows * 10.0 ** rng.uniform(-1, 1, size=(self.samples, 1))).astype(np.float32))
        spread = 2**57  # identities are any numbers below 2⁶³
        return embeddings, x_N * spread + 3, y_N * spread + 3

    def make_head(self, collectives: Collectives, **options: object) -> F2C:
        """The head of one rank."""
        return F2C(
            self.slots,
            self.embedding_size,
            collectives,
            margin=MARGINS[self.kind],
            scale=self.scale,
            seed=self.seed,
            **options,
        )


@dataclass
class F2CTrace:
    """What the steps did: of each pass its loss and gradient; after the last step the pool."""

    losses: list[float] = field(default_factory=list)
    gradients: list[np.ndarray] = field(default_factory=list)
    prototypes: np.ndarray | None = None
    pointers: list[int] | None = None
    order: list[tuple[int, int]] | None = None


def train_head(case: F2CCase, collectives: Collectives, **options: object) -> F2CTrace:
    """Takes the case's steps on one rank; every rank calls it. Gradients and prototypes are the rank's."""
    head, trace = case.make_head(collectives, **options), F2CTrace()
    for step in range(case.steps):
        embeddings, x_N, y_N = case.batch(step)
        probe_x, gallery_x, probe_y, gallery_y = (nd.array(own_part(part, collectives)) for part in embeddings)
        for probe, gallery, probe_N, gallery_N, end in (
            (probe_x, gallery_y, x_N, y_N, head.rollback),
            (probe_y, gallery_x, y_N, x_N, head.keep),
        ):
            trace.losses.append(head.forward(probe, gallery, probe_N, gallery_N))
            trace.gradients.append(head.backward().asnumpy())
            end()
    trace.prototypes = np.stack([prototype.asnumpy() for prototype in head.pool.prototypes])
    trace.pointers = head.pool.pointer_Q.tolist()
    state = head.pool.lru.state()
    trace.order = list(zip(state["identities"].tolist(), state["slots"].tolist(), strict=True))
    return trace


def train_naive(case: F2CCase) -> F2CTrace:
    """Takes the case's steps with the reference."""
    pool, trace = NaivePool.initial(case.slots, case.embedding_size, case.seed), F2CTrace()
    for step in range(case.steps):
        embeddings, x_N, y_N = case.batch(step)
        probe_x, gallery_x, probe_y, gallery_y = (part.astype(np.float64) for part in embeddings)
        gallery_x, gallery_y = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in (gallery_x, gallery_y))
        trial = deepcopy(pool)
        passes = ((trial, probe_x, gallery_y, x_N, y_N), (pool, probe_y, gallery_x, y_N, x_N))
        for used, probe, gallery, probe_N, gallery_N in passes:
            again = used.update(gallery_N.tolist(), gallery)
            loss, gradient = naive_loss(used, again, probe, probe_N.tolist(), case.kind, case.scale)
            trace.losses.append(loss)
            trace.gradients.append(gradient)
    trace.prototypes = np.array([[pool.prototypes[p, slot] for slot in range(pool.slots)] for p in range(2)])
    trace.pointers = [pool.pointer[slot] for slot in range(pool.slots)]
    trace.order = pool.entries
    return trace


def compare_with_naive(traces: Sequence[F2CTrace], naive: F2CTrace) -> dict[str, float]:
    """How far the ranks' steps are from the reference's, the worst of each; pointers and order must be equal."""
    for trace in traces:
        assert trace.pointers == naive.pointers
        assert trace.order == naive.order
    errors = {"loss": 0.0, "gradient": 0.0}
    for number, (loss, gradient) in enumerate(zip(naive.losses, naive.gradients, strict=True)):
        whole = np.concatenate([trace.gradients[number] for trace in traces])
        errors["loss"] = max(errors["loss"], *(relative_error(trace.losses[number], loss) for trace in traces))
        errors["gradient"] = max(errors["gradient"], relative_error(whole, gradient))
    prototypes = np.concatenate([trace.prototypes for trace in traces], axis=1)
    return errors | {"prototypes": relative_error(prototypes, naive.prototypes)}
