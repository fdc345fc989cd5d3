"""Who a synthetic face is: 48 numbers, drawn so that no two identities are near each other.

The extended quadratic-residue code [48, 24, 12] has 2**24 = 16,777,216 words of 48 bits, and any two of
them differ in 12 bits or more (MacWilliams and Sloane, *The Theory of Error-Correcting Codes*, ch. 16).
Identity i owns one word. A bit says in which half of its range a parameter lies; the place inside that half
is random, and `GAP` of the range stays free between the halves. So any two identities differ by the gap or
more in at least 12 parameters, whatever their number, and none has to be compared with another.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

NUM_IDENTITIES = 1 << 24
"""Identities that one seed has; also the greatest label that a `float32` record header holds exactly."""

MIN_DIFFERING_PARAMETERS = 12
GAP = 0.3
"""Share of a parameter's range that stays free in its middle."""

# Name: (value at 0, value at 1). Lengths in pixels of a 112×112 image, angles as slopes, colours in HSV
# (hue in degrees, saturation and value in [0, 1]), the rest relative to what its name says.
RANGES: dict[str, tuple[float, float]] = {
    "skin_value": (0.42, 1.0),
    "skin_hue": (12.0, 34.0),
    "freckles": (0.0, 14.0),
    "blush": (0.0, 0.5),
    "face_width": (31.0, 40.0),
    "chin_length": (37.0, 48.0),
    "jaw_width": (0.62, 0.95),
    "chin_width": (0.22, 0.55),
    "cheek_width": (0.88, 1.04),
    "forehead_width": (0.76, 1.0),
    "ear_size": (7.0, 14.0),
    "ear_out": (0.5, 6.5),
    "eye_distance": (13.0, 19.0),
    "eye_height": (-10.0, -2.0),
    "eye_width": (6.5, 10.5),
    "eye_opening": (3.0, 7.0),
    "eye_tilt": (-0.28, 0.28),
    "iris_hue": (15.0, 220.0),
    "iris_value": (0.12, 0.75),
    "iris_size": (3.0, 5.4),
    "lash_thickness": (0.7, 2.8),
    "eyelid_shadow": (0.0, 0.4),
    "brow_height": (8.0, 15.0),
    "brow_thickness": (1.4, 5.5),
    "brow_tilt": (-0.32, 0.32),
    "brow_arch": (0.0, 4.5),
    "brow_length": (6.5, 13.0),
    "brow_value": (0.5, 1.5),
    "nose_length": (14.0, 25.0),
    "nose_width": (4.5, 11.0),
    "nose_bridge": (1.5, 4.5),
    "nose_tip": (2.5, 6.5),
    "nostrils": (0.8, 2.6),
    "mouth_height": (22.0, 31.0),
    "mouth_width": (9.0, 18.0),
    "upper_lip": (1.2, 5.0),
    "lower_lip": (1.8, 6.5),
    "mouth_tilt": (-3.0, 3.0),
    "lip_redness": (0.0, 1.0),
    "hair_line": (-38.0, -20.0),
    "hair_part": (-0.8, 0.8),
    "hair_volume": (2.0, 10.0),
    "hair_length": (-8.0, 50.0),
    "hair_hue": (14.0, 46.0),
    "hair_value": (0.08, 0.85),
    "mole_x": (-0.75, 0.75),
    "mole_y": (0.0, 1.0),
    "fold_depth": (0.0, 0.42),
}

Identity = namedtuple("Identity", RANGES)
Identity.__doc__ = "The parameters of one face, by name, in the units of `RANGES`."

_LOW_48, _HIGH_48 = np.array(list(RANGES.values())).T
_MESSAGE_STEP = 0x9E3779  # odd, near 2**24 over the golden ratio: neighbours get unlike messages


def code_generator() -> np.ndarray:
    """(24, 48) generator matrix: 24 cyclic shifts of the squares modulo 47, and a parity bit."""
    is_square_47 = np.zeros(47, np.uint8)
    is_square_47[[n * n % 47 for n in range(1, 47)]] = 1
    shifts = np.stack([np.roll(is_square_47, shift) for shift in range(24)])
    return np.hstack([shifts, shifts.sum(axis=1, keepdims=True) % 2]).astype(np.uint8)


_GENERATOR = code_generator()


def identity_position(seed: int, index: int) -> np.ndarray:
    """Where identity `index` of the data set `seed` lies in [0, 1)^48.

    Args:
        seed: non-negative; another seed gives other identities.
        index: in [0, 2**24).
    Returns:
        (48,) float64. Two positions of one seed differ by `GAP` or more in 12 coordinates or more.
    """
    if not 0 <= index < NUM_IDENTITIES:
        raise ValueError(f"a synthetic identity's index lies in [0, {NUM_IDENTITIES}), got {index}")
    of_seed = np.random.default_rng([seed, 0])
    message = (index * _MESSAGE_STEP + int(of_seed.integers(NUM_IDENTITIES))) % NUM_IDENTITIES
    message_bits = (message >> np.arange(24)) & 1
    # Flipping the same bits of all words and reordering them keeps every distance.
    word = (message_bits @ _GENERATOR + of_seed.integers(0, 2, 48)) % 2
    word = word[of_seed.permutation(48)]
    inside = np.random.default_rng([seed, 1, index]).random(48)
    return word * (1 + GAP) / 2 + inside * (1 - GAP) / 2


def parameters_at(position: np.ndarray) -> Identity:
    """The parameters of the face at a position (48,) in [0, 1]."""
    return Identity(*(_LOW_48 + position * (_HIGH_48 - _LOW_48)).tolist())


def identity_parameters(seed: int, index: int) -> Identity:
    """The parameters of identity `index` of the data set `seed` (see `identity_position`)."""
    return parameters_at(identity_position(seed, index))
