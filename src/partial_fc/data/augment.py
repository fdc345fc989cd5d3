"""Random choices an image, by a hash of (seed, epoch, image) and of nothing else.

    bits(seed, epoch, i, draw) = mix(mix(mix(seed) + epoch) ⊕ draw·γ) + i·γ, mixed again

with the finaliser `mix` and the increment γ of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). There is no
generator with a state, so what befalls an image does not depend on ranks, threads, order or resumption.
"""

from __future__ import annotations

import numpy as np

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1

MIRROR = 0  # the draws: one number for each use


def random_bits(seed: int, epoch: int, indices_B: np.ndarray, draw: int) -> np.ndarray:
    """64 random bits for each image of `indices_B`: uint64 (B,). Others for each (seed, epoch, draw)."""
    key = _mix(_mix(_mix(seed) + epoch) + draw * _GAMMA)
    state_B = indices_B.astype(np.uint64) * np.uint64(_GAMMA) + np.uint64(key)
    return _mix_array(state_B)


def mirror_flags(seed: int, epoch: int, indices_B: np.ndarray) -> np.ndarray:
    """Whether each image of `indices_B` is mirrored in this epoch: bool (B,), true with probability ½."""
    return random_bits(seed, epoch, indices_B, MIRROR) >> np.uint64(63) == 1


def _mix(number: int) -> int:
    number = (number + _GAMMA) & _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31


def _mix_array(state_B: np.ndarray) -> np.ndarray:
    """`_mix` of each number, where arrays wrap around by themselves."""
    state_B = state_B + np.uint64(_GAMMA)
    state_B = (state_B ^ state_B >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state_B = (state_B ^ state_B >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state_B ^ state_B >> np.uint64(31)
