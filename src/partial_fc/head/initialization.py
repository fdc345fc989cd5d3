"""What a class center holds before it is first trained: a function of the seed and the class alone.

    w[c, d] = σ·√3·(u_0 + u_1 + u_2 + u_3 − 2)      u_i: the four 16-bit fields of hash(seed, c·D + d), in [0, 1)

The sum of four uniform numbers is close to a normal one and has variance 1/3, so that w has mean 0 and deviation σ.
Counter-based integers make a row independent of the rank count, of the order in which rows are touched and of the
machine, bit for bit. The hash is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
"""

from __future__ import annotations

import math

import numpy as np

INITIAL_DEVIATION = 0.01

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stream_key(seed: int) -> int:
    """The 64-bit key of a seed: seeds that differ by little give streams that have nothing in common."""
    return int(_mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))[0])


def initial_rows(seed: int, classes_S: np.ndarray, embedding_size: int) -> np.ndarray:
    """Makes the initial centers of the given classes.

    Args:
        seed: the run's seed.
        classes_S: (S,) int64, global class numbers.
        embedding_size: D.

    Returns:
        (S, D) float32.
    """
    counters = classes_S.astype(np.uint64)[:, None] * np.uint64(embedding_size)
    counters = counters + np.arange(embedding_size, dtype=np.uint64)[None, :]
    bits = _mix(np.uint64(stream_key(seed)) + counters)
    mask = np.uint64(0xFFFF)
    total = (bits & mask) + (bits >> np.uint64(16) & mask) + (bits >> np.uint64(32) & mask) + (bits >> np.uint64(48))
    # The sum is an integer below 2^18, exact in float32; centred on 2·65535 its mean is exactly 0.
    return (total.astype(np.float32) - np.float32(2 * 65535)) * np.float32(initial_step())


def initial_step() -> float:
    """What one unit of the sum of four 16-bit numbers is worth."""
    return INITIAL_DEVIATION * math.sqrt(3.0) / 65536.0


def _mix(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        values = values * _GOLDEN + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * _MIX_1
        values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))
