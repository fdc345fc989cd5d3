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
from partial_fc.callbacks_guards import CompareBackbones, LimitSkippedUpdates
from partial_fc.checkpoint import Checkpointer, run_parts
from partial_fc.checkpoint.fine_tune import load_pretrained
from partial_fc.collectives import Collectives, PeerLostError, RankError, error_text, raise_together, together
from partial_fc.config import RunConfig, parse_arguments
from partial_fc.cost_model import Setting, with_fitting_logits
from partial_fc.data.batch import Loader
from partial_fc.data.loader import TrainingLoader
from partial_fc.data.open_source import open_source
from partial_fc.data.pair_loader import PairLoader, open_pair_loader
from partial_fc.data.random_images import RandomLoader
from partial_fc.data.source import ImageSource
from partial_fc.data.synthetic_faces import ensure_synthetic_faces
from partial_fc.device import compute_context, default_network
from partial_fc.evaluation.verification_set import load_bin
from partial_fc.exit_status import (
    FINISHED,
    INTERRUPTED,
    MISTAKE,
    NUMBERS_WENT_WRONG,
    PEER_LOST,
    RANKS_DIFFER,
    REFUSED,
    STOPPED,
)
from partial_fc.f2c_parts import f2c_parts
from partial_fc.f2c_run import make_f2c_head, make_gallery
from partial_fc.f2c_trainer import F2CTrainer
from partial_fc.guards import GradientClip, NumbersWentWrongError, RanksDifferError, StopRequest
from partial_fc.head.chunk import free_memory
from partial_fc.head.margin import Margin
from partial_fc.head.margin_softmax import AdaFace, CurricularFace, MarginSoftmax, SVSoftmax
from partial_fc.head.partial_fc import PartialFC
from partial_fc.head.row_store import check_room
from partial_fc.horovod_collectives import connect
from partial_fc.mixed_precision import loss_scale_for
from partial_fc.network_cost import network_cost
from partial_fc.optimizer import SGD
from partial_fc.resume import open_checkpoints, start_centers
from partial_fc.schedule import Schedule, make_schedule
from partial_fc.trainer import Trainer
from partial_fc.watchdog import watch

