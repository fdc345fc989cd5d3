"""Sets are read from every form that InsightFace's `.bin` files have had, and from nothing else."""

import os
import pickle

import numpy as np
import pytest

from partial_fc.evaluation.verification_set import VerificationSet, load_bin, save_bin

IMAGES = [b"\xff\xd8 one", b"", b"\xff\xd8 two \x00\xd9", bytes(range(256)), b"one", b"two"]
IS_SAME = [True, False, True]


def write(tmp_path, value, protocol=pickle.HIGHEST_PROTOCOL):
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        (IMAGES, IS_SAME),
        [tuple(IMAGES), tuple(IS_SAME)],
        ([np.frombuffer(image, np.uint8) for image in IMAGES], IS_SAME),
        (IMAGES, np.array(IS_SAME)),
        (IMAGES, list(np.array(IS_SAME))),
        (IMAGES, [1, 0, 1]),
        (IMAGES, np.array([1.0, 0.0, 1.0])),
    ],
)
def test_forms_of_a_bin(tmp_path, value, protocol):
    verification_set = load_bin(write(tmp_path, value, protocol))
    assert verification_set.name == "lfw"
    assert verification_set.images == IMAGES
    assert all(type(image) is bytes for image in verification_set.images)
    assert verification_set.is_same.dtype == np.bool_
    assert verification_set.is_same.tolist() == IS_SAME
    assert len(verification_set) == 3


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (IMAGES, "not a list of 6 values"),
        (b"image", "not a value of type bytes"),
        ((IMAGES, IS_SAME, 3), "not a tuple of 3 values"),
        (None, "not None"),
        pytest.param(10**5000, "not a value of type int", id="a number too long to print"),
        ((IMAGES[:5], IS_SAME), "5 images and 3 pairs"),
        ((IMAGES, IS_SAME[:2]), "6 images and 2 pairs"),
        (([], []), "holds no pairs"),
        ((b"".join(IMAGES), IS_SAME), "images must be a list"),
        ((IMAGES[:5] + ["text"], IS_SAME), "image 5 must be bytes .*not a value of type str"),
        ((IMAGES[:5] + [[b"nested"]], IS_SAME), "image 5 .* not a list of 1 values"),
        ((IMAGES[:5] + [np.zeros((2, 2), np.uint8)], IS_SAME), r"image 5 .* uint8 of shape \(2, 2\)"),
        ((IMAGES[:5] + [np.zeros(2, np.int64)], IS_SAME), "image 5 .* int64"),
        ((IMAGES, True), "is_same must be a list of bools, not True"),
        ((IMAGES, [True, False, 2]), "is_same of pair 2 must be True or False, not 2"),
        ((IMAGES, [True, False, float("nan")]), "pair 2 .* not nan"),
        ((IMAGES, [True, None, True]), "pair 1 .* not None"),
        ((IMAGES, [True, b"\x01", True]), "pair 1 .* bytes"),
        ((IMAGES, np.array([[True], [False], [True]])), r"bool of shape \(3, 1\)"),
    ],
)
def test_anything_else_is_refused(tmp_path, value, reason):
    with pytest.raises(ValueError, match=f"lfw.*{reason}"):
        load_bin(write(tmp_path, value))


def test_a_hostile_bin_is_refused_by_name(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'marker'}",)

    with pytest.raises(ValueError, match=r"lfw\.bin .*'posix\.system'"):
        load_bin(write(tmp_path, ([Hostile()] * 6, IS_SAME)))
    assert not (tmp_path / "marker").exists()


def test_saved_sets_are_what_python_2_and_3_read(tmp_path):
    path = tmp_path / "saved.bin"
    save_bin(path, IMAGES, np.array(IS_SAME))
    assert path.read_bytes()[:2] == b"\x80\x02"  # the highest protocol of Python 2
    images, is_same = pickle.loads(path.read_bytes())
    assert (images, is_same) == (IMAGES, IS_SAME)
    assert all(type(flag) is bool for flag in is_same)
    assert load_bin(path).images == IMAGES
    assert os.listdir(tmp_path) == ["saved.bin"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "saved.bin"
    save_bin(path, IMAGES, IS_SAME)
    with pytest.raises(ValueError, match="6 images and 2 pairs"):
        save_bin(path, IMAGES, IS_SAME[:2])

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save_bin(path, IMAGES[:2], IS_SAME[:1])
    assert load_bin(path).images == IMAGES
    assert os.listdir(tmp_path) == ["saved.bin"]


def test_unique_images_give_the_list_back():
    images = [b"a", b"b", b"b", b"c", b"a", b"a"]
    unique, index_N = VerificationSet("set", images, np.array(IS_SAME)).unique_images()
    assert unique == [b"a", b"b", b"c"]
    assert index_N.tolist() == [0, 1, 1, 2, 0, 0]


def test_real_bin(shared_data):
    path = shared_data / "lfw" / "val.bin"
    verification_set = load_bin(path)
    assert (verification_set.images, verification_set.is_same.tolist()) == pickle.loads(path.read_bytes())
