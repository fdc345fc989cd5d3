import logging
import os

import pytest

from partial_fc.data.folder import FolderSource


def write_files(root, contents):
    for name, data in contents.items():
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


FILES = {
    b"Zoe/b.PNG": b"zoe b",
    b"Zoe/a 1.jpg": b"zoe a",
    b"anna/x.jpeg": b"anna",
    b"Ben \xff/x.jpg": b"ben",
    b"empty/readme.txt": b"",
    b"anna/thumbs.db": b"",
    b"at the top.jpg": b"",
    b"anna/deeper/y.jpg": b"",
}


def test_folders_are_identities_in_the_order_of_their_names(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    write_files(tmp_path, FILES)
    source = FolderSource(tmp_path)
    assert source.identity_names == [b"Ben \xff", b"Zoe", b"anna"]
    assert [source.read(i) for i in range(len(source))] == [
        (b"ben", 0),
        (b"zoe a", 1),
        (b"zoe b", 1),
        (b"anna", 2),
    ]
    assert (source.num_identities, source.name) == (3, str(tmp_path))
    assert source.labels().tolist() == [0, 1, 1, 2]
    assert source.where(0) == f"{tmp_path}/Ben \\xff/x.jpg"
    assert source.where(1) == f"{tmp_path}/Zoe/a 1.jpg"
    assert "1 folders hold no image, and 2 files are none: left out" in caplog.text
    source.close()


def test_linked_folders_and_files_count(tmp_path):
    write_files(tmp_path, {b"real/a/1.jpg": b"one", b"set/b/2.jpg": b"two"})
    (tmp_path / "set" / "a").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "set" / "b" / "3.jpg").symlink_to(tmp_path / "real" / "a" / "1.jpg")
    source = FolderSource(tmp_path / "set")
    assert [source.read(i) for i in range(len(source))] == [(b"one", 0), (b"two", 1), (b"one", 1)]


def test_a_file_that_is_gone_is_named(tmp_path):
    write_files(tmp_path, {b"a/1.jpg": b"one"})
    source = FolderSource(tmp_path)
    (tmp_path / "a" / "1.jpg").unlink()
    with pytest.raises(ValueError, match=r"a/1\.jpg cannot be read \(No such file"):
        source.read(0)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        FolderSource(tmp_path / "nowhere")
    write_files(tmp_path, {b"top.jpg": b"", b"a/b/c.jpg": b""})
    with pytest.raises(ValueError, match="holds no image: it needs a folder for each identity"):
        FolderSource(tmp_path)
