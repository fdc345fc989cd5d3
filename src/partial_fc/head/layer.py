"""What makes a head a layer of a user's own network: labels told to all ranks, and a loss that autograd knows.

A head computes its loss and the gradient g of it by the embeddings itself, over all ranks. To autograd the loss is

    loss = value + (<x, g> − stop<x, g>) + (w − stop(w))        d loss/d x = g,   d loss/d w = 1

of the embeddings x and of a number w of the head's own. What arrives as the gradient of w is d total / d loss, where
total is what ``backward()`` was called on: the loss times a loss scale, or a sum with other losses.

Legend: B embeddings of a rank, R ranks, N = B·R, D embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives, RankError, raise_together

nd = mx.nd

Labels = mx.nd.NDArray | np.ndarray | Sequence[int]

_FAILED = -1


class Layer:
    """The calls of one head as a layer, and what lies between a call and the step that follows it.

    Args:
        name: of the head's class, for messages.
        embedding_size: D.
        context: the device that computes.
        collectives: the ranks.
    """

    def __init__(self, name: str, embedding_size: int, context: mx.Context, collectives: Collectives) -> None:
        self._name = name
        self._embedding_size = embedding_size
        self._context = context
        self._collectives = collectives
        self._weight_1: nd.NDArray | None = None

    def share(self, embeddings: Sequence[nd.NDArray], labels: Sequence[Labels]) -> list[np.ndarray]:
        """All ranks' labels in rank order, (N,) int64 for each of this rank's label arrays.

        One all-gather of 8·(1 + B·arrays) bytes. It waits for the labels alone: the network may still be computing.

        Args:
            embeddings, labels: as many of each, (B, D) and (B,).

        Raises:
            RankError: on every rank: an argument of one of them is none that a head takes, or their B differ.
        """
        self._weight_1 = None
        message, error = np.array([_FAILED]), None
        try:
            sizes = {self._checked_size(embedding) for embedding in embeddings}
            if len(sizes) > 1:
                raise ValueError(f"all embeddings of a call must be as many, but are {sorted(sizes)}")
            (size,) = sizes
            message = np.concatenate([[size], *(_as_integers(label, size) for label in labels)])
        except ValueError as caught:
            error = str(caught)
        tensor = nd.array(message, ctx=mx.cpu(), dtype=np.int64)
        messages = self._collectives.all_gather(tensor, "head.labels").asnumpy()
        of_ranks = []
        while len(messages):  # each rank's says how long it is
            length = 1 + max(int(messages[0]), 0) * len(labels)
            of_ranks.append(messages[:length])
            messages = messages[length:]
        batch_sizes = [int(of_rank[0]) for of_rank in of_ranks]
        if _FAILED in batch_sizes:
            raise_together(self._collectives, error, "head.call")
        if len(set(batch_sizes)) > 1:
            raise RankError(
                f"every rank must pass as many embeddings, but they pass {', '.join(map(str, batch_sizes))}: drop the "
                "last batch of an epoch where it is smaller"
            )
        return list(np.concatenate([of_rank[1:].reshape(len(labels), -1) for of_rank in of_ranks], axis=1))

    def loss(
        self, value: float, embedding_BD: nd.NDArray, gradient_BD: nd.NDArray | None, recorded: bool
    ) -> nd.NDArray:
        """The loss as an array (1,) float32, which autograd differentiates where the call was ``recorded``.

        Args:
            gradient_BD: d loss / d embedding; None where the loss is not finite: the gradient is NaN then.
        """
        value_1 = nd.array([value], ctx=self._context)
        if not recorded:
            return value_1
        if gradient_BD is None:
            gradient_BD = nd.full((1, 1), np.nan, ctx=self._context)
        self._weight_1 = nd.ones((1,), ctx=self._context)
        self._weight_1.attach_grad()
        along_1 = nd.sum(nd.broadcast_mul(as_float32(embedding_BD), gradient_BD)).reshape((1,))
        return (along_1 - nd.BlockGrad(along_1)) + (self._weight_1 - nd.BlockGrad(self._weight_1)) + value_1

    def take_weight(self) -> float:
        """d total / d loss of the backward pass since the last call; a step takes it once.

        Raises:
            ValueError: there was no such call, or no such pass.
        """
        if self._weight_1 is None:
            raise ValueError(
                f"step() of {self._name} belongs to a call of it under autograd.record(), and there was none since the "
                "last step: call it, then loss.backward(), then step()"
            )
        if not self._weight_1._fresh_grad:  # as Gluon's Trainer knows it
            raise ValueError(f"step() of {self._name} needs the gradient of its loss: call loss.backward() before it")
        weight_1, self._weight_1 = self._weight_1, None
        return float(weight_1.grad.asscalar())

    def forget(self) -> None:
        """No step belongs to the last call any more."""
        self._weight_1 = None

    def _checked_size(self, embedding_BD: nd.NDArray) -> int:
        """B."""
        if not isinstance(embedding_BD, nd.NDArray):
            kind = type(embedding_BD).__name__
            raise ValueError(f"{self._name} takes embeddings as an NDArray, but is given a {kind}")
        if embedding_BD.ndim != 2 or embedding_BD.shape[1] != self._embedding_size or len(embedding_BD) == 0:
            raise ValueError(
                f"{self._name} takes embeddings of the shape (batch, {self._embedding_size}), but these have "
                f"{embedding_BD.shape}: its embedding_size is what the network gives for an image"
            )
        if embedding_BD.context != self._context:
            raise ValueError(
                f"the embeddings are on {embedding_BD.context}, but {self._name} computes on {self._context}: make it "
                f"with context=mx.{str(embedding_BD.context).replace('cpu_pinned', 'cpu')}"
            )
        return len(embedding_BD)


def as_float32(embedding_BD: nd.NDArray) -> nd.NDArray:
    """Embeddings as NDArray of float32; of a float16 network the gradient goes back through the cast."""
    if isinstance(embedding_BD, mx.np.ndarray):
        embedding_BD = embedding_BD.as_nd_ndarray()
    return embedding_BD.astype("float32", copy=False)


def check_rate(learning_rate: float) -> float:
    """A learning rate.

    Raises:
        ValueError: it is not finite, or negative.
    """
    if not 0.0 <= learning_rate < math.inf:
        raise ValueError(f"the learning rate must be finite and not negative, but is {learning_rate}")
    return learning_rate


def check_loss_scale(loss_scale: float) -> float:
    """A loss scale.

    Raises:
        ValueError: it is not finite, or not positive.
    """
    if not 0.0 < loss_scale < math.inf:
        raise ValueError(f"the loss scale must be finite and positive, but is {loss_scale}")
    return loss_scale


def _as_integers(labels: Labels, size: int) -> np.ndarray:
    """(B,) int64.

    Raises:
        ValueError: other than B labels, or some that are no whole numbers.
    """
    label_B = labels.asnumpy() if isinstance(labels, nd.NDArray) else np.asarray(labels)
    if label_B.shape not in ((size,), (size, 1)):
        raise ValueError(f"there must be a label for each of {size} embeddings, but the labels have {label_B.shape}")
    label_B = label_B.reshape(-1)
    if label_B.dtype.kind == "f":
        if not (label_B == np.floor(label_B)).all():
            raise ValueError("labels must be whole numbers, the classes of the embeddings, but some are not")
        largest = 2 ** (np.finfo(label_B.dtype).nmant + 1)
        if (np.abs(label_B) >= largest).any():
            name = label_B.dtype.name
            raise ValueError(f"{name} holds labels exactly up to {largest:,}, and some are larger: pass integers")
    elif label_B.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers, the classes of the embeddings, but are {label_B.dtype}")
    return label_B.astype(np.int64)
