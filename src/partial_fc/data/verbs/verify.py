"""`verify PATH …`: what is wrong with a set, or with the parts of a downloaded archive; status 1 when anything is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from partial_fc.data.combined import CombinedSource
from partial_fc.data.findings import Check
from partial_fc.data.known_sums import (
    GLINT360K_IDENTITIES,
    GLINT360K_IMAGES,
    SUMS,
    is_archive_part,
    md5_of,
    sums_of,
)
from partial_fc.data.open_source import open_source
from partial_fc.data.records import RecordSource
from partial_fc.data.sampling import sample
from partial_fc.data.source import ImageSource
from partial_fc.data.verbs.common import add_overwrite, add_seed, add_source, add_workers, check_outputs, progress_bar
from partial_fc.data.verify_images import check_images, check_labels
from partial_fc.data.verify_records import check_index, check_ranges
from partial_fc.data.whole_file import write_whole

HELP = "sums, records, images, index, labels, duplicates; status 1 when anything is wrong"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add = parser.add_argument
    add("--sample", type=float, default=1.0, metavar="SHARE", help="of the images to read and decode, in (0, 1] (1)")
    add("--no-md5", action="store_true", help="leave out the MD5 sums")
    add("--json", type=Path, metavar="FILE", help="write all that was found there, too")
    add_overwrite(parser)
    add_seed(parser)
    add_workers(parser)


def run(options: argparse.Namespace) -> int:
    check_outputs(options, options.json)
    parts = _archive_parts(options.src)
    checks: list[Check] = []
    for check in (_verify_parts(parts) if parts else _verify_set(options)):
        print("\n".join(check.lines()), flush=True)
        checks.append(check)
    faults = sum(not check.is_sound for check in checks)
    print("sound" if faults == 0 else f"{faults} of {len(checks)} checks found faults")
    if options.json is not None:
        found = {"sound": faults == 0, "checks": [check.as_json() for check in checks]}
        write_whole(options.json, json.dumps(found, indent=2) + "\n")
    return 1 if faults else 0


def _archive_parts(paths: list[Path]) -> list[Path]:
    """The parts of Glint360K's archive that are named, or lie in a directory that is; none: it is a set."""
    found = [path for path in paths if is_archive_part(path)]
    for path in paths:
        if path.is_dir():
            found += sorted(filter(is_archive_part, path.iterdir()))
    return found


def _verify_parts(parts: list[Path]) -> Iterator[Check]:
    for path in parts:
        md5 = _md5(path)
        faults = []
        if md5 not in sums_of(path.name):
            faults.append(f"{path} has the MD5 sum {md5}, and was published with {' or '.join(sums_of(path.name))}")
        yield Check("md5", f"{path.name}, {SUMS[md5].release if md5 in SUMS else 'of no release'}", faults)


def _verify_set(options: argparse.Namespace) -> Iterator[Check]:
    with closing(open_source(options.src, shared_labels=options.shared_labels)) as source:
        print(f"{source.name}: {len(source)} images of {source.num_identities} identities")
        records = [part for part in parts_of(source) if isinstance(part, RecordSource)]
        if not options.no_md5:
            for part in records:
                yield _check_sums(part)
        for part in records:
            yield check_index(part)
        labels_N = None
        try:
            labels_N = source.labels()
            yield check_labels(labels_N, source.num_identities)
        except ValueError as error:
            yield Check("labels", "cannot be read", [str(error)])
        if labels_N is not None:
            for part in records:
                yield check_ranges(part, part.labels())
        images_M = sample(len(source), options.sample, options.seed)
        with progress_bar("verify", len(images_M)) as progress:
            checks = check_images(source, labels_N, images_M, workers=options.workers, progress=progress)
        yield from checks


def parts_of(source: ImageSource) -> list[ImageSource]:
    """The sets that a source consists of: itself, or those of a combined one."""
    return source.sources if isinstance(source, CombinedSource) else [source]


def _check_sums(source: RecordSource) -> Check:
    rec = Path(source.name)
    paths = [path for path in (rec, rec.with_suffix(".idx")) if path.is_file()]
    sums = {path: _md5(path) for path in paths}
    releases = {SUMS[md5].release for md5 in sums.values() if md5 in SUMS}
    is_glint = (len(source), source.num_identities) == (GLINT360K_IMAGES, GLINT360K_IDENTITIES) or releases
    faults = []
    if is_glint:
        faults = [
            f"{path} has the MD5 sum {md5}, and no release of Glint360K has it"
            for path, md5 in sums.items()
            if md5 not in SUMS
        ]
        if len(releases) > 1:
            faults.append(f"{rec.name} and its index are of different releases")
    summary = ", ".join(sorted(releases)) or "no published set that is known here"
    return Check("md5", summary, faults, [f"{md5}  {path.name}" for path, md5 in sums.items()])


def _md5(path: Path) -> str:
    with tqdm(total=path.stat().st_size, desc=f"md5 {path.name}", unit="B", unit_scale=True, disable=None) as bar:
        return md5_of(path, bar.update)
