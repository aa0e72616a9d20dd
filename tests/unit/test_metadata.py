"""What picture files say of how they were drawn."""

from __future__ import annotations

import io
import json
import struct
import zlib
from contextlib import suppress

import pytest
from PIL import Image

from serve_app import images, metadata
from serve_app.metadata import PictureParameters
from serve_app.request import GenerationRequest, ImageFormat, OutputOptions
from serve_app.result import Pixels

FLAT = Pixels(64, 48, bytes((200, 30, 30)) * (64 * 48))
SETTINGS = "Steps: 4, Sampler: Euler, Schedule type: Automatic, CFG scale: 7.5, Seed: 0, Size: 64x48"


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


def parameters(asked: GenerationRequest) -> PictureParameters:
    return metadata.picture_parameters(asked, index=0, model="m", scheduler_name="euler")


def test_infotext() -> None:
    text = metadata.infotext(
        request(negative_prompt="blurry"), index=1, model="a/b, c", scheduler_name="euler"
    )
    assert text == (
        f'a fox\nNegative prompt: blurry\n{SETTINGS}, Model hash: {metadata.model_hash("a/b, c")}, Model: "a/b, c"'
    )
    karras = metadata.infotext(request(), index=0, model="m", scheduler_name="dpmpp_2m_karras")
    assert "Negative prompt" not in karras
    assert "Sampler: DPM++ 2M, Schedule type: Karras, " in karras


def test_details_hold_all_that_the_picture_depends_on() -> None:
    assert json.loads(parameters(request("füchse", "blurry")).details) == {
        "prompt": "füchse",
        "negative_prompt": "blurry",
        "width": 64,
        "height": 48,
        "num_inference_steps": 4,
        "guidance_scale": 7.5,
        "seed": 2**32 - 1,
        "scheduler": "euler",
        "model": "m",
        "format": "png",
        "quality": 90,
    }


@pytest.mark.parametrize("kind", ImageFormat)
@pytest.mark.parametrize(
    "prompt", ["a fox", "two\nlines, and: more", "füchse 狐 🦊", "x" * 10_000, "狐" * 10_000]
)
def test_parameters_are_read_back(kind: ImageFormat, prompt: str) -> None:
    written = parameters(request(prompt))
    assert metadata.read(images.encode(FLAT, OutputOptions(kind), written)) == written


def test_pillow_alone_reads_them() -> None:
    written = PictureParameters("a fox\nSteps: 4", '{"seed":1}')
    png = Image.open(io.BytesIO(images.encode(FLAT, OutputOptions(), written)))
    assert (png.info["parameters"], png.info["imagine"]) == ("a fox\nSteps: 4", '{"seed":1}')
    jpeg = Image.open(io.BytesIO(images.encode(FLAT, OutputOptions(ImageFormat.JPEG), written)))
    assert jpeg.getexif()[0x010E] == '{"seed":1}'
    assert jpeg.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + "a fox\nSteps: 4".encode("utf-16-be")


def test_exif_keeps_the_settings_where_the_prompt_is_too_long_for_it() -> None:
    written = parameters(request("🦊" * 10_000, "🦊" * 10_000))
    said = metadata.read(images.encode(FLAT, OutputOptions(ImageFormat.JPEG), written))
    assert said == PictureParameters(written.infotext.rpartition("\n")[2], "")
    assert metadata.read(images.encode(FLAT, OutputOptions(), written)) == written


@pytest.mark.parametrize("kind", ImageFormat)
def test_no_parameters(kind: ImageFormat) -> None:
    assert metadata.read(images.encode(FLAT, OutputOptions(kind))) == PictureParameters()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(*chunks: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")


GIF = io.BytesIO()
Image.new("RGB", (8, 8)).save(GIF, "GIF")


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"nonsense",
        GIF.getvalue(),
        b"\x89PNG\r\n\x1a\n",
        _png(size=(100_000, 100_000)),
        # A few KB that unpack to 100 MB.
        _png(_chunk(b"zTXt", b"imagine\0\0" + zlib.compress(b"x" * 100_000_000))),
        b"RIFF\x10\0\0\0WEBPVP8 \0\0\0\0",
        b"\xff\xd8\xff\xe1\0\x10Exif\0\0nonsense",
    ],
    ids=["empty", "text", "gif", "cut", "huge", "bomb", "webp", "jpeg"],
)
def test_files_that_are_none_of_ours(file: bytes) -> None:
    with suppress(ValueError):
        assert metadata.read(file) == PictureParameters()


@pytest.mark.parametrize("kind", ImageFormat)
def test_cut_and_flipped_files_are_at_most_value_errors(kind: ImageFormat) -> None:
    file = images.encode(FLAT, OutputOptions(kind), parameters(request("füchse")))
    damaged = [file[:end] for end in range(0, len(file), 7)]
    damaged += [file[:at] + bytes([file[at] ^ 0xFF]) + file[at + 1 :] for at in range(0, len(file), 3)]
    for broken in damaged:
        with suppress(ValueError):
            metadata.read(broken)
