"""``python -m partial_fc.train``: trains a face recognition model; one rank of the run.

Started alone it is a run of one rank; ``bash run.sh`` and ``horovodrun … bash config.sh`` start many.
"""

from __future__ import annotations

import logging
import os
import platform
import resource
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import mxnet as mx

import symbol
from partial_fc.backbone import Backbone
from partial_fc.callbacks import Log, LogProgress, SaveModel, Verify
from partial_fc.checkpoint import save_checkpoint
from partial_fc.collectives import Collectives, PeerLostError, RankError, raise_together, together
from partial_fc.config import RunConfig, parse_arguments
from partial_fc.data.batch import Loader
from partial_fc.data.loader import TrainingLoader
from partial_fc.data.open_source import open_source
from partial_fc.data.random_images import RandomLoader
from partial_fc.data.source import ImageSource
from partial_fc.data.synthetic_faces import ensure_synthetic_faces
from partial_fc.device import compute_context, default_network
from partial_fc.evaluation.verification_set import load_bin
from partial_fc.head.chunk import choose_logits_chunk, logits_budget
from partial_fc.head.margin import Margin
from partial_fc.head.partial_fc import DEFAULT_BLOCK_ROWS, PartialFC
from partial_fc.head.row_store import check_room
from partial_fc.horovod_collectives import connect
from partial_fc.mixed_precision import loss_scale_for
from partial_fc.optimizer import SGD
from partial_fc.schedule import StepSchedule
from partial_fc.trainer import Trainer

