import pytest

from partial_fc.data import text_lines
from partial_fc.data.text_lines import chunks_of_lines, count_lines


@pytest.mark.parametrize(
    "text", [b"", b"a", b"a\n", b"\n\n", b"first\nsecond line\n\nfourth", b"x" * 40 + b"\ny\n"]
)
@pytest.mark.parametrize("chunk_bytes", [1, 3, 7, 1000])
def test_chunks_are_whole_lines_that_make_up_the_file(tmp_path, monkeypatch, text, chunk_bytes):
    monkeypatch.setattr(text_lines, "CHUNK_BYTES", chunk_bytes)
    path = tmp_path / "a.txt"
    path.write_bytes(text)
    chunks = list(chunks_of_lines(path))
    assert b"".join(chunk.text for chunk in chunks) == text
    for chunk in chunks:
        assert text[chunk.offset :].startswith(chunk.text)
        assert chunk.first_line == text[: chunk.offset].count(b"\n") + 1
        assert chunk.text.endswith(b"\n") or chunk is chunks[-1]
    assert count_lines(path) == text.count(b"\n") + 1


def test_a_line_without_end_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(text_lines, "CHUNK_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 10_000)
    assert max(len(chunk.text) for chunk in chunks_of_lines(path)) == 100 + text_lines.MAX_LINE_BYTES
