"""SGD with momentum for the backbone's parameters, many to one MXNet operation.

    m ← μ·m − η·(clip·g/scale + λ·w)        w ← w + m

With Nesterov's momentum, as PyTorch has it, w ← w + μ·m − η·(clip·g/scale + λ·w) in place of the last.
"""

from __future__ import annotations

import mxnet as mx

from partial_fc.guards import GradientClip

# MXNet's fused update takes at most 60 parameters at a time.
_GROUP_SIZE = 40
_UNDECAYED_SUFFIXES = ("_bias", "_gamma", "_beta")


class SGD:
    """SGD with momentum over named parameters, float32, in place.

    Args:
        parameters: name → weights; changed by :meth:`update`.
        momentum: μ.
        weight_decay: λ.
        decay_everything: False leaves biases, BatchNorm parameters and PReLU slopes without weight decay.
        nesterov: Nesterov's momentum; an MXNet operation a parameter, for there is none for many.

    Attributes:
        momenta: name → m.
    """

    def __init__(
        self,
        parameters: dict[str, mx.nd.NDArray],
        *,
        momentum: float,
        weight_decay: float,
        decay_everything: bool = True,
        nesterov: bool = False,
    ) -> None:
        self._parameters = parameters
        self._momentum = momentum
        self._nesterov = nesterov
        self._weight_decay = {
            name: weight_decay if decay_everything or not name.endswith(_UNDECAYED_SUFFIXES) else 0.0
            for name in parameters
        }
        self.momenta = {name: mx.nd.zeros_like(weight) for name, weight in parameters.items()}

    def update(
        self,
        gradients: dict[str, mx.nd.NDArray],
        learning_rate: float,
        loss_scale: float = 1.0,
        clip_factor: float = 1.0,
    ) -> None:
        """One step on all parameters; ``gradients`` are those of loss·loss_scale, and count clip_factor times."""
        if self._nesterov:
            self._update_nesterov(gradients, learning_rate, clip_factor / loss_scale)
            return
        names = list(self._parameters)
        for first in range(0, len(names), _GROUP_SIZE):
            group = names[first : first + _GROUP_SIZE]
            arrays = [
                array
                for name in group
                for array in (self._parameters[name], gradients[name], self.momenta[name])
            ]
            mx.nd.multi_sgd_mom_update(
                *arrays,
                lrs=[learning_rate] * len(group),
                wds=[self._weight_decay[name] for name in group],
                momentum=self._momentum,
                rescale_grad=clip_factor / loss_scale,
                num_weights=len(group),
                out=[self._parameters[name] for name in group],
            )

    def update_clipped(
        self, gradients: dict[str, mx.nd.NDArray], learning_rate: float, loss_scale: float, clip: GradientClip | None
    ) -> float | None:
        """:meth:`update` by gradients that are finite, clipped where they shall be.

        Returns:
            Their global norm before clipping, of the loss itself; None where none is clipped.
        """
        if clip is None:
            self.update(gradients, learning_rate, loss_scale)
            return None
        norm, factor = clip.norm_and_factor(gradients, loss_scale)
        self.update(gradients, learning_rate, loss_scale, factor)
        return norm

    def _update_nesterov(self, gradients: dict[str, mx.nd.NDArray], learning_rate: float, factor: float) -> None:
        for name, weight in self._parameters.items():
            # In place, MXNet's own weight decay would take the new weights into the momentum.
            gradient = gradients[name] * factor + self._weight_decay[name] * weight
            momentum = self.momenta[name]
            mx.nd.nag_mom_update(
                weight, gradient, momentum, lr=learning_rate, wd=0.0, momentum=self._momentum, out=weight
            )
