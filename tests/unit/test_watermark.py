"""The invisible watermark: read again, also from compressed files; hardly there for the eye; drawn by a replica."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serve_app.deployment import Replica
from serve_app.images import encode
from serve_app.request import GenerationRequest, ImageFormat, OutputOptions
from serve_app.result import GenerationResult, Pixels
from serve_app.settings import PoolSettings
from serve_app.watermark import MESSAGE, MESSAGE_BITS, marked, read

PICTURES = Path(__file__).parents[2] / "docs" / "images"
READ_BY_REFERENCE = 206702607333822


def picture(width: int = 512, height: int = 512, seed: int = 0) -> Pixels:
    """Soft shapes in soft colours, as pictures have them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(60, 200, (9, 9, 3), dtype=np.uint8))
    return of_image(small.resize((width, height), Image.Resampling.BICUBIC))


def of_image(image: Image.Image) -> Pixels:
    return Pixels(image.width, image.height, image.convert("RGB").tobytes())


def array(pixels: Pixels) -> np.ndarray:
    return np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3).astype(int)


@pytest.mark.parametrize("size", [(256, 256), (512, 512), (1024, 512), (515, 383)])
def test_the_message_is_read_again(size: tuple[int, int]) -> None:
    message, sure = read(marked(picture(*size)))
    assert message == MESSAGE
    assert sure > 0.8
    other = 0b1011
    assert read(marked(picture(*size), other, 4), 4)[0] == other


def test_pictures_without_it_do_not_seem_to_have_it() -> None:
    for seed in range(4):
        message, _ = read(picture(seed=seed))
        assert (message ^ MESSAGE).bit_count() > 8


def test_it_outlives_jpeg_of_good_quality() -> None:
    file = encode(marked(picture()), OutputOptions(ImageFormat.JPEG, 90))
    with Image.open(io.BytesIO(file)) as image:
        assert (read(of_image(image))[0] ^ MESSAGE).bit_count() <= 2


def test_it_changes_colour_a_little_and_brightness_hardly() -> None:
    plain = picture()
    difference = array(marked(plain)) - array(plain)
    luma = difference @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma).max() <= 1.0
    assert np.abs(difference).mean() < 2.0
    assert (difference[..., 0] == 0).all()  # red stays


def test_small_pictures_stay_as_they_are() -> None:
    small = picture(255, 512)
    assert marked(small) == small
    with pytest.raises(ValueError, match="holds no 48 bits"):
        read(picture(32, 32))


def test_the_reader_reads_what_the_reference_reads() -> None:
    """A file and a number by the package ``invisible-watermark`` 0.2 (``dwtDct``): it lost 9 of the bits itself."""
    with Image.open(Path(__file__).parent / "reference_watermark.png") as image:
        # Its float32 wavelet decides some ties of whole numbers the other way.
        assert (read(of_image(image))[0] ^ READ_BY_REFERENCE).bit_count() <= 3


@pytest.mark.parametrize("name", ["astronaut", "boat", "car", "panda", "star", "pair"])
def test_flat_pictures_of_the_bundled_model_keep_it(name: str) -> None:
    with Image.open(PICTURES / f"{name}.png") as image:
        message, _ = read(marked(of_image(image)))
    assert (message ^ MESSAGE).bit_count() <= 3


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_replica_marks_where_that_is_set(wanted: bool) -> None:
    replica = Replica(
        PoolSettings(name="test", accelerator="fake", model="fake"), "fake", invisible_watermark=wanted
    )
    try:
        asked = GenerationRequest("id", "a fox", "", 256, 256, 2, 0.0, seed=3)
        result = [event async for event in replica.generate(asked)][-1]
        assert isinstance(result, GenerationResult)
    finally:
        replica.close()
    with Image.open(io.BytesIO(result.images[0].data)) as image:
        message, _ = read(of_image(image), MESSAGE_BITS)
    assert (message == MESSAGE) is wanted
