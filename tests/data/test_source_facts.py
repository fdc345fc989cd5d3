"""The digest of a set tells sets apart by what is in them, and not by where they lie."""

import os
import shutil

import cv2
import numpy as np
import pytest

from partial_fc.data.lmdb_writer import LmdbWriter
from partial_fc.data.open_source import open_source
from partial_fc.data.record_writer import RecordWriter
from partial_fc.data.source_facts import source_facts

IMAGES = [cv2.imencode(".jpg", np.full((8, 8, 3), grey, np.uint8))[1].tobytes() for grey in (0, 90, 180, 250)]


def write_rec(path):
    with RecordWriter(path / "train.rec", image_size=(8, 8)) as writer:
        for label, image in enumerate(IMAGES):
            writer.add(image, label)


def write_lmdb(path):
    with LmdbWriter(path / "set.lmdb") as writer:
        for label, image in enumerate(IMAGES):
            writer.add(image, label)


def write_folder(path):
    for label, image in enumerate(IMAGES):
        (path / f"{label}").mkdir()
        (path / f"{label}" / "x.jpg").write_bytes(image)


def write_list(path):
    write_folder(path)
    (path / "set.lst").write_text("".join(f"{i}\t{i}\t{i}/x.jpg\n" for i in range(4)))


KINDS = {
    "rec": (write_rec, "", "train.rec"),
    "lmdb": (write_lmdb, "set.lmdb", "set.lmdb/data.mdb"),
    "folder": (write_folder, "", "2/x.jpg"),
    "list": (write_list, "set.lst", "2/x.jpg"),
}


def facts_of(path):
    source = open_source(path, needs_identities=False)
    try:
        return source_facts(source)
    finally:
        source.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_the_same_and_a_change_is_seen(kind, tmp_path):
    write, name, changed = KINDS[kind]
    first, copy = tmp_path / "first", tmp_path / "copy"
    first.mkdir()
    write(first)
    shutil.copytree(first, copy)
    facts = facts_of(first / name)
    assert facts == facts_of(first / name)
    assert facts.content == facts_of(copy / name).content
    os.utime(copy / changed, ns=(0, facts.modified_ns + 5))
    assert facts_of(copy / name) == (facts.content, facts.modified_ns + 5)
    with (copy / changed).open("ab") as file:
        file.write(bytes(4096))
    assert facts_of(copy / name).content != facts.content


def test_order_labels_and_kinds_are_told_apart(tmp_path):
    sets = {}
    for kind, (write, name, _) in KINDS.items():
        (tmp_path / kind).mkdir()
        write(tmp_path / kind)
        sets[kind] = tmp_path / kind / name
    (tmp_path / "list" / "other.lst").write_text("".join(f"{i}\t{i // 2}\t{i}/x.jpg\n" for i in range(4)))
    variants = [*sets.values(), tmp_path / "list" / "other.lst"]
    variants += [[sets["rec"], sets["folder"]], [sets["folder"], sets["rec"]]]
    contents = [facts_of(variant).content for variant in variants]
    assert len(set(contents)) == len(contents)


def test_an_image_that_has_gone_is_told_apart(tmp_path):
    write_list(tmp_path)
    before = facts_of(tmp_path / "set.lst")
    (tmp_path / "3" / "x.jpg").unlink()
    assert facts_of(tmp_path / "set.lst").content != before.content
