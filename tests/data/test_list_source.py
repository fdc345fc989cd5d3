from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partial_fc.data.list_source import ListLine, ListSource, read_list


@pytest.fixture
def lst(tmp_path):
    return tmp_path / "train.lst"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"7\t3.000000\ta b/1.jpg", (7, 3, b"a b/1.jpg")),
        (b"7\t3\t0.5\t0.25\ta.jpg", (7, 3, b"a.jpg")),  # further labels
        (b"1\ta/1.jpg\t3", (None, 3, b"a/1.jpg")),
        (b"0\ta/1.jpg\t3\t10\t20\t30\t40", (None, 3, b"a/1.jpg")),  # with the box of a face
        (b"1\t/caf\xe9/1.jpg\t16777217\r", (None, 16777217, b"/caf\xe9/1.jpg")),
        (b"2\t16777217\ta.jpg", (2, 16777217, b"a.jpg")),
    ],
)
def test_a_line_of_either_layout(lst, line, expected):
    lst.write_bytes(b"\n \r\n" + line + b"\n\n")
    assert list(read_list(lst)) == [ListLine(3, *expected)]


@pytest.mark.parametrize(
    "line", [b"a.jpg 3", b"1\t3", b"1\t-1\ta.jpg", b"1\t0.5\ta.jpg", b"1\tnan\ta.jpg", b"2\ta.jpg\t0", b"1\t0\t",
             b"x\t0\ta.jpg", b"1\t0\t" + b"a" * 5000, b"1\t1e300\ta.jpg"]
)  # fmt: skip
def test_a_line_that_is_none_is_named(lst, line):
    lst.write_bytes(b"0\t0\ta.jpg\n" + line + b"\n")
    with pytest.raises(ValueError, match=r"train\.lst: line 2 is neither"):
        ListSource(lst)


def test_images_come_in_the_order_of_the_list_from_beside_it(lst, tmp_path):
    (tmp_path / "b c").mkdir()
    (tmp_path / "b c" / "2.jpg").write_bytes(b"two")
    (tmp_path / "1.jpg").write_bytes(b"one")
    lst.write_text(f"5\t4\tb c/2.jpg\n1\t0\t{tmp_path}/1.jpg\n3\t0\tmissing.jpg\n")
    source = ListSource(lst)
    assert [source.read(i) for i in range(2)] == [(b"two", 4), (b"one", 0)]
    assert (len(source), source.num_identities, source.labels().tolist()) == (3, 5, [4, 0, 0])
    with pytest.raises(ValueError, match=r"missing\.jpg cannot be read \(No such file"):
        source.read(2)
    other = ListSource(lst, root=Path("/nowhere"))
    assert other.where(0) == "/nowhere/b c/2.jpg"


def test_an_empty_list_and_none(lst):
    with pytest.raises(FileNotFoundError, match="there is no list"):
        ListSource(lst)
    lst.write_text("\n")
    with pytest.raises(ValueError, match="names no image"):
        ListSource(lst)


@given(text=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_in_one_sentence(tmp_path_factory, text):
    lst = tmp_path_factory.mktemp("any") / "a.lst"
    lst.write_bytes(text)
    try:
        ListSource(lst)
    except ValueError as error:
        assert "a.lst" in str(error) and "\n" not in str(error)
