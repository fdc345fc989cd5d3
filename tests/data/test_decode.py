import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from partial_fc.data.decode import MAX_PIXELS, DecodeError, decode, read_size


def smooth_image(height, width, seed=0):
    """RGB that survives JPEG nearly unchanged."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(rgb, extension=".jpg", *parameters):
    image = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR) if rgb.ndim == 3 and rgb.shape[2] == 3 else rgb
    return cv2.imencode(extension, image, parameters)[1].tobytes()


def jpeg_segment(marker, body):
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segment(jpeg, segment):
    return jpeg[:2] + segment + jpeg[2:]


def with_size(jpeg, height, width):
    """The same JPEG, its header claiming another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def png_of_size(height, width):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def exif(orientation):
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    return jpeg_segment(0xE1, b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([".png", ".jpg", "progressive"]), st.booleans()
)
def test_an_image_of_its_own_size_keeps_every_pixel(height, width, kind, mirror):
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    parameters = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1) if kind == "progressive" else ()
    data = encode(rgb, ".png" if kind == ".png" else ".jpg", *parameters)
    expected = rgb if kind == ".png" else cv2.imdecode(np.frombuffer(data, np.uint8), 1)[:, :, ::-1]
    if mirror:
        expected = expected[:, ::-1]
    assert read_size(data) == (height, width)
    for image_size in (None, (height, width)):
        decoded = decode(data, image_size, mirror=mirror)
        assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, expected)


def test_colours_are_in_the_order_red_green_blue():
    red = np.zeros((16, 16, 3), np.uint8)
    red[:, :, 0] = 200
    for extension in (".jpg", ".png"):
        assert np.abs(decode(encode(red, extension)).astype(int).mean((0, 1)) - [200, 0, 0]).max() < 4


def test_pixels_go_into_the_array_given():
    batch = np.zeros((3, 20, 30, 3), np.uint8)
    rgb = smooth_image(20, 30)
    for mirror in (False, True):
        decoded = decode(encode(rgb, ".png"), (20, 30), mirror=mirror, out_HWC=batch[1])
        assert np.shares_memory(decoded, batch)
        np.testing.assert_array_equal(batch[1], rgb[:, ::-1] if mirror else rgb)
    assert not batch[0].any() and not batch[2].any()


@pytest.mark.parametrize("size", [(56, 57), (112, 112), (100, 131), (300, 260)])
def test_shrinking_takes_the_mean_over_areas(size):
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    expected = area_matrix(size[0], 56) @ rgb.transpose(2, 0, 1) @ area_matrix(size[1], 56).T
    shrunk = decode(encode(rgb, ".png"), (56, 56)).transpose(2, 0, 1)
    assert np.abs(shrunk - expected).max() < 0.51


def area_matrix(source, target):
    """(target, source): how much of each source pixel lies in each target pixel, rows of sum 1."""
    scale = source / target
    starts = np.arange(target)[:, None] * scale
    cells = np.arange(source)[None]
    return np.clip(np.minimum(cells + 1, starts + scale) - np.maximum(cells, starts), 0, None) / scale


def test_enlarging_is_bilinear():
    rgb = smooth_image(28, 30)
    enlarged = decode(encode(rgb, ".png"), (56, 60))
    np.testing.assert_array_equal(enlarged, cv2.resize(rgb, (60, 56), interpolation=cv2.INTER_LINEAR))
    assert decode(encode(rgb, ".png"), (14, 60)).shape == (14, 60, 3)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_grey_images_get_three_channels(extension):
    grey = smooth_image(16, 24)[:, :, 0]
    decoded = decode(encode(grey, extension))
    assert decoded.shape == (16, 24, 3)
    assert (decoded == decoded[:, :, :1]).all()
    assert np.abs(decoded[:, :, 0].astype(int) - grey).mean() < 3


