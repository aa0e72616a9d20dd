"""Encoding, the parameters inside the files, and the merged grid."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from serve_app import images
from serve_app.request import GenerationRequest, ImageFormat, OutputOptions, Pixels

RED, BLUE = (200, 30, 30), (30, 30, 200)


def flat(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> Pixels:
    return Pixels(width, height, bytes(colour) * (width * height))


def request(prompt: str = "a fox", negative_prompt: str = "") -> GenerationRequest:
    return GenerationRequest(
        request_id="r",
        prompt=prompt,
        negative_prompt=negative_prompt,
        height=48,
        width=64,
        num_inference_steps=4,
        guidance_scale=7.5,
        seed=2**32 - 1,
    )


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
    with pytest.raises(ValueError, match="not enough image data"):
        images.encode(Pixels(64, 64, b"short"), OutputOptions())


def test_infotext() -> None:
    text = images.infotext(request(negative_prompt="blurry"), index=1, model="a/b, c", sampler="Euler")
    assert text == (
        "a fox\nNegative prompt: blurry\n"
        'Steps: 4, Sampler: Euler, CFG scale: 7.5, Seed: 0, Size: 64x48, Model: "a/b, c"'
    )
    assert "Negative prompt" not in images.infotext(request(), index=0, model="m", sampler="Euler")


@pytest.mark.parametrize("kind", ImageFormat)
@pytest.mark.parametrize("prompt", ["a fox", "two\nlines, and: more", "füchse 狐 🦊", "x" * 10_000])
def test_parameters_are_read_back(kind: ImageFormat, prompt: str) -> None:
    text = images.infotext(request(prompt), index=0, model="m", sampler="Euler")
    assert images.read_parameters(images.encode(flat(RED), OutputOptions(kind), text)) == text


def test_pillow_alone_reads_them() -> None:
    png = Image.open(io.BytesIO(images.encode(flat(RED), OutputOptions(), "a fox\nSteps: 4")))
    assert png.info["parameters"] == "a fox\nSteps: 4"
    jpeg = Image.open(io.BytesIO(images.encode(flat(RED), OutputOptions(ImageFormat.JPEG), "a fox")))
    assert jpeg.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + "a fox".encode("utf-16-be")


def test_exif_keeps_the_settings_where_the_prompt_is_too_long_for_it() -> None:
    text = images.infotext(request("🦊" * 10_000, "🦊" * 10_000), index=0, model="m", sampler="Euler")
    data = images.encode(flat(RED), OutputOptions(ImageFormat.JPEG), text)
    assert images.read_parameters(data) == text.rpartition("\n")[2]
    assert images.read_parameters(images.encode(flat(RED), OutputOptions(), text)) == text


@pytest.mark.parametrize("kind", ImageFormat)
def test_no_parameters(kind: ImageFormat) -> None:
    assert images.read_parameters(images.encode(flat(RED), OutputOptions(kind))) is None


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
