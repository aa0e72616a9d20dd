"""The invisible watermark of diffusers' SDXL pipelines: the same bits in the same places, so the same readers find it.

The method is the one that the package ``invisible-watermark`` calls ``dwtDct``: the picture's U channel (OpenCV's
YUV) is split once by Haar's wavelet; of each 4x4 block of the low band the coefficient of largest magnitude, the first
one left out, is moved to where its remainder by 36 tells a bit. The bits repeat block by block, in rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serve_app.result import Pixels

Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]

MESSAGE = 0b101100111110110010010000011110111011000110011110
"""The 48 bits of diffusers' ``StableDiffusionXLWatermarker``."""

MESSAGE_BITS = 48

MIN_SIDE_PX = 256
"""Smaller pictures have too few blocks to tell the bits again, and stay without; so they do in diffusers."""

_SCALE = 36.0
_MARGIN = 4.0  # what rounding to whole pixels may move
_BLOCK = 4  # coefficients of the low band, two pixels each
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # of luma (ITU-R BT.601)
_U, _V = 0.492, 0.877  # of blue less luma, red less luma


def marked(pixels: Pixels, message: int = MESSAGE, message_bits: int = MESSAGE_BITS) -> Pixels:
    """The picture with the message in it; the same picture where it is too small.

    Args:
        pixels: RGB.
        message: Bits, the first one highest.
        message_bits: How many they are.
    """
    if min(pixels.width, pixels.height) < MIN_SIDE_PX:
        return pixels
    rgb = _array(pixels)
    channel, height, width = _u_channel(rgb)
    low = _low_band(channel)
    blocks = _blocks(low)
    rows = np.arange(len(blocks))
    places = _places(blocks)
    bits = _bits(message, message_bits)[rows % message_bits]
    values = blocks[rows, places]
    sizes = (np.abs(values) // _SCALE + 0.25 + 0.5 * bits) * _SCALE
    # It must stay the largest, or readers look at another one: in flat pictures, where many are equal, the method as it
    # is published loses nearly half of its bits by that.
    rivals = np.abs(blocks)
    rivals[:, 0] = rivals[rows, places] = 0.0
    sizes += np.where(sizes < rivals.max(axis=1) + _MARGIN, _SCALE, 0.0)
    moved = np.zeros_like(blocks)
    moved[rows, places] = np.where(values >= 0.0, sizes, -sizes) - values
    # Of four pixels, each has half of what their low coefficient gained: Haar's wavelet is orthonormal.
    gained = np.repeat(np.repeat(_from_blocks(moved, low.shape), 2, axis=0), 2, axis=1) / 2.0
    # U alone changes; luma and V stay, which says what that is in red, green and blue.
    blue = gained / _U
    out = rgb.astype(np.float64)
    area = out[:height, :width]
    area[..., 2] += blue
    area[..., 1] -= blue * _BLUE / _GREEN
    return Pixels(pixels.width, pixels.height, np.clip(np.rint(out), 0, 255).astype(np.uint8).tobytes())


def read(pixels: Pixels, message_bits: int = MESSAGE_BITS) -> tuple[int, float]:
    """The message that a picture seems to hold; every picture seems to hold one.

    Args:
        pixels: RGB.
        message_bits: Bits to read.

    Returns:
        The message, and how sure its least sure bit is: the share of its blocks that agree, 0.5..1.

    Raises:
        ValueError: The picture is too small.
    """
    channel, _, _ = _u_channel(_array(pixels))
    blocks = _blocks(_low_band(channel))
    if len(blocks) < message_bits:
        raise ValueError(f"a picture of {pixels.width}x{pixels.height} pixels holds no {message_bits} bits")
    rows = np.arange(len(blocks))
    votes = np.abs(blocks[rows, _places(blocks)]) % _SCALE >= 0.5 * _SCALE
    share = np.array([votes[rows % message_bits == bit].mean() for bit in range(message_bits)])
    message = int("".join("1" if one >= 0.5 else "0" for one in share), 2)
    return message, float(np.maximum(share, 1.0 - share).min())


def _array(pixels: Pixels) -> npt.NDArray[np.uint8]:
    return np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)


def _u_channel(rgb: npt.NDArray[np.uint8]) -> tuple[Floats, int, int]:
    """U of the part whose sides are multiples of 4, as OpenCV rounds it, and the part's height and width."""
    height, width = rgb.shape[0] // 4 * 4, rgb.shape[1] // 4 * 4
    area = rgb[:height, :width].astype(np.float64)
    luma = np.rint(_RED * area[..., 0] + _GREEN * area[..., 1] + _BLUE * area[..., 2])
    return np.clip(np.rint((area[..., 2] - luma) * _U + 128.0), 0, 255), height, width


def _low_band(channel: Floats) -> Floats:
    """Haar's low band: half of the sum of each 2x2 pixels."""
    return (channel[0::2, 0::2] + channel[0::2, 1::2] + channel[1::2, 0::2] + channel[1::2, 1::2]) / 2.0


def _blocks(band: Floats) -> Floats:
    """(blocks, 16) in rows of the picture; what is left over at the right and below is left out."""
    rows, columns = band.shape[0] // _BLOCK, band.shape[1] // _BLOCK
    whole = band[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    return whole.transpose(0, 2, 1, 3).reshape(rows * columns, _BLOCK * _BLOCK)


def _from_blocks(blocks: Floats, shape: tuple[int, ...]) -> Floats:
    rows, columns = shape[0] // _BLOCK, shape[1] // _BLOCK
    band = np.zeros(shape)
    whole = blocks.reshape(rows, columns, _BLOCK, _BLOCK).transpose(0, 2, 1, 3)
    band[: rows * _BLOCK, : columns * _BLOCK] = whole.reshape(rows * _BLOCK, columns * _BLOCK)
    return band


def _places(blocks: Floats) -> npt.NDArray[np.intp]:
    places: npt.NDArray[np.intp] = np.abs(blocks[:, 1:]).argmax(axis=1) + 1
    return places


def _bits(message: int, message_bits: int) -> Bits:
    return np.array([message >> place & 1 for place in reversed(range(message_bits))], dtype=bool)
