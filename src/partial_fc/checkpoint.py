"""Saving a model: the backbone for use anywhere, and each rank's class centers with their momentum.

    <directory>/update-00032000/model-symbol.json, model-0000.params    the backbone, an MXNet checkpoint
                                backbone-momentum.params                its optimizer's state
                                centers-0-of-8.params, …                each rank's rows and their momentum
                                manifest.json                           the files above: bytes and SHA-256
    <directory>/model-symbol.json, model-0000.params                    the newest backbone

The files are written into a directory of another name and synced. It gets its name when all ranks have
written their part, so that a directory of that name is always whole. Machines may share a disk or have one
each: in each directory the first rank that wrote there (its publisher) writes what is the same for all, and
renames it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import mxnet as mx

from partial_fc.backbone import Backbone
from partial_fc.collectives import Collectives, RankError, together
from partial_fc.head.centers import ClassCenters
from partial_fc.optimizer import SGD

MANIFEST = "manifest.json"
FORMAT_VERSION = 1

Files = dict[str, dict[str, object]]
"""Bytes and SHA-256 by file name."""


def save_checkpoint(
    directory: Path,
    *,
    update: int,
    backbone: Backbone,
    deployed_network: mx.sym.Symbol,
    optimizer: SGD,
    centers: ClassCenters,
    num_classes: int,
    description: dict[str, object],
    collectives: Collectives,
) -> Path:
    """Saves the state after ``update`` updates; every rank calls it.

    Args:
        directory: the run's directory; ranks of one machine share it, those of others may have their own.
        deployed_network: the float32 network whose parameters these are, for the ``model-symbol.json``.
        description: what else the manifest shall say, JSON values by name.

    Returns:
        The directory of the update.

    Raises:
        RankError: on every rank, when one of them cannot write; nothing is left under a final name.
    """
    final = directory / f"update-{update:08d}"
    partial = directory / f".update-{update:08d}.partial"
    backbone.average_statistics()
    manifest: dict[str, object] = {
        "format": FORMAT_VERSION,
        "update": update,
        "ranks": collectives.size,
        "num_classes": num_classes,
        "embedding_size": centers.embedding_size,
    }
    try:
        files = _write_centers(partial, centers, collectives)
        publisher = _is_publisher(partial, collectives)
        with together(collectives, "checkpoint.model"):
            if publisher:
                files |= _write_model(partial, backbone, deployed_network, optimizer)
                manifest |= description | {"files": files}
                _save_text(partial / MANIFEST, json.dumps(manifest, indent=2))
                _sync_directory(partial)
        with together(collectives, "checkpoint.publish"):
            if publisher:
                _publish(partial, final)
    except RankError:
        if collectives.local_rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def _write_centers(partial: Path, centers: ClassCenters, collectives: Collectives) -> Files:
    """Each rank's part; returns what all of them wrote."""
    with together(collectives, "checkpoint.begin"):
        if collectives.local_rank == 0:
            shutil.rmtree(partial, ignore_errors=True)  # of a save that was interrupted
            partial.mkdir(parents=True, exist_ok=True)
    files: Files = {}
    with together(collectives, "checkpoint.centers"):
        path = partial / _centers_name(collectives.rank, collectives.size)
        files = _save_arrays(path, _center_arrays(centers))
    parts = collectives.gather_objects(files, "checkpoint.files")
    return {name: facts for part in parts for name, facts in part.items()}


def _centers_name(rank: int, ranks: int) -> str:
    return f"centers-{rank}-of-{ranks}.params"


def _is_publisher(partial: Path, collectives: Collectives) -> bool:
    """Whether no rank before this one wrote into the same directory, on this machine or another."""
    names = (_centers_name(rank, collectives.size) for rank in range(collectives.rank))
    return not any((partial / name).exists() for name in names)


def _write_model(partial: Path, backbone: Backbone, deployed_network: mx.sym.Symbol, optimizer: SGD) -> Files:
    arrays = {f"arg:{name}": array for name, array in backbone.parameters.items()}
    arrays |= {f"aux:{name}": array for name, array in backbone.statistics.items()}
    return (
        _save_arrays(partial / "model-0000.params", arrays)
        | _save_arrays(partial / "backbone-momentum.params", optimizer.momenta)
        | _save_text(partial / "model-symbol.json", deployed_network.tojson())
    )


def _center_arrays(centers: ClassCenters) -> dict[str, mx.nd.NDArray]:
    """The rows and their momentum as they are kept, by the global number of the first class of each store."""
    centers.initialize_all()
    arrays = {}
    for store in centers.stores:
        arrays[f"weight:{store.first_class}"] = store.weight_RD
        arrays[f"momentum:{store.first_class}"] = store.momentum_RD
        if store.scale_R1 is not None:
            arrays[f"scale:{store.first_class}"] = store.scale_R1
    return arrays


def _save_arrays(path: Path, arrays: dict[str, mx.nd.NDArray]) -> Files:
    try:
        mx.nd.save(str(path), arrays)
    except mx.MXNetError as error:  # it has no class of its own for a full disk
        raise OSError(f"cannot write {path}: {str(error).splitlines()[-1].strip()}") from None
    return _facts(path)


def _save_text(path: Path, text: str) -> Files:
    path.write_text(text + "\n", encoding="utf-8")
    return _facts(path)


def _facts(path: Path) -> Files:
    """Syncs a file to the disk and describes it for the manifest."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return {path.name: {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}}


def _publish(partial: Path, final: Path) -> None:
    """Gives a complete directory its name, and its backbone the place of the newest one."""
    replaced = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():  # an earlier run's update of the same number
        os.replace(final, replaced)
    os.replace(partial, final)
    shutil.rmtree(replaced, ignore_errors=True)
    for name in ("model-symbol.json", "model-0000.params"):
        _replace_by_copy(final / name, final.parent / name)
    _sync_directory(final.parent)


def _replace_by_copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
