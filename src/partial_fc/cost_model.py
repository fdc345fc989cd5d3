"""The cost of a training step on one rank: bytes by what they hold, seconds by where they go.

Legend: B images of a rank, R ranks, N = B·R, C identities, D embedding size, S sampled classes of a rank.

    centers        (C/R) · (2·D numbers + 1/|w|)
    logits         4·N·S, or 4·N·chunk when they are computed twice
    products       2·N·S·D FLOPs each: three, or four when logits are computed twice
    communication  a ring: all-gather and reduce-scatter carry (R−1)/R · bytes, an all-reduce twice that

It is arithmetic alone; what a machine does is given to it (:class:`Speeds`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from partial_fc.center_storage import Storage
from partial_fc.head.chunk import LOGITS_SHARE, choose_logits_chunk
from partial_fc.head.partial_fc import DEFAULT_BLOCK_ROWS
from partial_fc.head.partition import ClassPartition
from partial_fc.head.sampler import sample_size
from partial_fc.network_cost import NetworkCost

MIB = 2**20
DEVICES = ("gpu", "cpu")

# A CPU rank before it does anything: the interpreter, MXNet with its threads and oneDNN's code, Horovod (measured).
CPU_PROCESS_BYTES = 200 * MIB
# What the libraries keep there of a layer's first step: scratch and code for its sizes (measured: 2–4 MiB).
CPU_FIRST_STEP_BYTES = 3 * MIB
# A GPU rank before it does anything, as nvidia-smi shows it: the CUDA context with the kernels of MXNet, cuDNN and
# NCCL, and cuDNN's work space. An assumption, to be replaced by what an idle rank shows: 0.7–1.3 GiB are common.
GPU_PROCESS_BYTES = 1000 * MIB
# The NDArray form of the kernels runs ahead of the memory that it gives back: arrays of a block that live at once
# (measured on a CPU at N 64 and 256, D 512 and 256).
NDARRAY_TEMPORARIES = 14
# Horovod packs small gradients into one buffer of this size, HOROVOD_FUSION_THRESHOLD.
FUSION_BUFFER_BYTES = 128 * MIB

# The embeddings of all ranks, normalised, scaled, and their gradient: in parts, summed.
_EMBEDDING_ARRAYS = 5
# Of a number of the logits: written and read by the forward pass, twice each, and again by the backward pass.
_LOGIT_PASSES = 4
# A backward pass takes two thirds of a backbone's time: what its all-reduce can hide behind.
_BACKWARD_SHARE = 2 / 3
LARGEST_IDENTITIES = 2**40
SMALLEST_CHUNK = 64


@dataclass(frozen=True)
class Setting:
    """A training run, as far as its cost depends on it.

    Attributes:
        identities: C.
        ranks: R.
        batch_size: B.
        embedding_size: D.
        sample_ratio: r in (0, 1].
        storage: where and as what the class centers are kept.
        logits_chunk: None keeps all logits; else the classes whose logits are kept at once.
        network: the backbone's cost; None: the classification layer alone.
        device: ``gpu`` or ``cpu``.
        process_bytes: what a rank takes before it does anything; None: what is usual on the device.
        accumulate: batches of B whose embeddings go through the layer together.
        lazy_updates: class centers that are not sampled move on too. Each keeps the number of its last update; the
            history of the updates, 54 bytes each, is not counted.

    Raises:
        ValueError: a value out of its range.
    """

    identities: int
    ranks: int = 1
    batch_size: int = 64
    embedding_size: int = 512
    sample_ratio: float = 1.0
    storage: Storage = field(default_factory=Storage)
    logits_chunk: int | None = None
    network: NetworkCost | None = None
    device: str = "gpu"
    process_bytes: int | None = None
    accumulate: int = 1
    lazy_updates: bool = False

    def __post_init__(self) -> None:
        ClassPartition(self.identities, self.ranks)
        for what, value in (("batch size", self.batch_size), ("embedding size", self.embedding_size)):
            if value < 1:
                raise ValueError(f"the {what} must be at least 1, but is {value}")
        if not 0.0 < self.sample_ratio <= 1.0:
            raise ValueError(f"the sample ratio must lie in (0, 1], but is {self.sample_ratio}")
        if self.logits_chunk is not None and self.logits_chunk < 1:
            raise ValueError(f"a chunk of logits must hold at least 1 class, but is {self.logits_chunk}")
        if self.device not in DEVICES:
            raise ValueError(f"the device must be one of {', '.join(DEVICES)}, but is {self.device!r}")

    @property
    def samples(self) -> int:
        """N."""
        return self.batch_size * self.accumulate * self.ranks

    @property
    def classes(self) -> int:
        """The classes of the rank that owns most, ⌈C/R⌉."""
        return -(-self.identities // self.ranks)

    @property
    def sampled(self) -> int:
        """S, where labels are uniform over the identities."""
        positives = self.classes * -math.expm1(self.samples * _log_of_one_minus(1 / self.identities))
        return min(self.classes, sample_size(self.classes, self.sample_ratio, math.ceil(positives)))

    @property
    def block(self) -> int:
        """The most classes that are worked on at once."""
        return min(self.logits_chunk or DEFAULT_BLOCK_ROWS, self.sampled)

    @property
    def in_place(self) -> bool:
        """Whether rows are used where they are stored: all of them, in float32, beside the computing."""
        storage = self.storage
        plain = storage.weight == storage.momentum == "float32" and storage.tier == "device"
        return plain and self.sampled == self.classes

    @property
    def process(self) -> int:
        """Bytes of a rank that does nothing yet."""
        if self.process_bytes is not None:
            return self.process_bytes
        return GPU_PROCESS_BYTES if self.device == "gpu" else CPU_PROCESS_BYTES


@dataclass(frozen=True)
class Part:
    """A part of a rank's memory.

    Attributes:
        name: what it holds.
        bytes: how many.
        place: ``device`` (a GPU's memory, or a CPU rank's), ``host`` (the machine's, beside a GPU) or ``disk``.
    """

    name: str
    bytes: int
    place: str = "device"


def total(parts: list[Part], place: str = "device") -> int:
    """The bytes of all parts in a place."""
    return sum(part.bytes for part in parts if part.place == place)


def head_memory(setting: Setting) -> list[Part]:
    """The memory of the classification layer on the rank that owns most classes, at its peak.

    Class centers count in full: a row takes memory from the first time it is sampled.
    """
    s, n, d, sampled = setting, setting.samples, setting.embedding_size, setting.sampled
    beside = "host" if s.device == "gpu" else "device"
    stored = {"device": "device", "host": beside, "file": "disk"}[s.storage.tier]
    beside_row = 8 if s.storage.momentum == "int8" else 4  # 1/|w| and the momentum's scale, which no file holds
    row = s.storage.bytes_per_row(d) - beside_row
    chunk = s.block if s.logits_chunk is not None else sampled
    parts = [
        Part("class centers and momentum", s.classes * row, stored),
        Part("their norms and scales", s.classes * beside_row, "device" if stored == "device" else beside),
        Part("logits", 4 * n * chunk),
        Part("gradient of the centers, a block", 4 * s.block * (d + 1)),
        Part("embeddings and their gradient", 4 * _EMBEDDING_ARRAYS * n * d),
        Part("sampling", s.classes + 8 * sampled * (1 if s.in_place else 2), beside),
        *([Part("last update of each center", 4 * s.classes + 16 * sampled, beside)] if s.lazy_updates else []),
    ]
    if not s.in_place:
        ahead = s.logits_chunk is None and sampled < s.classes  # else block by block, in two places by turns
        gathered = 4 * (sampled if ahead else 2 * s.block) * (d + 1)
        parts.append(Part("gathered centers", gathered))
        if s.device == "gpu" and s.storage.tier != "device":
            parts.append(Part("gathered centers on their way", gathered, "host"))
    if s.device == "gpu":
        parts.append(Part("temporaries of the kernels", 4 * NDARRAY_TEMPORARIES * s.block * (n + d)))
    else:
        parts.append(Part("scratch of the libraries", CPU_FIRST_STEP_BYTES))
    return parts


def memory(setting: Setting) -> list[Part]:
    """The memory of a rank at its peak: the process, the backbone, the classification layer, the collectives."""
    parts = [Part("process", setting.process), *head_memory(setting)]
    network = setting.network
    if network is None:
        return parts
    gradients = 4 * network.parameters
    per_image = network.activation_bytes_per_image + network.input_bytes_per_image
    parts += [
        Part("backbone: parameters, gradients, momentum", 3 * gradients + network.fixed_bytes),
        Part("backbone: activations", setting.batch_size * per_image),
    ]
    if setting.ranks > 1:
        parts.append(Part("collectives", min(FUSION_BUFFER_BYTES, gradients)))
    return parts


def fits(setting: Setting, limits: Mapping[str, int]) -> bool:
    """Whether a rank's memory stays within the limits, bytes by place; a place without one has room for all."""
    parts = memory(setting)
    return all(total(parts, place) <= limit for place, limit in limits.items())


def with_fitting_logits(setting: Setting, limits: Mapping[str, int]) -> Setting:
    """The setting with all logits kept where there is room, else with the largest chunk that fits: training's rule.

    All are kept where they take at most a quarter of the device's memory and leave room for the centers and the
    backbone, neither of which exists yet when a run chooses. Where nothing fits it has the smallest chunk.
    """
    budget = int(LOGITS_SHARE * max(0, limits["device"] - setting.process))
    chunk = choose_logits_chunk(setting.samples, setting.sampled, budget, DEFAULT_BLOCK_ROWS)
    adapted = replace(setting, logits_chunk=chunk)
    while not fits(adapted, limits) and (adapted.logits_chunk or math.inf) > SMALLEST_CHUNK:
        halved = adapted.logits_chunk // 2 if adapted.logits_chunk is not None else DEFAULT_BLOCK_ROWS
        adapted = replace(adapted, logits_chunk=halved)
    return adapted


def largest_identities(
    setting: Setting, limits: Mapping[str, int], adapt: Callable[[Setting], Setting] = lambda setting: setting
) -> int:
    """The largest C that fits in the limits, 0 when none does; at most 2^40, where nothing limits it.

    Args:
        setting: everything but the identities.
        limits: bytes by place, as of :func:`fits`.
        adapt: changes a setting before it is weighed, such as :func:`with_fitting_logits`.
    """

    def holds(identities: int) -> bool:
        return fits(adapt(replace(setting, identities=identities)), limits)

    low, high = setting.ranks, LARGEST_IDENTITIES
    if not holds(low):
        return 0
    if holds(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class Speeds:
    """What a rank's machine does.

    Attributes:
        gemm_flops: a second, in the layer's float32 matrix products.
        backbone_flops: a second, in a whole forward and backward pass of the backbone.
        memory_bytes: read or written a second.
        inside_bytes: a second, that a rank sends in a ring within a machine.
        network_bytes: a second, that a machine sends: the pace of a ring over several.
        latency_seconds: of one message.
        ranks_per_machine: up to so many ranks a ring stays within a machine.

    Raises:
        ValueError: a speed that is not positive.
    """

    gemm_flops: float
    backbone_flops: float
    memory_bytes: float
    inside_bytes: float
    network_bytes: float
    latency_seconds: float
    ranks_per_machine: int = 8

    def __post_init__(self) -> None:
        for what, value in vars(self).items():
            if not 0.0 < value < math.inf:
                raise ValueError(f"{what.replace('_', ' ')} must be positive, but is {value}")

    def ring_bytes(self, ranks: int) -> float:
        """Bytes a second that go round a ring of so many ranks."""
        return self.inside_bytes if ranks <= self.ranks_per_machine else self.network_bytes


def step_seconds(setting: Setting, speeds: Speeds) -> dict[str, float]:
    """The seconds of a step by part. Sampling and the gather of rows run beside the backbone, and cost nothing."""
    n, d, sampled = setting.samples, setting.embedding_size, setting.sampled
    products = 3 if setting.logits_chunk is None else 4
    row_bytes = setting.storage.bytes_per_row(d)
    touched = 4 * _LOGIT_PASSES * n * sampled
    touched += sampled * (2 * row_bytes + 8 * d)  # rows and momentum read and written, their gradient as well
    seconds = {
        "head: matrix products": 2 * products * n * sampled * d / speeds.gemm_flops,
        "head: memory": touched / speeds.memory_bytes,
        "head: collectives": _head_communication(setting, speeds),
    }
    if setting.network is not None:
        images = setting.batch_size * setting.accumulate
        backbone = 3 * setting.network.flops_per_image * images / speeds.backbone_flops
        reduced = 2 * _ring(setting.ranks, 4 * setting.network.parameters, speeds)
        seconds["backbone"] = backbone
        seconds["gradients, what the backbone does not hide"] = max(0.0, reduced - _BACKWARD_SHARE * backbone)
    return seconds


def images_per_second(setting: Setting, speeds: Speeds) -> float:
    """N over the seconds of a step."""
    return setting.samples / sum(step_seconds(setting, speeds).values())


def _head_communication(setting: Setting, speeds: Speeds) -> float:
    """The labels' and the embeddings' all-gather, the normaliser's all-reduce, the gradient's reduce-scatter."""
    n, d, ranks = setting.samples, setting.embedding_size, setting.ranks
    if ranks == 1:
        return 0.0
    normaliser = 2 * (math.log2(ranks) * speeds.latency_seconds + 16 * n / speeds.ring_bytes(ranks))  # a tree
    return _ring(ranks, 8 * n, speeds) + 2 * _ring(ranks, 4 * n * d, speeds) + normaliser


def _ring(ranks: int, size: int, speeds: Speeds) -> float:
    """The seconds of an all-gather to, or a reduce-scatter of, so many bytes."""
    return (ranks - 1) * (size / ranks / speeds.ring_bytes(ranks) + speeds.latency_seconds)


def _log_of_one_minus(share: float) -> float:
    return math.log1p(-share) if share < 1 else -math.inf
