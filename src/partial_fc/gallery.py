"""F²C's second network: a slowly moving copy of the backbone, from whose embeddings the class pool is made.

    g ← μ·g + (1 − μ)·p        once a step, over all parameters, without a gradient

It normalises each batch by the batch's own statistics, as the backbone does while it trains, and these move its own
moving ones: on a GPU MXNet does that, on a CPU :mod:`partial_fc.batch_statistics`.

Legend: B images, H height and width, D embedding size.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np

from partial_fc.batch_statistics import BatchNorm, move_statistics, with_batch_statistics

Named = dict[str, mx.nd.NDArray]


class Gallery:
    """The gallery network of one rank; equal on all ranks, because the backbone is.

    It runs without memory for a backward pass.

    Args:
        network: the graph of the backbone, of which it is a copy.
        parameters, statistics: those of the backbone p, by name; the gallery starts with their values.
        momentum: μ in [0, 1].
        context: the device.
        accumulate: K; a batch goes through it in so many parts, as through the backbone.

    Attributes:
        parameters: name → float32 array.
        statistics: name → its own BatchNorm's moving mean or variance.

    Raises:
        ValueError: a momentum out of its range.
    """

    def __init__(
        self,
        network: mx.sym.Symbol,
        parameters: Named,
        statistics: Named,
        *,
        momentum: float,
        context: mx.Context,
        accumulate: int = 1,
    ) -> None:
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"the gallery's momentum must lie in [0, 1], but is {momentum}")
        self._probe = parameters
        self._momentum = momentum
        self._context = context
        self._accumulate = accumulate
        self.parameters = {name: array.copy() for name, array in parameters.items()}
        self.statistics = {name: array.copy() for name, array in statistics.items()}
        self._statistics_before: Named = {}
        self._layers: list[BatchNorm] = []
        if context.device_type != "gpu":
            network, self._layers = with_batch_statistics(network)
        self._inputs = network.list_inputs()
        self._network = mx.nd.CachedOp(network, [("static_alloc", True), ("static_shape", True)])

    @classmethod
    def of_block(cls, block: mx.gluon.HybridBlock, *, momentum: float = 0.99) -> Gallery:
        """The gallery of a Gluon network, for :class:`partial_fc.head.f2c.F2C` as a layer.

        Args:
            block: with initialised parameters of known shapes; one input, one output.
            momentum: μ in [0, 1].

        Raises:
            ValueError: it has no graph, or parameters without values.
        """
        if not isinstance(block, mx.gluon.HybridBlock):
            kind = type(block).__name__
            raise ValueError(f"the gallery needs the network's graph, a HybridBlock, but is given a {kind}")
        parameters = {parameter.name: parameter for parameter in block.collect_params().values()}
        try:
            arrays = {name: parameter.data() for name, parameter in parameters.items()}
        except (RuntimeError, mx.gluon.parameter.DeferredInitializationError) as error:
            raise ValueError(
                "the gallery starts with the network's values, but one has none yet: call initialize(), and then the "
                "network once, before the gallery is made"
            ) from error
        network = block(mx.sym.var("data"))
        moving = set(network.list_auxiliary_states())
        context = next(iter(arrays.values())).context
        trained = {name: array for name, array in arrays.items() if name not in moving}
        statistics = {name: array for name, array in arrays.items() if name in moving}
        return cls(network, trained, statistics, momentum=momentum, context=context)

    def __call__(self, data: mx.nd.NDArray) -> mx.nd.NDArray:
        """The network's output of a batch that it takes as it is: no pixels, no parts, no gradient."""
        with mx.autograd.pause():
            return self._run(data)

    def follow(self) -> None:
        """One step towards the backbone: the first thing in an update."""
        with mx.autograd.pause():
            self._statistics_before = {name: array.copy() for name, array in self.statistics.items()}
            for name, array in self.parameters.items():
                array *= self._momentum
                array += (1.0 - self._momentum) * self._probe[name]

    def forward(self, images_BHWC: np.ndarray) -> mx.nd.NDArray:
        """Starts the forward pass; returns its (K·B, D) float32 output without waiting for it.

        Args:
            images_BHWC: (K·B, H, H, 3) uint8 RGB.
        """
        parts = [self._forward_part(images) for images in np.split(images_BHWC, self._accumulate)]
        return parts[0] if len(parts) == 1 else mx.nd.concat(*parts, dim=0)

    def restore_statistics(self) -> None:
        """Takes the moving means and variances back to before this update: a NaN would stay in them for ever."""
        for name, array in self._statistics_before.items():
            array.copyto(self.statistics[name])

    def _forward_part(self, images_BHWC: np.ndarray) -> mx.nd.NDArray:
        images = mx.nd.array(images_BHWC, ctx=self._context, dtype=np.uint8)
        return self._run(mx.nd.cast(mx.nd.transpose(images, (0, 3, 1, 2)), dtype="float32"))

    def _run(self, data: mx.nd.NDArray) -> mx.nd.NDArray:
        arrays = {"data": data} | self.parameters | self.statistics
        with mx.autograd.train_mode():
            outputs = self._network(*(arrays[name] for name in self._inputs))
        if not self._layers:
            return outputs.copy()
        move_statistics(self.statistics, self._layers, outputs[1:])
        return outputs[0].copy()
