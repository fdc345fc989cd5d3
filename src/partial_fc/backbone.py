"""The data-parallel backbone: one network on every rank, its gradients summed over them.

Legend: B images of a rank, H height and width, D embedding size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives, together
from partial_fc.frozen import freeze

# With more, MXNet's multi_all_finite writes past the end of its own memory: r50 has 238 parameters.
_MOST_ARRAYS = 200


class Backbone:
    """A backbone symbol bound for training on one rank.

    All parameters are float32, whatever the precision that the symbol computes in; they start equal on all
    ranks (rank 0's are broadcast) and stay so, because all ranks apply the same summed gradients.

    Args:
        network: a symbol with the input ``data`` (B, 3, H, H), RGB 0–255, and one output (B, D).
        batch_size: B.
        image_size: H.
        collectives: the ranks.
        context: the device.
        seed: of the initial parameters.
        fp16_gradients: sum the gradients over ranks in float16: half the bytes on the network.
        accumulate: K; a step takes K·B images, B at a time, in the memory of B. Each but the last B goes through
            the network twice, once for its embeddings and again before its backward pass: with K = 4 a step takes
            some 1.25 times as long as its images would in batches of B. BatchNorm sees B images at a time.
        frozen: patterns of the names of what training leaves as it is; see :func:`partial_fc.frozen.freeze`.

    Attributes:
        parameters: name → float32 array.
        trainable, gradients: the same, of those that are not frozen.
        statistics: name → BatchNorm's moving mean or variance, this rank's own while it trains.
        embedding_size: D.

    Raises:
        RankError: on every rank, when on any of them the network does not give one vector an image, or does
            not take images of that size.
    """

    def __init__(
        self,
        network: mx.sym.Symbol,
        *,
        batch_size: int,
        image_size: int,
        collectives: Collectives,
        context: mx.Context,
        seed: int = 0,
        fp16_gradients: bool = False,
        accumulate: int = 1,
        frozen: Sequence[str] = (),
    ) -> None:
        assert accumulate >= 1, accumulate
        with together(collectives, "frozen"):
            network, self._frozen = freeze(network, frozen)
        self.network = network
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.image_size = image_size
        self._collectives = collectives
        self._context = context
        self._fp16_gradients = fp16_gradients
        with together(collectives, "backbone"):
            self._bind(context, seed)
        self.trainable = {name: self.parameters[name] for name in self.gradients}
        for name, array in (self.parameters | self.statistics).items():
            collectives.broadcast(array, f"broadcast.{name}")
        with collectives.waiting("the first parameters"):
            for array in (self.parameters | self.statistics).values():
                array.wait_to_read()

    def _bind(self, context: mx.Context, seed: int) -> None:
        shape = (self.batch_size, 3, self.image_size, self.image_size)
        self.embedding_size = _embedding_size(self.network, shape)
        trainable = [name for name in self.network.list_arguments() if name != "data"]
        requests = {"data": "null"} | dict.fromkeys(trainable, "write" if self.accumulate == 1 else "add")
        requests |= dict.fromkeys(self._frozen - {trainable[-1]}, "null")  # MXNet fails without a single gradient
        requests = {name: request for name, request in requests.items() if name == "data" or name in trainable}
        self._executor = self.network.simple_bind(context, grad_req=requests, data=shape)
        self.parameters = {name: self._executor.arg_dict[name] for name in trainable}
        self.gradients = {name: self._executor.grad_dict[name] for name in trainable if name not in self._frozen}
        self.statistics = dict(self._executor.aux_dict)
        initialize(self.parameters, self.statistics, seed)
        # A CPU's BatchNorm moves its statistics in the backward pass, a GPU's in the forward pass.
        self._forward_moves_statistics = context.device_type == "gpu"
        self._statistics_before: dict[str, mx.nd.NDArray] = {}
        self._earlier_gradients: dict[str, mx.nd.NDArray] = {}

    def forward(self, images_BHWC: np.ndarray, training: bool = True) -> mx.nd.NDArray:
        """Starts the forward pass and returns its float32 output without waiting for it.

        Args:
            images_BHWC: (K·B, H, H, 3) uint8 RGB to train with, (B, H, H, 3) to embed.
            training: BatchNorm by the batch's own statistics, as :meth:`backward` needs it; else by the
                moving ones.

        Returns:
            One row of D numbers for each image.
        """
        if not training:
            return self._forward_part(images_BHWC, False)
        self._remember_statistics()
        self._parts = np.split(images_BHWC, self.accumulate)
        *earlier, last = self._parts
        outputs = [self._forward_part(images, True).copy() for images in earlier]
        if earlier:
            self.restore_statistics()  # each part moves them once: the earlier ones when they come again
        outputs.append(self._forward_part(last, True))
        return outputs[0] if len(outputs) == 1 else mx.nd.concat(*outputs, dim=0)

    def _forward_part(self, images_BHWC: np.ndarray, training: bool) -> mx.nd.NDArray:
        images = mx.nd.array(images_BHWC, ctx=self._context, dtype=np.uint8)
        data = self._executor.arg_dict["data"]
        mx.nd.cast(mx.nd.transpose(images, (0, 3, 1, 2)), dtype="float32", out=data)
        return self._executor.forward(is_train=training)[0]

    def backward(self, embedding_gradient_BD: mx.nd.NDArray, *, another_follows: bool = False) -> None:
        """Starts the backward pass, and the sum over ranks of each gradient as soon as it is there.

        Args:
            embedding_gradient_BD: (K·B, D), of the rows that :meth:`forward` gave.
            another_follows: the step has another forward and backward pass, whose gradients these are added to;
                nothing is summed over ranks before that. :meth:`forget_gradients` takes it back.
        """
        if not self.gradients:  # all is frozen
            return
        if self.accumulate > 1:
            for gradient in self.gradients.values():
                gradient[:] = 0.0
        for number in reversed(range(self.accumulate)):
            if number < self.accumulate - 1:
                self._forward_part(self._parts[number], True)
            rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
            self._executor.backward([embedding_gradient_BD[rows]])
        if another_follows:
            self._earlier_gradients = {name: gradient.copy() for name, gradient in self.gradients.items()}
            return
        for name, gradient in self._earlier_gradients.items():
            self.gradients[name] += gradient
        self.forget_gradients()
        # The first layer's gradient comes last: when its copy is there, what remains is communication.
        self._last_gradient = self.gradients[next(iter(self.gradients))].reshape((-1,))[:1].copy()
        for priority, name in enumerate(reversed(self.gradients)):
            self._sum_over_ranks(name, -priority)

    def forget_gradients(self) -> None:
        """Drops the gradients of a backward pass that another one was to follow."""
        self._earlier_gradients = {}

    def restore_statistics(self) -> None:
        """Takes the moving means and variances back to before the last forward pass to train.

        For a step whose loss is not finite and that so has no backward pass: a NaN would stay in them for ever.
        """
        for name, array in self._statistics_before.items():
            array.copyto(self.statistics[name])

    def _remember_statistics(self) -> None:
        if self._forward_moves_statistics:
            self._statistics_before = {name: array.copy() for name, array in self.statistics.items()}

    def _sum_over_ranks(self, name: str, priority: int) -> None:
        gradient = self.gradients[name]
        if not self._fp16_gradients:
            self._collectives.all_reduce(gradient, f"backbone.{name}", priority=priority)
            return
        half = self._collectives.all_reduce(gradient.astype("float16"), f"backbone.{name}", priority=priority)
        mx.nd.cast(half, dtype="float32", out=gradient)

    def gradients_finite(self) -> bool:
        """Waits for the summed gradients and tells whether all are finite: the same answer on every rank.

        An infinity or NaN of one rank is one in the sum. The time spent waiting after the end of this rank's
        own backward pass counts as communication.
        """
        if not self.gradients:
            return True
        self._last_gradient.wait_to_read()
        arrays = list(self.gradients.values())
        groups = [arrays[first : first + _MOST_ARRAYS] for first in range(0, len(arrays), _MOST_ARRAYS)]
        with self._collectives.waiting("the backbone's gradients"):
            finite = [mx.nd.multi_all_finite(*group, num_arrays=len(group)) for group in groups]
            return all(bool(of_group.asscalar()) for of_group in finite)

    def embed(self, images_BHWC: np.ndarray) -> np.ndarray:
        """(B, D) float32 embeddings in inference mode of exactly B images (B, H, H, 3) uint8 RGB."""
        return self.forward(images_BHWC, training=False).asnumpy()

    @contextmanager
    def averaged_statistics(self) -> Iterator[None]:
        """Within it the moving means and variances are equal on all ranks; behind it each rank has its own again.

        So that neither a save nor a verification changes what training computes, not in the last bit.
        """
        own = {name: array.copy() for name, array in self.statistics.items()}
        self.average_statistics()
        try:
            yield
        finally:
            for name, array in own.items():
                array.copyto(self.statistics[name])

    def average_statistics(self) -> None:
        """Makes the moving means and variances equal on all ranks: their mean. Before a save or a test."""
        if self._collectives.size == 1:
            return
        for name, array in self.statistics.items():
            self._collectives.all_reduce(array, f"statistics.{name}")
            array /= self._collectives.size
        with self._collectives.waiting("the moving statistics"):
            for array in self.statistics.values():
                array.wait_to_read()


def _embedding_size(network: mx.sym.Symbol, data_shape: tuple[int, ...]) -> int:
    try:
        _, outputs, _ = network.infer_shape(data=data_shape)
    except mx.MXNetError as error:
        height, width = data_shape[2:]
        reason = str(error).splitlines()[0].rpartition(": ")[2]
        raise ValueError(
            f"the network does not take images of {height}×{width} pixels ({reason}): "
            "set --image-size to what it is made for"
        ) from error
    if len(outputs) != 1 or len(outputs[0]) != 2:
        raise ValueError(f"a backbone must give one vector an image, but this one gives {outputs}")
    return outputs[0][1]


def initialize(parameters: dict[str, mx.nd.NDArray], statistics: dict[str, mx.nd.NDArray], seed: int) -> None:
    """Fills a backbone's arrays, by name, as InsightFace's networks start.

    Weights are normal with variance 2/fan_out (He et al., arXiv 1502.01852, backward form). PReLU slopes are
    0.25, biases, BatchNorm's shift and moving mean 0, its scale and moving variance 1.
    """
    for number, (name, array) in enumerate((parameters | statistics).items()):
        if name.endswith("_weight"):
            fan_out = array.shape[0] * math.prod(array.shape[2:])
            rng = np.random.default_rng([seed, number])
            array[:] = rng.standard_normal(array.shape, dtype=np.float32) * math.sqrt(2.0 / fan_out)
        elif name.endswith("_gamma") and "relu" in name:
            array[:] = 0.25
        elif name.endswith(("_gamma", "_moving_var")):
            array[:] = 1.0
        elif name.endswith(("_bias", "_beta", "_moving_mean")):
            array[:] = 0.0
        else:
            raise ValueError(f"no rule says how the parameter {name!r} starts")
