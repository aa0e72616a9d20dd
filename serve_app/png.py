"""PNG files of finished pictures: `png_file`.

Pillow weighs five filters for each row before it compresses, which for a picture of a generator takes several times as
long as the rest. Here every row has the filter ``Average``, which suits such pictures best among the simple ones, and
Intel's deflate. Medians of the bundled model's 512x512 pictures, ``python -m bench.png_writers``: 2.4 ms and 213 KB;
Pillow's level 1 16 ms and 220 KB, level 6 59 ms and 177 KB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from isal import isal_zlib

Chunk = tuple[bytes, bytes]
"""Type and data of one more chunk of a file, such as text."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EIGHT_BITS, _RGB, _AVERAGE = 8, 2, 3  # bit depth, colour type and filter: https://www.w3.org/TR/png-3/
_LEVEL = 1
_STRIP_BYTES = 2**18
"""What is worked on at a time: it stays in a core's own cache."""


def strip_rows(width: int) -> int:
    """Rows of a picture that make one strip for `png_file`.

    Args:
        width: Pixels.
    """
    return max(1, _STRIP_BYTES // (3 * width))


def strips_of(width: int, rgb: bytes) -> Iterator[memoryview]:
    """Cuts a picture into strips, without a copy.

    Args:
        width: Pixels.
        rgb: Rows of pixels, top first, each red, green and blue as a byte.
    """
    view, length = memoryview(rgb), 3 * width * strip_rows(width)
    return (view[start : start + length] for start in range(0, len(view), length))


def png_file(
    width: int, height: int, strips: Iterable[bytes | memoryview], chunks: Sequence[Chunk] = ()
) -> bytes:
    """Writes an RGB picture of 8 bits. Blocks for milliseconds, mostly without Python's lock.

    Args:
        width: Pixels.
        height: Pixels.
        strips: The picture from the top, some whole rows at a time; best `strip_rows` of them.
        chunks: Before the picture's own.

    Returns:
        The file.

    Raises:
        ValueError: The strips are not that picture's.
    """
    compressor = isal_zlib.compressobj(_LEVEL)
    above = np.zeros((1, 3 * width), dtype=np.uint8)
    rows, parts = 0, []
    for strip in strips:
        if len(strip) % (3 * width):
            raise ValueError(f"not whole rows of {width} pixels: {len(strip)} bytes")
        now = np.frombuffer(strip, dtype=np.uint8).reshape(-1, 3 * width)
        parts.append(compressor.compress(_filtered(now, above)))
        above = now[-1:]
        rows += len(now)
    if rows != height:
        raise ValueError(f"{rows} rows of {width} pixels are no picture of {width}x{height}")
    parts.append(compressor.flush())
    header = struct.pack(">IIBBBBB", width, height, _EIGHT_BITS, _RGB, 0, 0, 0)
    every = [(b"IHDR", header), *chunks, (b"IDAT", b"".join(parts)), (b"IEND", b"")]
    return b"".join([_SIGNATURE, *(piece for chunk in every for piece in _pieces(*chunk))])


def _filtered(now: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Each row after its filter's number, each byte less the mean of the one to the left and the one above.

    Args:
        now: (rows, bytes) uint8.
        above: (1, bytes), the row before them.
    """
    over = np.concatenate([above, now[:-1]])
    left = np.zeros_like(now)
    left[:, 3:] = now[:, :-3]
    filtered = np.empty((len(now), now.shape[1] + 1), dtype=np.uint8)
    filtered[:, 0] = _AVERAGE
    # The mean, rounded down, in bytes: what both have, and half of what one has.
    np.subtract(now, (left & over) + ((left ^ over) >> 1), out=filtered[:, 1:])
    return filtered


def _pieces(kind: bytes, data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)
