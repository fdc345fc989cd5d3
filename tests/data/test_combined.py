import numpy as np
import pytest

from partial_fc.data.combined import CombinedSource


class NamedSource:
    def __init__(self, name, labels, num_identities):
        self.name, self._labels, self.num_identities = name, labels, num_identities
        self.closed = False

    def __len__(self):
        return len(self._labels)

    def read(self, index):
        assert 0 <= index < len(self)
        return self.where(index).encode(), self._labels[index]

    def where(self, index):
        return f"{self.name}{index}"

    def labels(self):
        return np.array(self._labels, np.int64)

    def close(self):
        self.closed = True


@pytest.fixture
def sources():
    return [
        NamedSource("a", [0, 2], 3),
        NamedSource("b", [], 5),
        NamedSource("c", [1], 2),
        NamedSource("d", [0, 3], 4),
    ]


@pytest.mark.parametrize(
    "shared, labels, identities",
    [(False, [0, 2, 9, 10, 13], 14), (True, [0, 2, 1, 0, 3], 5)],
    ids=["own", "shared"],
)
def test_labels_follow_on_one_another_or_are_shared(sources, shared, labels, identities):
    combined = CombinedSource(sources, shared_labels=shared)
    assert len(combined) == 5
    expected = list(zip([b"a0", b"a1", b"c0", b"d0", b"d1"], labels, strict=True))
    assert [combined.read(i) for i in range(5)] == expected
    assert [combined.where(i).encode() for i in range(5)] == [image for image, _ in expected]
    assert combined.labels().tolist() == labels and combined.labels().dtype == np.int64
    assert (combined.num_identities, combined.name) == (identities, "a + b + c + d")


def test_close_closes_all(sources):
    CombinedSource(sources).close()
    assert all(source.closed for source in sources)


def test_none_is_refused():
    with pytest.raises(ValueError, match="at least one set"):
        CombinedSource([])
