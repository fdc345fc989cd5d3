"""The layers that every backbone is made of, and the one place that knows about precision.

A network is built by calling the methods of one `Layers`; each takes symbols and the name of the node to
make, and returns the node's output. Shapes: ``B`` images a batch, ``C`` channels, ``H W`` height and width,
``D`` embedding size. Every node has an explicit name, since MXNet numbers the others from a counter of the
process and two builds of one network would differ.

Precision. The arguments of a network (weights, biases, slopes, BatchNorm parameters) are ``float32`` whatever
the precision: they are the master weights, and the gradients that reach them are ``float32`` too.

``float32``
    Nothing is added: the plain network, and the form to save.
``float16``
    For GPUs. From the normalised input to the output block activations are ``float16``; a convolution and a
    PReLU cast their argument inside the graph. BatchNorm keeps its parameters and statistics in ``float32``.
``float16-emulated``
    For CPUs, where MXNet has no ``float16`` convolution. The same graph in ``float32``, where every value
    that ``float16`` would store is rounded through it: arguments on their way in, activations as they are
    made, and on the way back their gradients, which become ``inf`` past 65504 as they do on a GPU. Products
    are summed in ``float32``, which is what tensor cores do.

The output block is ``float32`` in all three, as in the InsightFace networks: it is 0.2 % of the work of r50,
and neither the embedding nor the gradient that enters the network is then rounded at all.
"""

from __future__ import annotations

import mxnet as mx

Symbol = mx.sym.Symbol

DEVICES = ("cpu", "gpu")
PRECISIONS = {"float32": None, "float16": "gpu", "float16-emulated": "cpu"}  # and the device that each is for

BATCH_NORM_MOMENTUM = 0.9
PRELU_INITIAL_SLOPE = '["Constant", {"value": 0.25}]'  # what MXNet writes on the slopes of a LeakyReLU


