import pytest
from hypothesis import given
from hypothesis import strategies as st

from partial_fc.augmentation import NAMES, Augmentation


def test_the_default_mirrors_alone():
    assert Augmentation() == Augmentation.parse("") == Augmentation.parse("mirror=0.5")
    assert str(Augmentation()) == "mirror=0.5"
    assert not any(getattr(Augmentation(), name) for name in NAMES if name != "mirror")


def test_what_is_named_is_set_and_the_rest_keeps_its_default():
    parsed = Augmentation.parse(" crop=0.2:0.4, grey=1 ,jpeg=0.5")
    assert parsed == Augmentation(mirror=0.5, crop=0.2, crop_strength=0.4, grey=1.0, jpeg=0.5)


def test_none_makes_no_change():
    assert Augmentation.parse("none") == Augmentation(mirror=0)
    assert str(Augmentation(mirror=0)) == "none"


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.25, 0.5, 1.0])), st.booleans())
def test_text_and_numbers_say_the_same(values, mirrors):
    augmentation = Augmentation(**({"mirror": 0.5 * mirrors} | values))
    assert Augmentation.parse(str(augmentation)) == augmentation


@pytest.mark.parametrize(
    "text, message",
    [
        ("blurr=1", "must be one of mirror, crop, color, grey, blur, jpeg, erase, or none, but is 'blurr'"),
        ("crop=0.1,crop=0.2", "crop is there twice"),
        ("mirror=0.5:3", "mirror has no strength: give mirror=PROBABILITY, not 'mirror=0.5:3'"),
        ("crop", "name=probability or name=probability:strength, not 'crop'"),
        ("crop=often", "not 'crop=often'"),
        ("crop=0.1:", "not 'crop=0.1:'"),
        ("crop=1.1", r"probability of the augmentation crop must lie in \[0, 1\], but is 1.1"),
        ("mirror=-0.1", r"probability of the augmentation mirror must lie in \[0, 1\], but is -0.1"),
        ("grey=nan", r"\[0, 1\], but is nan"),
        ("crop=1:1", r"strength of the augmentation crop must lie in \[0, 0.9\], but is 1"),
        ("blur=1:0", r"strength of the augmentation blur must lie in \[0.01, 100\], but is 0"),
        ("jpeg=1:96", r"strength of the augmentation jpeg must lie in \[1, 95\], but is 96"),
        ("erase=1:0.01", r"\[0.02, 1\], but is 0.01"),
    ],
)
def test_what_cannot_be_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Augmentation.parse(text)
