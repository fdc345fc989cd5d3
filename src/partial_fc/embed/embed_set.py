"""A set of images, embedded by all ranks, to OUT.npz: what is opened in which order, and what is refused."""

from __future__ import annotations

import argparse
import logging
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from partial_fc.checkpoint.task import slowly_together
from partial_fc.collectives import Collectives, RankError, together
from partial_fc.data.open_source import open_source
from partial_fc.data.source import ImageSource
from partial_fc.data.source_facts import source_facts
from partial_fc.data.whole_file import refuse_existing
from partial_fc.device import compute_context
from partial_fc.embed.job import Job
from partial_fc.embed.npz_file import is_result_of, write_result
from partial_fc.embed.parts import Part, Parts
from partial_fc.embed.progress import progress_of
from partial_fc.embed.rounds import embed_rounds
from partial_fc.evaluation.model_arguments import model_options
from partial_fc.face_embedder import FaceEmbedder

logger = logging.getLogger("partial_fc")

_NAMED_AT_MOST = 5


def embed_set(options: argparse.Namespace, collectives: Collectives) -> int:
    """Writes OUT.npz, on rank 0; every rank calls it. Returns 0.

    Raises:
        RankError: on every rank, when on any a file, the model or an option is not what it should be.
    """
    embedder: FaceEmbedder | None = None
    with together(collectives, "embed.open"):
        _check_out(options)
        embedder = _open_embedder(options, collectives)
    assert embedder is not None
    source, job = _open_source(options, embedder, collectives)
    try:
        if _is_finished(options, job, collectives):
            return 0
        parts = _open_parts(options, job, collectives)
        is_done = collectives.gather_objects(parts and parts.done(), "embed.done")[0]

        def keep(part: Part) -> None:
            assert parts is not None
            parts.add(part)
            _check_strict(options, parts)

        done = job.images - sum(map(len, job.left(is_done)))
        try:
            with progress_of(job.images, done, collectives) as progress:
                embed_rounds(embedder, source, job, is_done, collectives, keep, progress)
        except KeyboardInterrupt:
            if parts is not None:
                logger.info("what is done is in %s, and the same command goes on from there", parts.directory)
            raise

        def finish() -> None:
            if parts is not None:
                _write(options, parts, job, embedder.name)

        slowly_together(finish, collectives, "embed.finish")
    finally:
        source.close()
    return 0


def _check_out(options: argparse.Namespace) -> None:
    out = options.out
    if out.suffix != ".npz":
        raise ValueError(f"what to write comes last and ends in .npz, but is {out}")
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a directory: give the name of a file to write")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}, where {out.name} is to be written, is no directory")


def _open_embedder(options: argparse.Namespace, collectives: Collectives) -> FaceEmbedder:
    embedder = FaceEmbedder.load(
        options.model,
        batch_size=options.batch_size,
        flip=options.flip,
        normalize=options.normalize,
        workers=options.workers,
        context=compute_context(collectives.local_rank),
        **vars(model_options(options)),
    )
    if collectives.rank == 0:
        logger.info("%s", embedder)
    return embedder


def _open_source(
    options: argparse.Namespace, embedder: FaceEmbedder, collectives: Collectives
) -> tuple[ImageSource, Job]:
    """The images, and what is to be done with them; the same on every rank.

    Raises:
        RankError: on every rank, where the set cannot be opened, or ranks find other images or another model.
    """
    opened: list[tuple[ImageSource, Job]] = []

    def open_all() -> None:
        source = open_source(options.source, shared_labels=options.shared_labels, needs_identities=False)
        content, modified_ns = source_facts(source)
        job = Job(
            model_digest=embedder.digest,
            source_content=content,
            source_modified_ns=modified_ns,
            images=len(source),
            embedding_size=embedder.embedding_size,
            batch_size=embedder.batch_size,
            flip=embedder.flip,
            normalize=embedder.normalize,
        )
        opened.append((source, job))

    slowly_together(open_all, collectives, "embed.source")
    ((source, job),) = opened
    jobs = collectives.gather_objects(job, "embed.jobs")
    for rank, other in enumerate(jobs):
        # Copies of the files on other machines were made at other times.
        differences = jobs[0].differences(replace(other, source_modified_ns=jobs[0].source_modified_ns).to_json())
        if differences:
            source.close()
            raise RankError(f"ranks 0 and {rank} differ in {', '.join(differences)}: give all machines the same files")
    return source, jobs[0]


def _is_finished(options: argparse.Namespace, job: Job, collectives: Collectives) -> bool:
    """Whether OUT.npz is there and is what the command gives, the same on every rank."""
    is_finished = False
    with together(collectives, "embed.finished"):
        if collectives.rank == 0 and not options.overwrite and is_result_of(options.out, job):
            is_finished = True
            with suppress(ValueError):  # parts that a run was killed over removing
                if _parts_directory(options).exists():
                    Parts(_parts_directory(options), job).remove()
            print(f"{options.out} is what this command gives, and is there already: nothing is left to do")
    return collectives.gather_objects(is_finished, "embed.is_finished")[0]


def _parts_directory(options: argparse.Namespace) -> Path:
    return options.out.with_name(f"{options.out.name}.parts")


def _open_parts(options: argparse.Namespace, job: Job, collectives: Collectives) -> Parts | None:
    """The parts that are done already, on rank 0; None on others.

    Raises:
        RankError: on every rank: OUT.npz is there, or parts of another result are, or they cannot be read.
    """
    opened: list[Parts] = []

    def open_parts() -> None:
        if collectives.rank == 0:
            refuse_existing([options.out], overwrite=options.overwrite)
            parts = Parts(_parts_directory(options), job, overwrite=options.overwrite)
            _check_strict(options, parts)
            _check_room(options, parts, job)
            opened.append(parts)

    slowly_together(open_parts, collectives, "embed.parts")
    return opened[0] if opened else None


def _check_strict(options: argparse.Namespace, parts: Parts) -> None:
    """Raises ValueError for an image that failed, where none may."""
    if options.strict and parts.failed:
        ((key, why),) = parts.name_failed(1)
        raise ValueError(f"{key} {why}: mend it, or leave --strict out, and its row is zero")


def _check_room(options: argparse.Namespace, parts: Parts, job: Job) -> None:
    row_bytes = 4 * job.embedding_size
    needed = (job.images + sum(map(len, job.left(parts.done())))) * row_bytes
    free = shutil.disk_usage(options.out.parent).free
    if free < needed:
        sizes = needed >> 20, options.out.parent, free >> 20
        logger.warning("parts and result will take %d MiB, and the disk of %s has %d MiB left", *sizes)


def _write(options: argparse.Namespace, parts: Parts, job: Job, model: str) -> None:
    failed = parts.failed
    named = [f"{key} {why}" for key, why in parts.name_failed(_NAMED_AT_MOST)]
    if failed == job.images:
        raise ValueError(f"none of {failed} images has an embedding: {named[0]}")
    write_result(options.out, parts, job, model)
    print(f"{options.out}: {job.images} embeddings of {job.embedding_size} numbers", flush=True)
    if failed:
        more = f"; and {failed - len(named)} more" if failed > len(named) else ""
        what = "%d of %d images have no embedding, their rows are zero, `failed` has them: %s%s"
        logger.warning(what, failed, job.images, "; ".join(named), more)
