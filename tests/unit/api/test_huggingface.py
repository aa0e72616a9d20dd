"""POST / as Hugging Face's inference endpoints, alone and with their own client."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import httpx
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from starlette.exceptions import HTTPException

from serve_app import errors
from serve_app.api.huggingface import accepted_format
from serve_app.fake_service import FakeImageService
from tests.unit.api.conftest import ServedAt


@pytest.mark.parametrize("address", ["", "/models/small-sdxl"])
def test_their_client(service: FakeImageService, served_at: ServedAt, address: str) -> None:
    url = served_at(service) + address
    picture = InferenceClient(model=url).text_to_image(
        "a red star",
        negative_prompt="blue",
        width=128,
        height=64,
        num_inference_steps=3,
        guidance_scale=2.0,
        scheduler="DDIM",
        seed=7,
    )
    assert picture.size == (128, 64)
    draft = service.drafts[0]
    assert (draft.prompt, draft.negative_prompt, draft.seed) == ("a red star", "blue", 7)
    assert (draft.num_inference_steps, draft.guidance_scale, draft.scheduler_name) == (3, 2.0, "DDIM")
    assert draft.model == (address.removeprefix("/models/") or None)


async def test_their_async_client_and_a_key(service: FakeImageService, served_at: ServedAt) -> None:
    client = AsyncInferenceClient(base_url=served_at(service), api_key="unused", timeout=30)
    assert (await client.text_to_image("a red star")).size == (512, 512)


def test_refusals_are_raised_by_their_client(service: FakeImageService, served_at: ServedAt) -> None:
    client = InferenceClient(model=served_at(service))
    with pytest.raises(HfHubHTTPError, match=r"parameters\.width") as refused:
        client.text_to_image("a red star", width=10)
    assert refused.value.response.status_code == 422
    assert refused.value.request_id
    service.failure = errors.GenerationFailed("not finite")
    with pytest.raises(HfHubHTTPError, match="not finite"):
        client.text_to_image("a red star")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/jpeg", "jpeg"),
        ("image/webp, image/png;q=0.5", "webp"),
        ("text/html, image/jpeg;q=0.4, */*;q=0.1", "jpeg"),
        ("image/png;q=0, image/*", "jpeg"),
        ("IMAGE/WEBP ; Q=1", "webp"),
    ],
)
async def test_accept_picks_the_format(client: httpx.AsyncClient, accept: str, kind: str) -> None:
    assert accepted_format(accept).value == kind
    body = {"inputs": "a fox", "parameters": {"width": 64, "seed": 1}}
    response = await client.post("/", json=body, headers={"Accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == f"image/{kind}"
    assert str(Image.open(io.BytesIO(response.content)).format).lower() == kind
    assert response.headers["x-seed"] == "1"


@pytest.mark.parametrize("accept", ["application/json", "image/gif", "image/png;q=0", "*/*;q=none"])
async def test_formats_that_there_are_not(client: httpx.AsyncClient, accept: str) -> None:
    with pytest.raises(HTTPException):
        accepted_format(accept)
    response = await client.post("/", json={"inputs": "a fox"}, headers={"Accept": accept})
    assert response.status_code == 406
    assert "image/webp" in response.json()["error"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "inputs"),
        ({"inputs": ""}, "inputs"),
        ({"inputs": ["a"]}, "inputs"),
        ({"inputs": "a", "parameters": []}, "parameters"),
        ({"inputs": "a", "parameters": {"seed": -1}}, "parameters.seed"),
        ({"inputs": "a", "parameters": {"width": 100}}, "parameters.width"),
        ({"inputs": "a", "parameters": {"target_size": {"width": 64}}}, "parameters.target_size.height"),
        ({"inputs": "a", "parameters": {"scheduler": "nonsense"}}, "parameters.scheduler"),
        ({"inputs": "a", "parameters": {"guidance_scale": "7"}}, "parameters.guidance_scale"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, body: dict[str, Any], field: str) -> None:
    response = await client.post("/", json=body)
    assert response.status_code == 422
    answer = response.json()
    assert answer["field"] == field
    assert answer["error"].startswith(field)


async def test_other_models_and_unknown_fields(client: httpx.AsyncClient, service: FakeImageService) -> None:
    response = await client.post("/models/some/other", json={"inputs": "a"})
    assert (response.status_code, response.json()["field"]) == (422, "model")
    body = {
        "inputs": "a",
        "options": {"wait_for_model": True},
        "parameters": {"target_size": {"width": 64, "height": 128}},
    }
    assert (await client.post("/", json=body)).status_code == 200
    assert (service.drafts[-1].width, service.drafts[-1].height) == (64, 128)
    assert (await client.get("/")).json()["name"] == "imagine"
    assert (await asyncio.wait_for(client.post("/", content=b"{"), 5)).status_code == 400