logger = logging.getLogger("partial_fc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the command line says; returns the exit status, one of :mod:`partial_fc.exit_status`."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    config, mistake = None, None
    try:
        config = parse_arguments(sys.argv[1:] if arguments is None else arguments, default_network())
    except ValueError as error:
        mistake = str(error)
    stop = StopRequest()
    stop.listen()
    collectives = connect()
    watchdog = None
    try:
        raise_together(collectives, mistake, "arguments")
        watchdog = watch(collectives, config.stall_timeout_seconds)
        status = train(config, collectives, stop)
    except RankError as error:  # all ranks have it and leave in good order
        if collectives.rank == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        status = _status_of(error)
    except BaseException as error:
        # This rank alone is in trouble: the others wait for it in a collective, and must not wait for ever.
        status = _status_alone(error)
        if watchdog is not None and status == PEER_LOST:
            watchdog.await_verdict()
        if status == MISTAKE:
            logger.exception("rank %d ends the run", collectives.rank)
        if watchdog is not None:
            watchdog.end_all(status, f"rank {collectives.rank} ends the run: {error_text(error)}")
        collectives.abort(status)
    if watchdog is not None:
        watchdog.close()
    collectives.close()
    return status


def _status_of(error: RankError) -> int:
    if isinstance(error, NumbersWentWrongError):
        return NUMBERS_WENT_WRONG
    return RANKS_DIFFER if isinstance(error, RanksDifferError) else REFUSED


def _status_alone(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return PEER_LOST if isinstance(error, PeerLostError) else MISTAKE


def train(config: RunConfig, collectives: Collectives, stop: StopRequest | None = None) -> int:
    """Trains a model on all ranks and saves it in ``config.run_directory``.

    Args:
        stop: the wish that training ends before its last update, made to this rank.

    Returns:
        FINISHED, or STOPPED when it ended by such a wish.

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
        with together(collectives, "epochs"):
            config = config.with_updates(_updates_per_epoch(loader)) if config.epochs else config
        trainer = _build(config, collectives, context, loader, num_classes)
        trainer.stop = stop if stop is not None else trainer.stop
        deployed = symbol.build_backbone(config.network, config.embedding_size)
        if isinstance(trainer, F2CTrainer):
            parts = f2c_parts(trainer, deployed_network=deployed, rank=collectives.rank)
        else:
            parts = run_parts(trainer, deployed_network=deployed, num_classes=num_classes, rank=collectives.rank)
        parts["log"] = progress = LogProgress(config.log_every_updates, config.max_update)
        checkpoints, resumed = open_checkpoints(config, parts, num_classes, collectives)
        resources.enter_context(closing(checkpoints))
        if config.centers is not None and not resumed:
            start_centers(config, trainer.backbone, trainer.head.centers, num_classes, source, collectives)
        with together(collectives, "log"):
            log = Log(config.run_directory, config.max_update, collectives, trainer.update)
            progress.log = resources.enter_context(closing(log))
        _describe(config, collectives, context, trainer, num_classes, len(source) if source else None)
        save = SaveModel(checkpoints, config.save_every_updates, config.last_update)
        callbacks = [
            progress,
            LimitSkippedUpdates(config.max_skipped_updates, lambda: _newest(checkpoints)),
            CompareBackbones(
                config.check_every_updates, trainer.backbone, collectives, config.save_every_updates, config.last_update
            ),
            save,
        ]
        if verification_sets:
            every = config.verify_every_updates
            callbacks.append(Verify(verification_sets, every, trainer.backbone, collectives, log))
        try:
            trainer.train(config.last_update, callbacks)
        except RankError:  # all ranks have it: what they were about to save is worth having
            checkpoints.finish_if_possible()
            raise
        _say_goodbye(collectives, checkpoints.newest, trainer.update, loader)
        return STOPPED if trainer.stopped else FINISHED


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
        "batch_size": config.batch_size * config.accumulate,
        "image_size": config.image_size,
        "rank": collectives.rank,
        "ranks": collectives.size,
        "seed": config.seed,
    }
    source: ImageSource | None = None
    loader: Loader | None = None
    with together(collectives, "training images"):
        paths = config.data or ((config.rec,) if config.rec else ())
        decoding = {"threads": config.workers, "augmentation": config.augmentation}
        if paths:
            source = resources.enter_context(closing(open_source(paths, shared_labels=config.shared_labels)))
        if config.head == "f2c":
            loader = open_pair_loader(source, config.num_identities, decoding=decoding, **options)
        elif source is None:
            loader = RandomLoader(config.num_identities, **options)
        else:
            loader = TrainingLoader(source, **decoding, **options)
        resources.enter_context(closing(loader))
    return source, loader, config.num_identities if source is None else source.num_identities


def _build(
    config: RunConfig, collectives: Collectives, context: mx.Context, loader: Loader, num_classes: int
) -> Trainer | F2CTrainer:
    if config.head == "partial_fc":
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
        make_head = make_f2c_head if config.head == "f2c" else _partial_fc
        head = make_head(config, collectives, context, num_classes)
    backbone = Backbone(
        network,
        batch_size=config.backbone_batch_size,
        image_size=config.image_size,
        collectives=collectives,
        context=context,
        seed=config.seed,
        fp16_gradients=config.fp16_gradients,
        accumulate=config.accumulate,
        frozen=config.freeze,
    )
    if config.pretrained is not None:
        with together(collectives, "pretrained"):
            load_pretrained(backbone, config.pretrained)
    optimizer = SGD(
        backbone.trainable,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        decay_everything=config.decay_everything,
        nesterov=config.nesterov,
    )
    with together(collectives, "schedule"):
        schedule = _schedule(config, loader)
    loss_scale = loss_scale_for(config.fp16 or config.fp16_gradients)
    clip = GradientClip(config.clip_norm, collectives) if config.clip_norm and backbone.trainable else None
    if config.head == "f2c":
        gallery = make_gallery(config, context, backbone)
        return F2CTrainer(backbone, gallery, head, optimizer, loader, schedule, loss_scale, collectives, clip)
    return Trainer(backbone, head, optimizer, loader, schedule, loss_scale, collectives, clip)


def _partial_fc(config: RunConfig, collectives: Collectives, context: mx.Context, num_classes: int) -> PartialFC:
    return PartialFC(
        num_classes,
        config.embedding_size,
        collectives,
        margin=_margin(config),
        scale=config.scale,
        sample_ratio=config.sample_ratio,
        sample_ratio_steps=config.sample_ratio_steps,
        sampler=config.sampler,
        filter_cosine=config.filter_cosine,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        seed=config.seed,
        context=context,
        storage=config.storage,
        logits_chunk=_logits_chunk(config, collectives, context, num_classes),
        lazy_updates=config.lazy_updates,
    )


def _margin(config: RunConfig) -> Margin | MarginSoftmax:
    """The margin softmax that ``--loss`` names."""
    if config.loss_form == "sv":
        assert config.hard_negatives is not None
        return SVSoftmax(config.margins[2], config.hard_negatives)
    if config.loss_form == "adaface":
        assert config.adaface_h is not None
        return AdaFace(config.margins[1], config.adaface_h)
    if config.loss_form == "curricularface":
        return CurricularFace(config.margins[1])
    return Margin(*config.margins)


def _updates_per_epoch(loader: Loader) -> int:
    """Raises ValueError for random images."""
    images = loader.instances if isinstance(loader, PairLoader) else loader
    if not isinstance(images, TrainingLoader):
        raise ValueError(
            "random images have no epochs: set --max-update in place of --epochs, --warmup-updates of --warmup-epochs"
        )
    return images.updates_per_epoch


def _schedule(config: RunConfig, loader: Loader) -> Schedule:
    """Raises ValueError for a warm-up in epochs of random images, which have none, or one of the whole run."""
    warmup_updates = config.warmup_updates
    if config.warmup_epochs:
        warmup_updates = round(config.warmup_epochs * _updates_per_epoch(loader))
    return make_schedule(
        config.schedule,
        config.lr,
        last=config.max_update,
        warmup_updates=warmup_updates,
        steps=config.lr_steps,
        factor=config.lr_factor,
        final=config.lr_final,
        power=config.lr_power,
    )


def _logits_chunk(
    config: RunConfig, collectives: Collectives, context: mx.Context, num_classes: int
) -> int | None:
    if isinstance(config.logits_chunk, int):
        return config.logits_chunk
    if config.logits_chunk == "all":
        return None
    device = context.device_type
    setting = Setting(
        num_classes,
        collectives.size,
        config.batch_size,
        config.embedding_size,
        config.largest_sample_ratio,
        config.storage,
        network=network_cost(
            config.network,
            embedding_size=config.embedding_size,
            image_size=config.image_size,
            fp16=config.fp16,
            device=device,
        ),
        device=device,
        process_bytes=0,  # this process is there already: it is not in what is free
        accumulate=config.accumulate,
        lazy_updates=config.lazy_updates,
    )
    return with_fitting_logits(setting, {"device": free_memory(context, collectives.local_size)}).logits_chunk


def _precision(config: RunConfig, context: mx.Context) -> str:
    """On a CPU, where MXNet has no fp16 convolution, mixed precision is fp32 with fp16's rounding."""
    if not config.fp16:
        return "float32"
    return "float16" if context.device_type == "gpu" else "float16-emulated"


def _newest(checkpoints: Checkpointer) -> Path | None:
    """The newest checkpoint, that which is being written included; every rank calls it."""
    checkpoints.finish_if_possible()
    return checkpoints.newest


def _describe(
    config: RunConfig,
    collectives: Collectives,
    context: mx.Context,
    trainer: Trainer | F2CTrainer,
    num_classes: int,
    images: int | None,
) -> None:
    machines = collectives.gather_objects((platform.node(), str(context)), "environment")
    if collectives.rank != 0:
        return
    hosts = [host for host, _ in machines]
    places = [f"{host} {hosts.count(host)}" for host in dict.fromkeys(hosts)]
    print(config)
    print(f"  {'ranks':<22} {collectives.size} ({', '.join(places)}; {context.device_type})")
    if isinstance(trainer, F2CTrainer):
        print(f"  {'identities':<22} {num_classes}, in a pool of {trainer.head.pool.slots} slots")
    else:
        print(f"  {'identities':<22} {num_classes}, a rank owns {-(-num_classes // collectives.size)} of them")
    print(f"  {'images':<22} {'random' if images is None else images}", flush=True)


def _say_goodbye(collectives: Collectives, directory: Path | None, update: int, loader: Loader) -> None:
    peak_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ranks = collectives.gather_objects((peak_kilobytes, loader.replaced), "goodbye")
    if collectives.rank != 0:
        return
    replaced = sum(count for _, count in ranks)
    if replaced:
        print(f"{replaced} images did not decode and were replaced by the next ones; the log names them")
    megabytes = ", ".join(f"{kilobytes / 1024:.0f}" for kilobytes, _ in ranks)
    done = f"saved {directory}" if directory else f"nothing to do: update {update} is the last"
    print(f"{done}; peak memory of the ranks in MiB: {megabytes}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
