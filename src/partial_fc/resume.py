"""Where a run begins: at its first update, or where a checkpoint left it."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from typing import Any

import mxnet as mx
import numpy as np

from partial_fc.backbone import Backbone
from partial_fc.checkpoint import AUTO, Checkpointer, Part, SavedCheckpoint, find_checkpoint, new_mark, open_checkpoint
from partial_fc.checkpoint.fine_tune import CentersStart, read_identities, same_labels
from partial_fc.checkpoint.tools import classes_of
from partial_fc.collectives import Collectives, together
from partial_fc.config import RunConfig
from partial_fc.data.source import ImageSource
from partial_fc.head.centers import ClassCenters

logger = logging.getLogger("partial_fc")

# What may differ between a run and the one that goes on with it without a word: where and how, not what is computed.
_FREE = frozenset(
    ("models_root", "max_update", "stop_update", "resume", "save_every_updates", "keep", "save_memory_mib", "workers")
    + ("log_every_updates", "verify_every_updates", "val", "logits_chunk", "stall_timeout_seconds")
    + ("pretrained", "centers", "identities")
)


def open_checkpoints(
    config: RunConfig, parts: Mapping[str, Part], num_classes: int, collectives: Collectives
) -> tuple[Checkpointer, bool]:
    """Restores the parts from the checkpoint that ``--resume`` names, if there is one.

    Returns:
        What will save the parts, and whether they were restored.

    Raises:
        RankError: on every rank: the checkpoint is damaged, or does not fit this run.
    """
    checkpoint: SavedCheckpoint | None = None
    if config.resume is not None:
        checkpoint = find_checkpoint(config.resume, config.run_directory, collectives)
        if checkpoint is not None:
            restore(checkpoint, parts, collectives)
        if collectives.rank == 0:
            _tell(checkpoint, config, collectives.size)
    checkpoints = Checkpointer(
        config.run_directory,
        parts,
        lambda: {
            "num_classes": num_classes,
            "embedding_size": config.embedding_size,
            "config": config.as_json(),
            "versions": {"python": platform.python_version(), "mxnet": mx.__version__},
        },
        collectives,
        new_mark(checkpoint, config.run_directory, config.resume == AUTO, collectives),
        keep=config.keep,
        memory=config.save_memory_mib << 20,
    )
    if config.save_every_updates:
        checkpoints.prepare()
    return checkpoints, checkpoint is not None


def start_centers(
    config: RunConfig,
    backbone: Backbone,
    centers: ClassCenters,
    num_classes: int,
    source: ImageSource | None,
    collectives: Collectives,
) -> None:
    """Gives a run that begins the class centers of ``--centers``, and makes those of new identities.

    Raises:
        RankError: on every rank: a file is damaged, or does not fit this run.
    """
    assert config.centers is not None
    checkpoint = open_checkpoint(config.centers, collectives)
    old_C: np.ndarray | None = None
    with together(collectives, "fine-tune.identities"):
        old_classes, _ = classes_of(checkpoint)
        if config.identities is None:
            old_C = same_labels(num_classes, old_classes)
        else:
            old_C = read_identities(config.identities, num_classes, old_classes)
    assert old_C is not None
    start = CentersStart(centers, old_C, collectives)
    start.put_old(checkpoint)
    new = start.put_new(backbone, source, config.workers)
    if collectives.rank == 0:
        print(f"class centers of {checkpoint.directory}: {num_classes - new} identities kept, {new} new", flush=True)


def restore(checkpoint: SavedCheckpoint, parts: Mapping[str, Part], collectives: Collectives) -> None:
    """Gives every part its saved state; every rank calls it.

    Raises:
        RankError: on every rank, when a part of one does not take what was saved.
    """
    with together(collectives, "resume.restore"):
        for name, part in parts.items():
            try:
                part.restore(checkpoint.part(name))
            except (KeyError, TypeError) as error:
                raise ValueError(f"{checkpoint.directory}: what it says of {name} is incomplete: {error}") from error


def _tell(checkpoint: SavedCheckpoint | None, config: RunConfig, ranks: int) -> None:
    if checkpoint is None:
        print(f"no checkpoint in {config.run_directory}: training begins with the first update", flush=True)
        return
    manifest = checkpoint.manifest
    of_ranks = "" if manifest.ranks == ranks else f", saved by {manifest.ranks} ranks and resumed by {ranks}"
    print(f"resumed {checkpoint.directory}: update {manifest.update}{of_ranks}", flush=True)
    saved: Any = manifest.description.get("config")
    if isinstance(saved, dict):
        for name, value in config.as_json().items():
            if name not in _FREE and name in saved and saved[name] != value:
                logger.warning("%s was %s when the checkpoint was saved and is %s now", name, saved[name], value)
