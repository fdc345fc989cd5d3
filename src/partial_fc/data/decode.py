"""JPEG or PNG bytes to RGB pixels, by OpenCV's libjpeg-turbo and libpng.

An image is measured from its header before a pixel of it is decoded, so that a small file cannot ask for
gigabytes. Grey, CMYK, palette, 16-bit and transparent images come out as 8-bit RGB, and EXIF rotation is
applied, as OpenCV does both.
"""

from __future__ import annotations

import re
import struct

import cv2
import numpy as np

MAX_PIXELS = 1 << 24  # 4096 × 4096: 48 MiB decoded
_MAX_PROGRESSIVE_SCANS = 100  # ten or so are usual; each one costs a pass over the whole image

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_PNG_HEADER = struct.Struct(">8xI4sII")
_JPEG_FRAME = struct.Struct(">HBHH")
_HEIGHT_WIDTH = struct.Struct(">HH")

# What libjpeg itself writes, segment by segment: JFIF, one or two quantisation tables, a baseline frame. One
# match in place of a walk: between two images each step of the interpreter has left the caches and is dear.
_USUAL_JPEG = re.compile(
    rb"\xff\xd8(?:\xff\xe0\x00\x10.{14})?(?:\xff\xdb\x00\x43.{65}){1,2}\xff\xc0\x00\x11\x08(....)", re.DOTALL
)

# Marker codes of ITU T.81, table B.1.
_SCAN, _PROGRESSIVE, _END_OF_IMAGE = 0xDA, (0xC2, 0xC6, 0xCA, 0xCE), 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}


class DecodeError(ValueError):
    """Bytes that are not a sound JPEG or PNG image of an acceptable size; the message says why."""


def read_size(image_bytes: bytes) -> tuple[int, int]:
    """(height, width) in pixels from the header of a JPEG or PNG, before any EXIF rotation.

    Raises DecodeError for other formats, for a broken header and for an image that is cut short.
    """
    if image_bytes.startswith(_JPEG_START):
        return _jpeg_size(image_bytes)
    if image_bytes.startswith(_PNG_START):
        return _png_size(image_bytes)
    start = image_bytes[:4].hex(" ") or "nothing"
    raise DecodeError(f"is neither JPEG nor PNG: {len(image_bytes)} bytes that start with {start}")


def decode(
    image_bytes: bytes,
    image_size: tuple[int, int] | None = None,
    *,
    mirror: bool = False,
    out_HWC: np.ndarray | None = None,
) -> np.ndarray:
    """The image as uint8 RGB (H, W, 3), C-contiguous, with `image_size` = (H, W); its own size for None.

    An image of that size already keeps every pixel as decoded. Another is resized, without regard to its
    proportions: shrunk by the mean over the area of each new pixel, enlarged bilinearly. (JPEG's own decoding
    at a half or a quarter is quicker and is not that mean.) `mirror` exchanges left and right. The pixels go
    into `out_HWC`, C-contiguous, where it is given.

    Raises DecodeError when the bytes are not a sound image, or one of more than `MAX_PIXELS` pixels.
    """
    usual = _USUAL_JPEG.match(image_bytes)
    if usual and image_bytes.endswith(_JPEG_END):
        height, width = _HEIGHT_WIDTH.unpack(usual[1])
    else:
        height, width = read_size(image_bytes)
    if not 0 < height * width <= MAX_PIXELS:
        raise DecodeError(f"has {width} × {height} pixels, and from 1 to {MAX_PIXELS} are accepted")
    try:
        bgr_HWC = cv2.imdecode(np.frombuffer(image_bytes, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise DecodeError(f"does not decode ({error.err})") from None
    if bgr_HWC is None:
        raise DecodeError("does not decode")
    if image_size is not None and bgr_HWC.shape[:2] != image_size:
        bgr_HWC = resize(bgr_HWC, image_size)
    if not mirror:
        return cv2.cvtColor(bgr_HWC, cv2.COLOR_BGR2RGB, out_HWC)
    if out_HWC is None:
        out_HWC = np.empty_like(bgr_HWC)
    # The bytes of a row back to front are the mirrored row in the other order of colours.
    cv2.flip(bgr_HWC.reshape(len(bgr_HWC), -1), 1, out_HWC.reshape(len(bgr_HWC), -1))
    return out_HWC


def resize(image_HWC: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """The image at (H, W) pixels, without regard to its proportions: see :func:`decode`."""
    height, width = image_size
    shrinks = image_HWC.shape[0] >= height and image_HWC.shape[1] >= width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image_HWC, (width, height), interpolation=interpolation)


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < _PNG_HEADER.size or data[12:16] != b"IHDR":
        raise DecodeError("is a PNG without a header")
    if _PNG_END not in data:
        raise DecodeError("is a PNG that is cut short")
    _, _, width, height = _PNG_HEADER.unpack_from(data)
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walks from marker to marker just as libjpeg does, up to the frame header."""
    position = 2
    try:
        while True:
            # Bytes between segments are passed over, and 0xFF 0x00 is no marker.
            while data[position] != 0xFF or data[position + 1] in (0x00, 0xFF):
                position += 1
            marker = data[position + 1]
            position += 2
            if marker in _FRAMES:
                break
            if marker == _END_OF_IMAGE or marker == _SCAN:
                raise DecodeError("is a JPEG without a frame header")
            if marker not in _WITHOUT_LENGTH:
                position += data[position] << 8 | data[position + 1]
        _, _, height, width = _JPEG_FRAME.unpack_from(data, position)
    except (IndexError, struct.error):
        raise DecodeError("is a JPEG that is cut short") from None
    # libjpeg fills what is missing with grey and goes on. The end marker cannot occur in compressed data.
    if not data.endswith(_JPEG_END) and data.find(_JPEG_END, position) < 0:
        raise DecodeError("is a JPEG that is cut short")
    if marker in _PROGRESSIVE and data.count(b"\xff\xda", position) > _MAX_PROGRESSIVE_SCANS:
        raise DecodeError(f"is a JPEG of more than {_MAX_PROGRESSIVE_SCANS} scans")
    return height, width