class Layers:
    """Makes named layers in one precision (see the text of the module).

    Args:
        precision: one of ``PRECISIONS``.
        train_on: ``"cpu"`` or ``"gpu"``, the device that a graph for training is written for (see `prelu`);
            None for the plain network. The reduced precisions are for training and have their device.

    Raises:
        ValueError: the precision or the device is unknown.
    """

    def __init__(self, precision: str = "float32", *, train_on: str | None = None) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        if train_on not in (None, *DEVICES):
            raise ValueError(f"unknown device to train on {train_on!r}: choose one of {', '.join(DEVICES)}")
        self.precision = precision
        self.train_on = train_on or PRECISIONS[precision]

    def normalized_input(self) -> Symbol:
        """``(data − 127.5) / 128`` of the input ``data``, (B, 3, H, W), RGB 0–255: values in [−1, 1)."""
        data = mx.sym.Variable("data")
        # `data - 127.5` would leave the name to MXNet's counter.
        centered = mx.sym._internal._minus_scalar(data, scalar=127.5, name="data_centered")
        scaled = mx.sym._internal._mul_scalar(centered, scalar=0.0078125, name="data_scaled")
        if self.precision == "float16":
            return mx.sym.Cast(scaled, dtype="float16", name="data_scaled_float16")
        return self._stored(scaled)

    def convolution(
        self,
        data: Symbol,
        name: str,
        channels: int,
        *,
        kernel: int,
        stride: int = 1,
        pad: int = 0,
        groups: int = 1,
    ) -> Symbol:
        """A square convolution without bias, for a BatchNorm to follow; weight (channels, C/groups, k, k)."""
        return self._stored(
            mx.sym.Convolution(
                data=data,
                weight=self._argument(f"{name}_weight"),
                num_filter=channels,
                kernel=(kernel, kernel),
                stride=(stride, stride),
                pad=(pad, pad),
                num_group=groups,
                no_bias=True,
                name=name,
            )
        )

    def batch_norm(self, data: Symbol, name: str, *, eps: float, fix_gamma: bool = False) -> Symbol:
        """BatchNorm over all axes but C; ``fix_gamma`` holds the scale at 1."""
        return self._stored(
            mx.sym.BatchNorm(data=data, eps=eps, momentum=BATCH_NORM_MOMENTUM, fix_gamma=fix_gamma, name=name)
        )

    def prelu(self, data: Symbol, name: str, channels: int) -> Symbol:
        """``max(x, 0) + γ_c · min(x, 0)`` with a learned slope ``{name}_gamma`` (C,), one for each channel.

        MXNet's LeakyReLU is right in its output alone. Where its gradient is planned in place, which is
        everywhere but behind oneDNN's convolutions, it writes the gradient of ``x`` over the one that it then
        sums for ``γ``, and that sum comes out multiplied by ``γ``. Two forms of the same function have the
        right gradient:

        - on a CPU ``(1 − γ) ⊙ max(x, 0) + γ ⊙ x``, the products being depthwise 1×1 convolutions: oneDNN has
          no LeakyReLU with slopes, and MXNet's takes 50 ns an element, forward and backward, these 6 ns;
        - on a GPU ``½ · (x + LeakyReLU(x; 2γ − 1))``: the sum holds on to the gradient that LeakyReLU reads.
        """
        if self.train_on is None:
            slope = self._argument(f"{name}_gamma", init=PRELU_INITIAL_SLOPE)
            return mx.sym.LeakyReLU(data=data, gamma=slope, act_type="prelu", name=name)
        slope = self._argument(f"{name}_gamma", init=PRELU_INITIAL_SLOPE, shape=(channels,))
        if self.train_on == "gpu":
            slope = mx.sym._internal._mul_scalar(slope, scalar=2.0, name=f"{name}_twice_slope")
            slope = mx.sym._internal._minus_scalar(slope, scalar=1.0, name=f"{name}_twice_slope_less_one")
            bent = mx.sym.LeakyReLU(data=data, gamma=slope, act_type="prelu", name=f"{name}_bent")
            both = mx.sym.elemwise_add(bent, data, name=f"{name}_twice")
            return self._stored(mx.sym._internal._mul_scalar(both, scalar=0.5, name=name))
        slope = mx.sym.reshape(slope, shape=(channels, 1, 1, 1), name=f"{name}_slope")
        rest = mx.sym._internal._rminus_scalar(slope, scalar=1.0, name=f"{name}_one_less_slope")
        positive = mx.sym.Activation(data=data, act_type="relu", name=f"{name}_positive")
        depthwise = {"num_filter": channels, "num_group": channels, "kernel": (1, 1), "no_bias": True}
        return self._stored(
            mx.sym.elemwise_add(
                mx.sym.Convolution(data=positive, weight=rest, name=f"{name}_of_positive", **depthwise),
                mx.sym.Convolution(data=data, weight=slope, name=f"{name}_of_all", **depthwise),
                name=name,
            )
        )

    def relu(self, data: Symbol, name: str) -> Symbol:
        """``max(x, 0)``."""
        return mx.sym.Activation(data=data, act_type="relu", name=name)

    def add(self, left: Symbol, right: Symbol, name: str) -> Symbol:
        """The sum of two branches of equal shape."""
        return self._stored(mx.sym.elemwise_add(left, right, name=name))

    def max_pool(self, data: Symbol, name: str) -> Symbol:
        """The maximum over 3×3, stride 2."""
        return mx.sym.Pooling(data=data, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max", name=name)

    def embedding(self, data: Symbol, embedding_size: int, *, weight: str = "pre_fc1_weight") -> Symbol:
        """The end of every backbone: dense ``pre_fc1``, then BatchNorm ``fc1`` without scale, in ``float32``.

        Args:
            data: (B, …) activations in ``float32``; the axes after B are flattened.
            embedding_size: D, the numbers of an embedding.
            weight: the name of the dense layer's weight, (D, …).

        Returns:
            embeddings (B, D), ``float32``, not normalised.
        """
        dense = mx.sym.FullyConnected(
            data=data, weight=mx.sym.Variable(weight), num_hidden=embedding_size, name="pre_fc1"
        )
        return Layers("float32").batch_norm(dense, "fc1", eps=2e-5, fix_gamma=True)

    def to_float32(self, data: Symbol) -> Symbol:
        """The activations as ``float32``, where the layers of ``Layers("float32")`` follow."""
        if self.precision != "float16":
            return data
        return mx.sym.Cast(data, dtype="float32", name=f"{data.name}_float32")

    def _argument(self, name: str, **attributes: object) -> Symbol:
        """The ``float32`` argument ``name``, as an operator of this precision reads it."""
        if self.precision == "float32":
            return mx.sym.Variable(name, **attributes)
        # A cast says nothing of the type before it: the master weight states its own.
        master = mx.sym.Variable(name, dtype="float32", **attributes)
        if self.precision == "float16":
            return mx.sym.Cast(master, dtype="float16", name=f"{name}_float16")
        return self._stored(master)

    def _stored(self, value: Symbol) -> Symbol:
        """``value`` as memory holds it: rounded where ``float16`` is emulated, and its gradient likewise."""
        if self.precision != "float16-emulated":
            return value
        rounded = mx.sym.Cast(value, dtype="float16", name=f"{value.name}_float16")
        return mx.sym.Cast(rounded, dtype="float32", name=f"{value.name}_rounded")
