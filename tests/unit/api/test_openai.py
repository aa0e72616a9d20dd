"""/v1/images/generations and /v1/models, without a client between."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app import errors
from serve_app.api.openai.stream import preview_every
from serve_app.fake_service import FakeImageService
from serve_app.settings import Settings
from tests.unit.api.conftest import ClientFor

ROUTE = "/v1/images/generations"
SMALL = {"prompt": "a red star", "size": "64x64"}


async def test_pictures_in_base64(client: httpx.AsyncClient, service: FakeImageService) -> None:
    body = {
        "model": "small-sdxl",
        "prompt": "a red star",
        "n": 2,
        "size": "128x64",
        "response_format": "b64_json",
    }
    response = await client.post(ROUTE, json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["size"] == "128x64"
    assert [picture["seed"] for picture in answer["data"]] == [
        service.drafts[0].seed,
        service.drafts[0].seed + 1,
    ]
    for picture in answer["data"]:
        assert "url" not in picture
        file = base64.b64decode(picture["b64_json"], validate=True)
        assert Image.open(io.BytesIO(file)).size == (128, 64)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_urls_lead_to_the_pictures(client: httpx.AsyncClient, output_format: str) -> None:
    body = {
        **SMALL,
        "n": 2,
        "response_format": "url",
        "output_format": output_format,
        "output_compression": 0,
    }
    response = await client.post(ROUTE, json=body)
    answer = response.json()
    assert answer["output_format"] == output_format
    assert "store;dur=" in response.headers["server-timing"]
    for picture in answer["data"]:
        assert "b64_json" not in picture
        file = await client.get(picture["url"])
        assert file.headers["content-type"] == f"image/{output_format}"
        assert str(Image.open(io.BytesIO(file.content)).format).lower() == output_format


async def test_every_option_reaches_the_service(client: httpx.AsyncClient, service: FakeImageService) -> None:
    options = {
        "seed": 0,
        "num_inference_steps": 7,
        "guidance_scale": 5.5,
        "negative_prompt": "blurry",
        "scheduler": "DDIM",
        "pool": "default",
        "output_format": "jpeg",
        "output_compression": 55,
        "quality": "hd",
        "style": "vivid",
        "background": "auto",
        "moderation": "low",
        "user": "me",
    }
    response = await client.post(ROUTE, json={**SMALL, **options})
    assert response.status_code == 200, response.text
    draft = service.drafts[0]
    assert (draft.seed, draft.num_inference_steps, draft.guidance_scale) == (0, 7, 5.5)
    assert (draft.negative_prompt, draft.scheduler_name, draft.pool) == ("blurry", "DDIM", "default")
    assert (draft.output.format.value, draft.output.quality) == ("jpeg", 55)
    assert response.json()["quality"] == "hd"
    assert response.headers["x-seed"] == "0"


async def test_auto_and_null_leave_it_to_the_model(
    client: httpx.AsyncClient, service: FakeImageService
) -> None:
    body = {"prompt": "a fox", "size": "auto", "n": None, "model": None, "stream": None, "user": None}
    assert (await client.post(ROUTE, json=body)).json()["size"] == "512x512"
    assert (service.drafts[0].width, service.drafts[0].num_images) == (None, 1)


@pytest.mark.parametrize(
    ("change", "status", "param", "code"),
    [
        ({"prompt": ""}, 400, "prompt", "invalid_request"),
        ({"prompt": "x" * 10_001}, 400, "prompt", "invalid_request"),
        ({"prompt": None}, 400, "prompt", "invalid_request"),
        ({"n": 0}, 400, "n", "invalid_request"),
        ({"n": 11}, 400, "n", "invalid_request"),
        ({"n": "2"}, 400, "n", "invalid_request"),
        ({"size": "big"}, 400, "size", "invalid_request"),
        ({"size": "99999x99999"}, 400, "size", "invalid_request"),
        ({"size": "100x100"}, 400, "size", "unsupported"),
        ({"size": "4096x4096"}, 400, "size", "unsupported"),
        ({"seed": -1}, 400, "seed", "invalid_request"),
        ({"output_compression": 101}, 400, "output_compression", "invalid_request"),
        ({"output_format": "gif"}, 400, "output_format", "invalid_request"),
        ({"background": "transparent"}, 400, "background", "invalid_request"),
        ({"partial_images": 4, "stream": True}, 400, "partial_images", "invalid_request"),
        ({"partial_images": 1}, 400, "partial_images", "invalid_request"),
        ({"stream": True, "n": 2}, 400, "stream", "invalid_request"),
        ({"stream": True, "response_format": "url"}, 400, "stream", "invalid_request"),
        ({"scheduler": "nonsense"}, 400, "scheduler", "unsupported"),
        ({"pool": "nonsense"}, 400, "pool", "unknown_model"),
        ({"steps": 4}, 400, "steps", "unknown_parameter"),
        ({"model": "dall-e-3"}, 404, "model", "model_not_found"),
        ({"model": "dall-e-3", "stream": True}, 404, "model", "model_not_found"),
    ],
)
async def test_refusals(
    client: httpx.AsyncClient, change: dict[str, Any], status: int, param: str, code: str
) -> None:
    response = await client.post(ROUTE, json={**SMALL, **change})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(param)
    assert response.headers["x-should-retry"] == "false"


async def test_malformed_json(client: httpx.AsyncClient) -> None:
    response = await client.post(ROUTE, content=b"{")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "malformed"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "retry"),
    [
        (errors.QueueFull("full", 2.1), 503, "true"),
        (errors.PoolUnavailable("gone"), 503, "true"),
        (errors.GenerationFailed("not finite"), 500, "false"),
        (errors.DeadlineExceeded("late"), 504, "false"),
    ],
)
async def test_what_a_client_reads_to_decide_on_a_retry(
    settings: Settings,
    make_client: ClientFor,
    failure: errors.ImagineError,
    status: int,
    retry: str,
    stream: bool,
) -> None:
    class Refuses(FakeImageService):
        def stream(self, draft: Any, *, progress: bool = False) -> Any:
            raise failure

    async with make_client(Refuses(settings)) as client:
        response = await client.post(ROUTE, json={**SMALL, "stream": stream})
    assert response.status_code == status
    assert response.headers["x-should-retry"] == retry
    assert response.headers["x-request-id"]
    assert response.json()["error"]["type"] == "server_error"
    if isinstance(failure, errors.Overloaded):
        assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("3", "3000")


def _events(text: str) -> list[tuple[str, dict[str, Any]]]:
    events = []
    for block in text.strip().split("\n\n"):
        kind, data = block.split("\n")
        events.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


@pytest.mark.parametrize("partial_images", [0, 1, 2, 3])
async def test_stream(client: httpx.AsyncClient, partial_images: int) -> None:
    body = {**SMALL, "stream": True, "partial_images": partial_images, "num_inference_steps": 8, "seed": 5}
    response = await client.post(ROUTE, json=body)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-seed"] == "5"
    *previews, (kind, last) = _events(response.text)
    assert [data["partial_image_index"] for _, data in previews] == list(range(partial_images))
    for name, data in previews:
        assert name == data["type"] == "image_generation.partial_image"
        preview = Image.open(io.BytesIO(base64.b64decode(data["b64_json"])))
        assert f"{preview.width}x{preview.height}" == data["size"]
    assert kind == last["type"] == "image_generation.completed"
    assert (last["size"], last["seed"], last["pool"]) == ("64x64", 5, "default")
    assert Image.open(io.BytesIO(base64.b64decode(last["b64_json"]))).size == (64, 64)
    assert set(last["usage"]) == {"input_tokens", "input_tokens_details", "output_tokens", "total_tokens"}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 30, 150])
@pytest.mark.parametrize("partial_images", [0, 1, 2, 3])
def test_previews_are_spread_and_never_too_many(steps: int, partial_images: int) -> None:
    every = preview_every(steps, partial_images)
    previews = [step for step in range(1, steps) if every and step % every == 0]
    assert len(previews) <= partial_images
    if steps % (partial_images + 1) == 0:
        assert len(previews) == partial_images


async def test_a_failure_on_the_way_is_an_event(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.failure = errors.GenerationFailed("not finite")
    response = await client.post(ROUTE, json={**SMALL, "stream": True})
    ((kind, data),) = _events(response.text)
    assert kind == "error"
    assert data["error"]["code"] == "generation_failed"


async def test_silence_is_broken_by_comments(
    client: httpx.AsyncClient, service: FakeImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.api.openai.stream.KEEP_ALIVE_S", 0.02)
    service.delay_s = 0.05
    response = await client.post(ROUTE, json={**SMALL, "stream": True})
    assert ": still drawing\n\n" in response.text
    assert response.text.count("event: image_generation.completed") == 1


async def test_models_and_aliases(settings: Settings, make_client: ClientFor) -> None:
    aliased = settings.model_copy(update={"openai_model_aliases": {"dall-e-3": "small-sdxl"}})
    service = FakeImageService(aliased)
    async with make_client(service) as client:
        listed = (await client.get("/v1/models")).json()
        assert listed["object"] == "list"
        assert [entry["id"] for entry in listed["data"]] == ["small-sdxl", "dall-e-3"]
        assert (await client.get("/v1/models/dall-e-3")).json()["object"] == "model"
        missing = await client.get("/v1/models/some/other")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
        assert (await client.post(ROUTE, json={**SMALL, "model": "dall-e-3"})).status_code == 200
    assert service.drafts[0].model == "small-sdxl"


def test_an_alias_must_mean_a_served_model() -> None:
    with pytest.raises(ValueError, match="served are small-sdxl"):
        Settings(openai_model_aliases={"dall-e-3": "sdxl"})
