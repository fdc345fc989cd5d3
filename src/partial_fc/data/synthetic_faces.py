"""The data set that the project draws itself: `train.rec/.idx`, `property`, and `val.bin` to verify with.

    python -m partial_fc.data.synthetic_faces DIR --identities 1000 --images-per-identity 20

The directory appears complete or not at all: it is written under another name beside its place and renamed.
`synthetic.json` in it says what it holds.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, fields
from pathlib import Path

from tqdm import tqdm

from partial_fc.data.faces.plan import FaceSetPlan
from partial_fc.data.faces.stream import stream_images
from partial_fc.data.record_writer import RecordWriter
from partial_fc.evaluation.verification_set import save_bin

DRAWING_VERSION = 1
"""Raised by every change that makes other images of the same numbers."""

FILES = ("train.rec", "train.idx", "property", "val.bin")
_MANIFEST = "synthetic.json"
_PIXELS_PER_MEGABYTE = 3_000_000  # of JPEG, with some room

_HELP = {
    "identities": "identities to train on",
    "images_per_identity": "training images of each",
    "held_out_identities": "further identities, which val.bin shows",
    "pairs": "pairs in val.bin, a multiple of 20",
    "seed": "another seed draws other people",
    "image_size": "pixels of a side",
    "quality": "best JPEG quality; each image has its own, from half of this up",
}

Progress = Callable[[int], None]
"""Is told after each image how many are drawn."""


def ensure_synthetic_faces(
    directory: str | os.PathLike[str],
    *,
    workers: int = 1,
    progress: Progress | None = None,
    **numbers: int,
) -> bool:
    """Makes `directory` hold the data set that `numbers`, the fields of `FaceSetPlan`, describe.

    One that holds it already is left as it is. To be called by one process of a machine; when two write at
    once all the same, one of them wins and both end well.

    Returns:
        whether anything was drawn.
    Raises:
        ValueError: a number outside its range, or a directory that holds anything else.
        OSError: the directory cannot be written, or the disk is full; nothing is left behind.
    """
    directory, plan = Path(directory).resolve(), FaceSetPlan(**numbers)
    if _holds(directory, plan):
        return False
    _write(directory, plan, workers, progress)
    return True


def write_synthetic_faces(
    directory: str | os.PathLike[str],
    *,
    workers: int = 1,
    progress: Progress | None = None,
    **numbers: int,
) -> None:
    """Draws the data set that `numbers`, the fields of `FaceSetPlan`, describe into a new or empty directory.

    Raises as `ensure_synthetic_faces`, and ValueError when the directory holds this very set.
    """
    directory, plan = Path(directory).resolve(), FaceSetPlan(**numbers)
    if _holds(directory, plan):
        raise ValueError(f"{directory} already holds these synthetic faces")
    _write(directory, plan, workers, progress)


def _manifest(plan: FaceSetPlan) -> dict[str, int]:
    return {"drawing_version": DRAWING_VERSION, **asdict(plan)}


def _holds(directory: Path, plan: FaceSetPlan) -> bool:
    """Whether the set is there. False: there is nothing. Raises ValueError when there is anything else."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    elsewhere = "give another directory, or delete this one to have the faces drawn there"
    path = directory / _MANIFEST
    if not path.is_file():
        raise ValueError(f"{directory} holds something other than synthetic faces: {elsewhere}")
    try:
        manifest = json.loads(path.read_text())
        found, sizes = manifest["set"], manifest["bytes"]
        whole = isinstance(found, dict) and all((directory / f).stat().st_size == sizes[f] for f in FILES)
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        found, whole = None, False
    if not whole:
        raise ValueError(f"{directory} holds damaged synthetic faces: delete it to have them drawn again")
    wanted = _manifest(plan)
    if found != wanted:
        unlike = [f"{k} {found.get(k)} instead of {wanted[k]}" for k in wanted if found.get(k) != wanted[k]]
        raise ValueError(f"{directory} holds other synthetic faces ({', '.join(unlike)}): {elsewhere}")
    return True


def _write(directory: Path, plan: FaceSetPlan, workers: int, progress: Progress | None) -> None:
    """Draws the set beside `directory` and gives it its name at the end."""
    temporary = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        temporary.chmod(0o755)
        _write_files(temporary, plan, workers, progress)
        _move(temporary, directory, plan)
    except ChildProcessError:
        raise
    except OSError as error:
        why = f"{error.strerror} ({error.filename})" if error.filename else error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            megabytes = 1 + len(plan) * plan.image_size**2 // _PIXELS_PER_MEGABYTE
            why = f"the disk is full: free about {megabytes} MB or ask for fewer faces"
        raise OSError(error.errno, f"cannot write synthetic faces to {directory}: {why}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_files(directory: Path, plan: FaceSetPlan, workers: int, progress: Progress | None) -> None:
    report = progress or (lambda _: None)
    pair_images = []
    with closing(stream_images(plan, workers)) as images:
        with RecordWriter(directory / "train.rec", (plan.image_size, plan.image_size)) as writer:
            for n in range(plan.training_images):
                writer.add(next(images), plan[n][0])
                report(n + 1)
        for n, image in enumerate(images, start=plan.training_images):
            pair_images.append(image)
            report(n + 1)
    save_bin(directory / "val.bin", pair_images, plan.is_same())
    sizes = {name: (directory / name).stat().st_size for name in FILES}
    (directory / _MANIFEST).write_text(json.dumps({"set": _manifest(plan), "bytes": sizes}, indent=2) + "\n")


def _move(temporary: Path, directory: Path, plan: FaceSetPlan) -> None:
    """Renames a finished set; one that another process has finished meanwhile stays."""
    try:
        temporary.rename(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _holds(directory, plan):
            raise


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m partial_fc.data.synthetic_faces",
        description="Draws a data set of synthetic faces in InsightFace's layout, with pairs to verify.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("directory", type=Path, help="where to write it; one that holds it already is kept")
    for number in fields(FaceSetPlan):
        option = "--" + number.name.replace("_", "-")
        parser.add_argument(option, type=int, default=number.default, metavar="N", help=_HELP[number.name])
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), metavar="N", help="processes that draw"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = vars(_parse(arguments))
    directory, workers = options.pop("directory"), options.pop("workers")
    try:
        plan = FaceSetPlan(**options)
        with tqdm(total=len(plan), unit=" images", disable=not sys.stderr.isatty()) as bar:
            drawn = ensure_synthetic_faces(
                directory, workers=workers, progress=lambda n: bar.update(n - bar.n), **options
            )
    except (ValueError, OSError) as error:
        print(f"error: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 1
    what = f"{plan.training_images} images of {plan.identities} identities and {plan.pairs} pairs"
    print(f"{directory}: {what}{'' if drawn else ', already there'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
