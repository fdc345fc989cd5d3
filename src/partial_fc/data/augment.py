"""Random changes of images, drawn by a hash of (seed, epoch, image, change) and of nothing else.

    bits(seed, epoch, i, draw) = mix(mix(mix(seed) + epoch) ⊕ draw·γ) + i·γ, mixed again

with the finaliser `mix` and the increment γ of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). There is no
generator with a state, so what befalls an image does not depend on ranks, threads, order or resumption, and
each change draws from numbers of its own: switching one on leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from partial_fc.augmentation import BEST_QUALITY, SMALLEST_ERASED, Augmentation

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_LUMA = np.array([0.299, 0.587, 0.114])  # of R, G, B: ITU-R BT.601, as JPEG has it
_LARGEST_ASPECT = 10 / 3  # of an erased rectangle, either way

MIRROR = 0  # the draws: one number for each use
_FIRST_DRAW = {"crop": 16, "color": 32, "grey": 48, "blur": 64, "jpeg": 80, "erase": 96}
_DRAWS = 6  # of a change: whether it is made, and five more


def random_bits(seed: int, epoch: int, indices_B: np.ndarray, draw: int) -> np.ndarray:
    """64 random bits for each image of `indices_B`: uint64 (B,). Others for each (seed, epoch, draw)."""
    key = _mix(_mix(_mix(seed) + epoch) + draw * _GAMMA)
    state_B = indices_B.astype(np.uint64) * np.uint64(_GAMMA) + np.uint64(key)
    return _mix_array(state_B)


def uniforms(seed: int, epoch: int, indices_B: np.ndarray, draw: int) -> np.ndarray:
    """`random_bits` as numbers in [0, 1): float64 (B,)."""
    return (random_bits(seed, epoch, indices_B, draw) >> np.uint64(11)) * 2.0**-53


def mirror_flags(seed: int, epoch: int, indices_B: np.ndarray, probability: float = 0.5) -> np.ndarray:
    """Whether each image of `indices_B` is mirrored in this epoch: bool (B,), true with `probability`."""
    return uniforms(seed, epoch, indices_B, MIRROR) >= 1 - probability


Change = Callable[[np.ndarray], np.ndarray]
"""Of an image, uint8 RGB (H, W, 3), to another of the same shape."""


class Augmenter:
    """What `augmentation` makes of images, mirroring apart, which decoding does on its way.

    The changes are made in the order crop, colour, grey, blur, JPEG, erasing: that of a camera, and then of
    what stands before it.
    """

    def __init__(self, augmentation: Augmentation, seed: int):
        self._mirror = augmentation.mirror
        self._seed = seed
        self._switched_on = [
            (make, _FIRST_DRAW[name], getattr(augmentation, name), getattr(augmentation, f"{name}_strength", 0.0))
            for name, make in _MAKERS.items()
            if getattr(augmentation, name) > 0
        ]

    def mirrored(self, epoch: int, indices_B: np.ndarray) -> np.ndarray:
        """Whether each image is to be mirrored: bool (B,)."""
        return mirror_flags(self._seed, epoch, indices_B, self._mirror)

    def changes(self, epoch: int, indices_B: np.ndarray) -> Mapping[int, list[Change]]:
        """The changes to make, in their order, of each row of `indices_B` that has any."""
        changes: dict[int, list[Change]] = {}
        for make, first, probability, strength in self._switched_on:
            chosen = np.flatnonzero(uniforms(self._seed, epoch, indices_B, first) < probability)
            chosen_indices = indices_B[chosen]
            draws = [uniforms(self._seed, epoch, chosen_indices, first + 1 + k) for k in range(_DRAWS - 1)]
            for row, *numbers in zip(chosen.tolist(), *(draw.tolist() for draw in draws), strict=True):
                changes.setdefault(row, []).append(make(strength, numbers))
        return changes


def _crop(strength: float, draws: list[float]) -> Change:
    side, x, y = 1 - strength * draws[0], draws[1], draws[2]

    def change(image_HWC: np.ndarray) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        part_height, part_width = max(1, round(height * side)), max(1, round(width * side))
        top, left = int(y * (height - part_height + 1)), int(x * (width - part_width + 1))
        part = image_HWC[top : top + part_height, left : left + part_width]
        return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)

    return change


def _color(strength: float, draws: list[float]) -> Change:
    """All three are one linear map of a pixel's colours: contrast about the mean luma, saturation about its own."""
    brightness, contrast, saturation = (1 + strength * (2 * draw - 1) for draw in draws[:3])

    def change(image_HWC: np.ndarray) -> np.ndarray:
        mean_luma = brightness * float(np.dot(cv2.mean(image_HWC)[:3], _LUMA))
        colors_33 = saturation * np.eye(3) + (1 - saturation) * _LUMA
        shift_31 = np.full((3, 1), (1 - contrast) * mean_luma)
        return cv2.transform(image_HWC, np.hstack([brightness * contrast * colors_33, shift_31]))

    return change


def _grey(_: float, __: list[float]) -> Change:
    return lambda image_HWC: cv2.cvtColor(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _blur(strength: float, draws: list[float]) -> Change:
    sigma = strength * (1 - draws[0])  # never 0
    return lambda image_HWC: cv2.GaussianBlur(image_HWC, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def _jpeg(strength: float, draws: list[float]) -> Change:
    quality = round(strength + (BEST_QUALITY - strength) * draws[0])

    def change(image_HWC: np.ndarray) -> np.ndarray:
        bgr_HWC = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
        encoded = cv2.imencode(".jpg", bgr_HWC, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
        return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    return change


def _erase(strength: float, draws: list[float]) -> Change:
    """Random erasing (Zhong et al., arXiv 1708.04896), each erased pixel with a colour of its own."""
    share = SMALLEST_ERASED + (strength - SMALLEST_ERASED) * draws[0]
    aspect = _LARGEST_ASPECT ** (2 * draws[1] - 1)  # height / width, as often above 1 as below

    def change(image_HWC: np.ndarray) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        area = share * height * width
        part_height = min(max(1, round((area * aspect) ** 0.5)), height)
        part_width = min(max(1, round((area / aspect) ** 0.5)), width)
        top, left = int(draws[2] * (height - part_height + 1)), int(draws[3] * (width - part_width + 1))
        noise = np.random.Generator(np.random.PCG64(int(draws[4] * 2**53)))
        erased_HWC = image_HWC.copy()
        erased_HWC[top : top + part_height, left : left + part_width] = noise.integers(
            0, 256, (part_height, part_width, 3), np.uint8
        )
        return erased_HWC

    return change


_MAKERS: dict[str, Callable[[float, list[float]], Change]] = {
    "crop": _crop,
    "color": _color,
    "grey": _grey,
    "blur": _blur,
    "jpeg": _jpeg,
    "erase": _erase,
}


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
