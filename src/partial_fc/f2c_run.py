"""The parts of a run with F²C, made as its configuration says."""

from __future__ import annotations

import logging

import mxnet as mx

from partial_fc.backbone import Backbone
from partial_fc.collectives import Collectives
from partial_fc.config import RunConfig
from partial_fc.config_f2c import pool_slots, share_of
from partial_fc.gallery import Gallery
from partial_fc.head.chunk import LOGITS_SHARE, choose_logits_chunk, free_memory
from partial_fc.head.f2c import DEFAULT_BLOCK_SLOTS, F2C
from partial_fc.head.f2c_margin import F2CMargin
from partial_fc.head.margin import Margin, SVMargin

logger = logging.getLogger("partial_fc")


def make_f2c_head(config: RunConfig, collectives: Collectives, context: mx.Context, identities: int) -> F2C:
    """The head of one rank.

    Raises:
        ValueError: a pool with fewer slots than identities in one gathered batch, or than ranks; or one that does not
            fit in what is free of the device's memory.
    """
    samples = config.backbone_batch_size * config.accumulate * collectives.size
    slots = pool_slots(config.queue_size, identities=identities, samples=samples)
    if isinstance(config.queue_size, str):
        slots = max(slots, collectives.size)
        asked = round(share_of(config.queue_size) * identities)
        if slots > asked and collectives.rank == 0:
            logger.warning(
                "--queue-size %s of %d identities is %d slots: the pool has %d, for the identities of a gathered batch",
                config.queue_size, identities, asked, slots,
            )  # fmt: skip
    _check_room(slots, config.embedding_size, context, collectives)
    own_slots = -(-slots // collectives.size)
    block_slots = _block_slots(config, samples, own_slots, context, collectives)
    return F2C(
        slots,
        config.embedding_size,
        collectives,
        margin=make_margin(config),
        scale=config.scale,
        seed=config.seed,
        context=context,
        block_slots=block_slots or DEFAULT_BLOCK_SLOTS,
        keep_logits=block_slots is None,
    )


def make_margin(config: RunConfig) -> F2CMargin:
    """The margin that ``--loss`` names."""
    if config.hard_negatives is None:
        return F2CMargin(Margin(*config.margins))
    margin = config.margins[2]
    return F2CMargin(SVMargin(margin), hard_weight=config.hard_negatives, hard_margin=margin)


def make_gallery(config: RunConfig, context: mx.Context, backbone: Backbone) -> Gallery:
    """The second network of one rank."""
    return Gallery(
        backbone.network,
        backbone.parameters,
        backbone.statistics,
        momentum=config.gallery_momentum,
        context=context,
        accumulate=config.accumulate,
    )


def _check_room(slots: int, embedding_size: int, context: mx.Context, collectives: Collectives) -> None:
    needed = 2 * 4 * -(-slots // collectives.size) * embedding_size
    free = free_memory(context, collectives.local_size)
    if needed > free:
        raise ValueError(
            f"a rank's part of a pool of {slots} slots takes {needed >> 20} MiB, and {free >> 20} MiB are free for it: "
            "set --queue-size to less, or start more ranks on more machines"
        )


def _block_slots(
    config: RunConfig, samples: int, slots: int, context: mx.Context, collectives: Collectives
) -> int | None:
    """The slots whose logits are kept at once; None keeps those of all."""
    if isinstance(config.logits_chunk, int):
        return config.logits_chunk
    if config.logits_chunk == "all":
        return None
    budget = int(LOGITS_SHARE * free_memory(context, collectives.local_size))
    return choose_logits_chunk(samples, 2 * slots, budget, DEFAULT_BLOCK_SLOTS)
