"""POST /api/replay."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app import images
from serve_app.fake_service import FakeImageService
from serve_app.metadata import PictureParameters
from serve_app.request import ImageFormat, OutputOptions
from serve_app.result import Pixels
from serve_app.settings import Settings
from tests.unit.api.conftest import ClientFor

ROUTE = "/api/replay"
WHOLE = {
    "prompt": "a fox",
    "negative_prompt": "",
    "width": 64,
    "height": 64,
    "num_inference_steps": 4,
    "guidance_scale": 0.0,
    "seed": 7,
    "scheduler": "euler",
    "model": "small-sdxl",
    "format": "png",
    "quality": 90,
}


def _picture(details: str, kind: ImageFormat = ImageFormat.PNG) -> bytes:
    pixels = Pixels(64, 64, bytes(64 * 64 * 3))
    return images.encode(pixels, OutputOptions(kind), PictureParameters("text", details))


@pytest.mark.parametrize("kind", ImageFormat)
async def test_the_same_file_comes_back(client: httpx.AsyncClient, kind: ImageFormat) -> None:
    asked: dict[str, str | int | float] = {
        "prompt": "a füchse, 狐",
        "negative_prompt": "blurry",
        "width": 128,
        "height": 64,
        "num_inference_steps": 9,
        "guidance_scale": 2.5,
        "scheduler": "DDIM",
        "format": kind.value,
        "quality": 71,
    }
    first = await client.get("/imagine", params=asked)
    raw = await client.post(ROUTE, content=first.content)
    assert raw.status_code == 200, raw.text
    assert raw.content == first.content
    assert raw.headers["content-type"] == f"image/{kind.value}"
    assert raw.headers["x-seed"] == first.headers["x-seed"]
    form = await client.post(ROUTE, files={"picture": ("fox.png", first.content)})
    assert form.content == first.content


async def test_one_of_several_pictures_is_drawn_again_alone(client: httpx.AsyncClient) -> None:
    body = {"prompt": "a fox", "n": 3, "size": "64x64", "response_format": "url"}
    answer = (await client.post("/v1/images/generations", json=body)).json()
    third = (await client.get(answer["data"][2]["url"])).content
    replayed = await client.post(ROUTE, content=third)
    assert replayed.content == third
    assert int(replayed.headers["x-seed"]) == answer["data"][2]["seed"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"prompt": "x" * 10_001}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"width": 10**9}, "width"),
        ({"width": 100}, "width"),
        ({"num_inference_steps": 10_000}, "num_inference_steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"model": "another"}, "model"),
        ({"scheduler": "nonsense"}, "scheduler"),
        ({"format": "gif"}, "format"),
    ],
)
async def test_what_a_file_says_is_not_trusted(
    client: httpx.AsyncClient, service: FakeImageService, change: dict[str, Any], field: str
) -> None:
    response = await client.post(ROUTE, content=_picture(json.dumps({**WHOLE, **change})))
    assert response.status_code == 422
    assert response.json()["error"]["field"] == f"picture.{field}"
    assert service.finished == []


@pytest.mark.parametrize(
    "details",
    ["{", "[]", "null", "[" * 100_000, "1" * 10_000, '{"prompt": "\\ud800"}', "x" * 900_000],
)
async def test_damaged_details(client: httpx.AsyncClient, details: str) -> None:
    response = await client.post(ROUTE, content=_picture(details))
    assert response.status_code == 422, response.text
    assert response.json()["error"]["field"].startswith("picture")


async def test_files_without_parameters(client: httpx.AsyncClient) -> None:
    plain = io.BytesIO()
    Image.new("RGB", (8, 8)).save(plain, "PNG")
    for content, words in (
        (plain.getvalue(), "does not say"),
        (b"nonsense", "not a readable"),
        (b"", "empty"),
    ):
        response = await client.post(ROUTE, content=content)
        assert response.status_code == 422
        assert words in response.json()["error"]["message"]
        assert response.json()["error"]["field"] == "picture"


async def test_forms_without_a_file(client: httpx.AsyncClient) -> None:
    wrong = await client.post(ROUTE, files={"file": ("a.png", b"x")})
    text = await client.post(ROUTE, files={"picture": (None, "text")})
    assert (wrong.status_code, text.status_code) == (422, 422)
    boundary = await client.post(
        ROUTE, content=b"nonsense", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    none = await client.post(ROUTE, content=b"nonsense", headers={"Content-Type": "multipart/form-data"})
    many = await client.post(ROUTE, files=[("picture", (f"{i}.png", b"x")) for i in range(5)])
    assert {boundary.status_code, none.status_code, many.status_code} <= {400, 422}


async def test_uploads_have_a_limit_of_their_own(settings: Settings, make_client: ClientFor) -> None:
    picture = _picture(json.dumps(WHOLE))
    small = settings.model_copy(update={"max_body_bytes": 100})
    async with make_client(FakeImageService(small)) as client:
        assert (await client.post(ROUTE, content=picture)).status_code == 200
        assert (await client.post("/generate", content=b" " * 101)).status_code == 413
        too_large = await client.post(ROUTE, content=b"x" * 20_000_001)
        form = await client.post(ROUTE, files={"picture": ("a.png", b"x" * 20_000_001)})
    assert (too_large.status_code, form.status_code) == (413, 413)
    assert too_large.json()["error"]["code"] == "content_too_large"


async def test_behind_a_prefix_too(client: httpx.AsyncClient) -> None:
    picture = _picture(json.dumps(WHOLE)) + b"x" * 1_000_000
    response = await client.post(ROUTE, content=picture, headers={"X-Forwarded-Prefix": "/serve"})
    assert response.status_code == 200