logger = logging.getLogger("partial_fc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the command line says; returns the exit status: 0, or 2 for what the user can mend."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    config, mistake = None, None
    try:
        config = parse_arguments(sys.argv[1:] if arguments is None else arguments, default_network())
    except ValueError as error:
        mistake = str(error)
    collectives = connect()
    try:
        raise_together(collectives, mistake, "arguments")
        train(config, collectives)
    except RankError as error:  # all ranks have it and leave in good order
        if collectives.rank == 0:
            _complain(error)
        collectives.close()
        return 2
    except PeerLostError as error:
        _complain(error)
        collectives.abort(3)
    except BaseException:
        # This rank alone is in trouble: the others wait for it in a collective, and must not wait for ever.
        logger.exception("rank %d ends the run", collectives.rank)
        collectives.abort(1)
    collectives.close()
    return 0


def train(config: RunConfig, collectives: Collectives) -> None:
    """Trains a model on all ranks and saves it in ``config.run_directory``.

    Raises:
        RankError: on every rank, for what the user can mend: a missing file, an image that is none, a full disk.
    """
    with together(collectives, "device"):
        context = compute_context(collectives.local_rank)
    _prepare_data(config, collectives)
    verification_sets = []
    with together(collectives, "verification sets"):
        verification_sets = [load_bin(path) for path in config.val]
    with ExitStack() as resources:
        source, loader, num_classes = _open_data(config, collectives, resources)
        trainer = _build(config, collectives, context, loader, num_classes)
        with together(collectives, "log"):
            log = resources.enter_context(closing(Log(config.run_directory, config.max_update, collectives)))
        _describe(config, collectives, context, num_classes, len(source) if source else None)
        save = SaveModel(lambda: _save(config, collectives, trainer, num_classes), config.max_update)
        callbacks = [LogProgress(log, config.log_every_updates, config.max_update), save]
        if verification_sets:
            every = config.verify_every_updates
            callbacks.append(Verify(verification_sets, every, trainer.backbone, collectives, log))
        trainer.train(config.max_update, callbacks)
        _say_goodbye(collectives, save.directory, loader)


def _prepare_data(config: RunConfig, collectives: Collectives) -> None:
    """Draws the embedded data set where it is wanted and missing: on one rank of each machine."""
    with together(collectives, "synthetic faces"):
        if config.images_per_identity is not None and collectives.local_rank == 0:
            assert config.rec is not None
            ensure_synthetic_faces(
                config.rec.parent,
                identities=config.num_identities,
                images_per_identity=config.images_per_identity,
                workers=len(os.sched_getaffinity(0)),  # the machine's other ranks wait for these images
                progress=_say_drawn if collectives.rank == 0 else None,
            )


def _say_drawn(images: int) -> None:
    if images % 5_000 == 0:
        print(f"drew {images} synthetic faces", flush=True)


def _open_data(
    config: RunConfig, collectives: Collectives, resources: ExitStack
) -> tuple[ImageSource | None, Loader, int]:
    """The images, this rank's batches of them, and the number of identities C; ``resources`` closes them."""
    options = {
        "batch_size": config.batch_size,
        "image_size": config.image_size,
        "rank": collectives.rank,
        "ranks": collectives.size,
        "seed": config.seed,
    }
    source: ImageSource | None = None
    loader: Loader | None = None
    with together(collectives, "training images"):
        paths = config.data or ((config.rec,) if config.rec else ())
        if not paths:
            loader = RandomLoader(config.num_identities, **options)
        else:
            source = resources.enter_context(closing(open_source(paths, shared_labels=config.shared_labels)))
            loader = TrainingLoader(source, threads=config.workers, **options)
        resources.enter_context(closing(loader))
    return source, loader, config.num_identities if source is None else source.num_identities


def _build(
    config: RunConfig, collectives: Collectives, context: mx.Context, loader: Loader, num_classes: int
) -> Trainer:
    with together(collectives, "room for the class centers"):
        check_room(
            config.storage,
            num_classes=num_classes,
            embedding_size=config.embedding_size,
            context=context,
            collectives=collectives,
        )
    with together(collectives, "network"):
        network = symbol.build_backbone(
            config.network,
            config.embedding_size,
            precision=_precision(config, context),
            train_on=context.device_type,
        )
        head = PartialFC(
            num_classes,
            config.embedding_size,
            collectives,
            margin=Margin(*config.margins),
            scale=config.scale,
            sample_ratio=config.sample_ratio,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            seed=config.seed,
            context=context,
            storage=config.storage,
            logits_chunk=_logits_chunk(config, collectives, context, num_classes),
        )
    backbone = Backbone(
        network,
        batch_size=config.batch_size,
        image_size=config.image_size,
        collectives=collectives,
        context=context,
        seed=config.seed,
        fp16_gradients=config.fp16_gradients,
    )
    optimizer = SGD(
        backbone.parameters,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        decay_everything=config.decay_everything,
    )
    schedule = StepSchedule(config.lr, config.lr_steps, config.lr_factor)
    loss_scale = loss_scale_for(config.fp16 or config.fp16_gradients)
    return Trainer(backbone, head, optimizer, loader, schedule, loss_scale, collectives)


def _logits_chunk(
    config: RunConfig, collectives: Collectives, context: mx.Context, num_classes: int
) -> int | None:
    if isinstance(config.logits_chunk, int):
        return config.logits_chunk
    if config.logits_chunk == "all":
        return None
    samples = config.batch_size * collectives.size
    sampled_classes = max(round(config.sample_ratio * num_classes / collectives.size), samples)
    budget = logits_budget(context, collectives.local_size)
    return choose_logits_chunk(samples, sampled_classes, budget, DEFAULT_BLOCK_ROWS)


def _precision(config: RunConfig, context: mx.Context) -> str:
    """On a CPU, where MXNet has no fp16 convolution, mixed precision is fp32 with fp16's rounding."""
    if not config.fp16:
        return "float32"
    return "float16" if context.device_type == "gpu" else "float16-emulated"


def _save(config: RunConfig, collectives: Collectives, trainer: Trainer, num_classes: int) -> Path:
    return save_checkpoint(
        config.run_directory,
        update=trainer.update,
        backbone=trainer.backbone,
        deployed_network=symbol.build_backbone(config.network, config.embedding_size),
        optimizer=trainer.optimizer,
        centers=trainer.head.centers,
        num_classes=num_classes,
        description={
            "config": config.as_json(),
            "loss_scale": trainer.loss_scale.value,
            "versions": {"python": platform.python_version(), "mxnet": mx.__version__},
        },
        collectives=collectives,
    )


def _describe(
    config: RunConfig, collectives: Collectives, context: mx.Context, num_classes: int, images: int | None
) -> None:
    machines = collectives.gather_objects((platform.node(), str(context)), "environment")
    if collectives.rank != 0:
        return
    hosts = [host for host, _ in machines]
    places = [f"{host} {hosts.count(host)}" for host in dict.fromkeys(hosts)]
    print(config)
    print(f"  {'ranks':<22} {collectives.size} ({', '.join(places)}; {context.device_type})")
    print(f"  {'identities':<22} {num_classes}, a rank owns {-(-num_classes // collectives.size)} of them")
    print(f"  {'images':<22} {'random' if images is None else images}", flush=True)


def _say_goodbye(collectives: Collectives, directory: Path, loader: Loader) -> None:
    peak_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ranks = collectives.gather_objects((peak_kilobytes, loader.replaced), "goodbye")
    if collectives.rank != 0:
        return
    replaced = sum(count for _, count in ranks)
    if replaced:
        print(f"{replaced} images did not decode and were replaced by the next ones; the log names them")
    megabytes = ", ".join(f"{kilobytes / 1024:.0f}" for kilobytes, _ in ranks)
    print(f"saved {directory}; peak memory of the ranks in MiB: {megabytes}", flush=True)


def _complain(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
