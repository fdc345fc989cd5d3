"""Whether the index and the identity records of a `.rec` say what is in it."""

from __future__ import annotations

import numpy as np

from partial_fc.data.findings import Check
from partial_fc.data.record_payload import unpack_fields
from partial_fc.data.recordio import RecordError
from partial_fc.data.records import RecordSource


def check_index(source: RecordSource) -> Check:
    """Every record ends where the next one starts, the last one at the end of the file."""
    offsets_N = np.sort(source.index.offsets_N)
    faults = []
    expected = 0
    for offset in map(int, offsets_N):  # one at a time: a list of 17 million would take half a gigabyte
        if offset != expected:
            faults.append(f"bytes {expected} to {offset} of {source.name} belong to no record of the index")
        try:
            expected = source.file.end_of(offset)
        except RecordError as error:
            faults.append(str(error))
            expected = offset  # so that the gap behind it is told, too
    if not faults and expected != source.file.size:
        faults.append(f"the last {source.file.size - expected} bytes of {source.name} are not in the index")
    return Check("index", f"{len(offsets_N)} records end where the next one starts", faults)


def check_ranges(source: RecordSource, labels_N: np.ndarray) -> Check:
    """Each identity record names all images of one identity, in whatever order the identities are.

    Its numbers are float32, so each is compared with what the true number becomes there.
    """
    records = range(source.image_positions.stop, len(source.index.keys_N))
    if not records:
        return Check("ranges", "there are no identity records")
    expected, faults = _expected_ranges(source, labels_N)
    found = set()
    for position in records:
        key = source.index.keys_N[position]
        try:
            fields, _, _ = unpack_fields(source.file.read(int(source.index.offsets_N[position])))
        except RecordError as error:
            faults.append(f"identity record {key} {error}")
            continue
        if len(fields) < 2:
            faults.append(f"identity record {key} has no range")
        elif fields[:2] in expected:
            found.add(fields[:2])
        elif fields[0] != fields[1]:  # the range of an identity without an image is empty
            faults.append(f"identity record {key} names images {fields[0]:.0f} to {fields[1]:.0f}, not one's own")
    missing = len(expected - found)
    if missing:
        faults.append(f"the images of {missing} identities are in no identity record of theirs")
    remarks = []
    if source.index.keys_N[source.image_positions.stop - 1] >= 1 << 24:
        remarks.append("ranges past 16777216 are rounded in the file: readers that trust them mix up identities")
    return Check("ranges", f"{len(records)} identity records name the images of their identities", faults, remarks)


def _expected_ranges(source: RecordSource, labels_N: np.ndarray) -> tuple[set[tuple[float, float]], list[str]]:
    starts_N = np.flatnonzero(np.concatenate([[True], labels_N[1:] != labels_N[:-1]]))
    runs = len(starts_N)
    identities = len(np.unique(labels_N))
    faults = [] if runs == identities else [f"{runs - identities} identities have images in several places"]
    keys_N = np.asarray(source.index.keys_N[source.image_positions.start : source.image_positions.stop])
    first = keys_N[starts_N].astype(np.float32)
    end = (keys_N[np.append(starts_N[1:], len(labels_N)) - 1] + 1).astype(np.float32)
    return set(zip(first.tolist(), end.tolist(), strict=True)), faults
