import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partial_fc.data.identities import IdentityIndex


@given(labels=st.lists(st.integers(0, 6)), in_order=st.booleans())
def test_each_identity_has_its_images(labels, in_order):
    labels = sorted(labels) if in_order else labels
    index = IdentityIndex(np.array(labels, np.int64), 7)
    for identity in range(7):
        expected = [i for i, label in enumerate(labels) if label == identity]
        assert index.images_of(identity).tolist() == expected
        assert index.counts_C[identity] == len(expected)
    assert len(index) == 7
    assert np.array(labels, np.int64)[index.all_images()].tolist() == sorted(labels)


@pytest.mark.parametrize(("labels", "wrong"), [([0, 7, 1], 7), ([3, -1], -1)])
def test_a_label_outside_is_refused(labels, wrong):
    with pytest.raises(ValueError, match=rf"labels lie in \[0, 7\), got {wrong}: relabel"):
        IdentityIndex(np.array(labels), 7)