def test_alpha_palette_and_16_bit_png():
    rgb = smooth_image(16, 24)
    rgba = np.dstack([cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.full((16, 24), 9, np.uint8)])
    np.testing.assert_array_equal(decode(encode(rgba, ".png")), rgb)
    deep = (rgb.astype(np.uint16) << 8) + 77
    np.testing.assert_array_equal(decode(encode(deep, ".png")), rgb)
    bilevel = np.where(rgb[:, :, 0] > 127, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(
        decode(encode(bilevel, ".png", cv2.IMWRITE_PNG_BILEVEL, 1))[:, :, 1], bilevel
    )


def test_cmyk_jpeg():
    rgb = smooth_image(32, 32)
    buffer = io.BytesIO()
    Image.fromarray(rgb).convert("CMYK").save(buffer, "JPEG", quality=98)
    decoded = decode(buffer.getvalue())
    assert np.abs(decoded.astype(int) - rgb).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    rgb = smooth_image(48, 32)
    # What a viewer does to the stored pixels, EXIF 2.3 tag 0x0112.
    upright = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.transpose(1, 0, 2),
        6: np.rot90(rgb, -1),
        7: rgb[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(rgb),
    }[orientation]
    decoded = decode(with_segment(encode(rgb, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100), exif(orientation)))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 3
    assert decode(with_segment(encode(rgb), exif(orientation)), (48, 32)).shape == (48, 32, 3)


@pytest.mark.parametrize("side", [20_000, 65_535])
def test_a_decompression_bomb_is_refused_by_its_header(side, monkeypatch):
    def fail(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", fail)
    for data in (with_size(encode(smooth_image(16, 16)), side, side), png_of_size(side, side)):
        with pytest.raises(DecodeError, match=rf"has {side} × {side} pixels, and from 1 to {MAX_PIXELS}"):
            decode(data, (112, 112))


def test_the_size_is_that_of_the_frame_wherever_another_hides():
    """A frame header inside an application segment, as a thumbnail has, is no frame header of the image."""
    jpeg = encode(smooth_image(40, 24))
    hidden = jpeg_segment(0xE2, with_size(jpeg, 8, 8)[2:200])
    for prefix in (hidden, hidden + b"\xff", b"garbage", b"\0\xff\0", jpeg_segment(0xFE, b"")):
        disguised = with_segment(jpeg, prefix) if prefix == hidden else jpeg[:2] + hidden + prefix + jpeg[2:]
        assert read_size(disguised) == (40, 24)
        assert decode(disguised).shape == (40, 24, 3)


@pytest.mark.parametrize("quality", [5, 75, 100])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"optimize": True}, {"exif": exif(6)[4:]}])
def test_the_usual_headers_and_the_others_say_the_same(quality, options):
    for mode in ("RGB", "L", "CMYK"):
        buffer = io.BytesIO()
        Image.fromarray(smooth_image(40, 24)).convert(mode).save(buffer, "JPEG", quality=quality, **options)
        jpeg = buffer.getvalue()
        comment = with_segment(jpeg, jpeg_segment(0xFE, b"no usual header"))
        assert read_size(jpeg) == read_size(comment) == (40, 24)
        np.testing.assert_array_equal(decode(jpeg), decode(comment))
        for damaged in (jpeg[:-1], jpeg[: len(jpeg) // 2], jpeg[:100], with_size(jpeg, 9000, 9000)):
            with pytest.raises(DecodeError):
                decode(damaged)


def test_a_jpeg_of_countless_scans_is_refused():
    jpeg = encode(smooth_image(16, 16), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    scan = jpeg.rindex(b"\xff\xda")
    with pytest.raises(DecodeError, match="more than 100 scans"):
        decode(jpeg[:scan] + jpeg[scan:-2] * 100 + jpeg[-2:])


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_an_image_cut_short_is_refused(extension):
    data = encode(smooth_image(40, 40), extension)
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            read_size(data[:length])
    assert decode(data + b"\0\0padding").shape == (40, 40, 3)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "neither JPEG nor PNG: 0 bytes that start with nothing"),
        (b"GIF89a" + bytes(20), "neither JPEG nor PNG: 26 bytes that start with 47 49 46 38"),
        (b"BM" + bytes(100), "neither JPEG nor PNG"),
        (b"\xff\xd8\xff\xd9", "without a frame header"),
        (b"\xff\xd8\xff\xda\0\2\xff\xd9", "without a frame header"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG without a header"),
        (with_size(encode(smooth_image(16, 16)), 0, 16), "has 16 × 0 pixels"),
        (png_of_size(3000, 3000)[:-30] + png_of_size(3, 3)[-12:], "does not decode"),
    ],
)
def test_what_is_no_sound_image_is_refused(data, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(data, (112, 112))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_images_decode_or_are_refused(data):
    image = bytearray(encode(smooth_image(24, 24), data.draw(st.sampled_from([".jpg", ".png"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(image), (16, 20))
    except DecodeError:
        return
    assert decoded.shape == (16, 20, 3)


@pytest.mark.parametrize("extension", [".bmp", ".webp", ".tiff", ".ppm", ".hdr", ".ras", ".jp2"])
def test_other_formats_never_reach_a_decoder(extension, monkeypatch):
    """OpenCV reads a dozen of them, each with a header of its own in which a bomb can hide."""
    data = encode(smooth_image(64, 64), extension)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None

    def fail(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(DecodeError, match="is neither JPEG nor PNG"):
        decode(data, (112, 112))


@pytest.mark.parametrize("parameters", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)])
def test_a_bomb_of_any_kind_of_jpeg_is_refused(parameters, monkeypatch):
    jpeg = encode(smooth_image(16, 16), ".jpg", *parameters)
    frame = max(jpeg.find(b"\xff\xc0\x00\x11"), jpeg.find(b"\xff\xc2\x00\x11")) + 5
    bomb = jpeg[:frame] + struct.pack(">HH", 20_000, 20_000) + jpeg[frame + 4 :]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DecodeError, match="has 20000 × 20000 pixels"):
        decode(with_segment(bomb, exif(6)), (112, 112))


def test_exif_rotation_is_what_mxnet_applies_too():
    import mxnet as mx

    for orientation in range(1, 9):
        jpeg = with_segment(encode(smooth_image(48, 32)), exif(orientation))
        np.testing.assert_array_equal(decode(jpeg), mx.image.imdecode(jpeg).asnumpy())
