"""PNG files, read by Pillow and chunk by chunk."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serve_app import png
from serve_app.png import png_file, strip_rows, strips_of

PICTURES = Path(__file__).parents[2] / "docs" / "images"


def read(file: bytes) -> tuple[tuple[int, int], bytes]:
    with Image.open(io.BytesIO(file)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        return picture.size, picture.tobytes()


def chunks_of(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of every chunk; the checksums are compared with zlib's."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    place = 8
    while place < len(file):
        (length,) = struct.unpack_from(">I", file, place)
        kind, data = file[place + 4 : place + 8], file[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", file, place + 8 + length)[0] == zlib.crc32(kind + data)
        yield kind, data
        place += 12 + length


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_every_pixel_comes_back(width: int, height: int, seed: int, strip_bytes: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, 3 * width * height, dtype=np.uint8).tobytes()
    with pytest.MonkeyPatch.context() as patched:  # pictures of many strips, and of one
        patched.setattr(png, "_STRIP_BYTES", strip_bytes)
        file = png_file(width, height, strips_of(width, rgb))
    assert read(file) == ((width, height), rgb)


def test_a_large_picture_is_cut_into_strips_and_comes_back() -> None:
    width, height = 1024, 768
    ramps = np.indices((height, width)).sum(0)[..., None] * np.array([1, 2, 5]) // 3
    rgb = ramps.astype(np.uint8).tobytes()
    strips = list(strips_of(width, rgb))
    assert len(strips) > 1
    assert {len(strip) for strip in strips[:-1]} == {3 * width * strip_rows(width)}
    assert b"".join(strips) == rgb
    assert read(png_file(width, height, strips)) == ((width, height), rgb)


def test_chunks_are_in_order_with_their_checksums() -> None:
    text = (b"tEXt", b"parameters\0a boat")
    file = png_file(2, 1, [bytes(6)], [text])
    header, own, pixels, end = chunks_of(file)
    assert header == (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0))
    assert own == text
    assert pixels[0] == b"IDAT"
    assert zlib.decompress(pixels[1]) == b"\x03" + bytes(6)
    assert end == (b"IEND", b"")


@pytest.mark.parametrize(
    ("strips", "message"),
    [
        ([bytes(5)], "not whole rows of 2 pixels: 5 bytes"),
        ([bytes(6)], "1 rows of 2 pixels are no picture of 2x2"),
        ([bytes(12), bytes(6)], "3 rows of 2 pixels are no picture of 2x2"),
        ([], "0 rows of 2 pixels are no picture of 2x2"),
    ],
)
def test_what_is_no_such_picture_is_refused(strips: list[bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        png_file(2, 2, strips)


def test_drawn_pictures_are_no_larger_than_pillows_fast_ones() -> None:
    ours = theirs = 0
    for name in ("astronaut", "boat", "castle", "panda", "robot"):
        with Image.open(PICTURES / f"{name}.png") as picture:
            drawn = picture.convert("RGB")
        file = io.BytesIO()
        drawn.save(file, "PNG", compress_level=1)
        theirs += file.tell()
        ours += len(png_file(*drawn.size, strips_of(drawn.width, drawn.tobytes())))
    assert ours <= theirs
