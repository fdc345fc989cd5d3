import os
import subprocess

import pytest

from partial_fc.data.folder import FolderSource
from partial_fc.data.open_source import open_source
from partial_fc.data.plain_folder import PlainFolderSource


def write_files(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)


def test_images_at_any_depth_in_the_order_of_their_paths(tmp_path):
    names = [b"b.jpg", b"a/z/1.PNG", b"a.jpeg", b"a b/2.jpg", b"a/x.jpg", b"a/z.jpg", b"\xff/\xfe.png"]
    write_files(tmp_path, *names, b"a/readme.txt", b"empty.jpg/none.txt")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "none")
    source = PlainFolderSource(tmp_path)
    assert [source.read(i) for i in range(len(source))] == [(name, -1) for name in sorted(names)]
    assert [os.fsencode(source.key(i)) for i in range(len(source))] == sorted(names)
    assert source.where(0) == f"{tmp_path}/a b/2.jpg"
    assert (source.num_identities, source.labels().tolist()) == (0, [-1] * 7)
    assert not source.is_by_identity


def test_links_that_lead_back_and_deep_folders_end(tmp_path):
    write_files(tmp_path, b"a/1.jpg")
    deep = str(tmp_path)
    for _ in range(1200):
        deep += "/d"
        os.mkdir(deep)
    with open(f"{deep}/2.jpg", "wb"):
        pass
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "other").symlink_to(tmp_path / "a")
    try:
        source = PlainFolderSource(tmp_path)
    finally:  # Python's own rmtree goes down by recursion
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)
    assert [source.key(i)[-7:] for i in range(len(source))] == ["a/1.jpg", "d/2.jpg", "r/1.jpg"]


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        PlainFolderSource(tmp_path / "none")
    write_files(tmp_path, b"a/text.txt")
    with pytest.raises(ValueError, match="holds no image"):
        PlainFolderSource(tmp_path)


def test_folders_of_identities_keep_their_labels(tmp_path):
    write_files(tmp_path, b"people/anna/1.jpg", b"people/ben/1.jpg", b"others/1.jpg", b"others/2.jpg")
    people = open_source(tmp_path / "people", needs_identities=False)
    assert isinstance(people, FolderSource) and people.labels().tolist() == [0, 1]
    with pytest.raises(ValueError, match="holds no image"):
        open_source(tmp_path / "others")
    both = open_source([tmp_path / "others", tmp_path / "people"], needs_identities=False)
    assert both.labels().tolist() == [-1, -1, 0, 1] == [both.read(i)[1] for i in range(4)]
    others_last = open_source([tmp_path / "people", tmp_path / "others"], needs_identities=False)
    assert others_last.labels().tolist() == [0, 1, -1, -1] == [others_last.read(i)[1] for i in range(4)]
