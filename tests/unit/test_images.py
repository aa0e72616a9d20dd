"""Encoding, and the merged grid."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from serve_app import images
from serve_app.request import ImageFormat, OutputOptions
from serve_app.result import Pixels

RED, BLUE = (200, 30, 30), (30, 30, 200)


def flat(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> Pixels:
    return Pixels(width, height, bytes(colour) * (width * height))


@pytest.mark.parametrize("kind", ImageFormat)
def test_pixels_survive(kind: ImageFormat) -> None:
    data = images.encode(flat(RED), OutputOptions(kind, 95))
    picture = Image.open(io.BytesIO(data))
    assert picture.format == kind.value.upper()
    assert picture.size == (64, 48)
    pixel = picture.convert("RGB").getpixel((10, 10))
    assert isinstance(pixel, tuple)
    tolerance = 0 if kind is ImageFormat.PNG else 4
    assert all(abs(a - b) <= tolerance for a, b in zip(pixel, RED, strict=True))


def test_quality_matters() -> None:
    noise = Pixels(64, 64, bytes((i * 7919 >> 3) % 256 for i in range(64 * 64 * 3)))
    for kind in (ImageFormat.WEBP, ImageFormat.JPEG):
        low, high = [images.encode(noise, OutputOptions(kind, quality)) for quality in (10, 95)]
        assert len(low) < len(high)


def test_pixels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="not whole rows of 64 pixels: 5 bytes"):
        images.encode(Pixels(64, 64, b"short"), OutputOptions())
    with pytest.raises(ValueError, match="not enough image data"):
        images.encode(Pixels(64, 64, b"short"), OutputOptions(ImageFormat.JPEG))


@pytest.mark.parametrize(
    ("count", "columns", "rows"),
    [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2), (5, 3, 2), (7, 3, 3), (16, 4, 4)],
)
def test_grid_is_near_square(count: int, columns: int, rows: int) -> None:
    merged = Image.open(io.BytesIO(images.grid([images.encode(flat(RED), OutputOptions())] * count)))
    assert merged.size == (columns * 64, rows * 48)


def test_grid_goes_row_by_row_and_takes_different_sizes() -> None:
    files = [images.encode(pixels, OutputOptions()) for pixels in (flat(RED), flat(BLUE, 32, 32), flat(BLUE))]
    merged = Image.open(io.BytesIO(images.grid(files)))
    assert merged.getpixel((32, 24)) == RED
    assert merged.getpixel((64 + 32, 24)) == BLUE
    assert merged.getpixel((64 + 1, 1)) == (255, 255, 255)
    assert merged.getpixel((32, 48 + 24)) == BLUE


def test_grid_is_scaled_down_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_GRID_PIXELS", 64 * 48)
    merged = Image.open(io.BytesIO(images.grid([images.encode(flat(RED), OutputOptions())] * 4)))
    assert merged.size == (64, 48)
    assert merged.getpixel((5, 5)) == RED


def test_grid_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="at least one"):
        images.grid([])
    with pytest.raises(OSError, match="cannot identify"):
        images.grid([b"nonsense"])
