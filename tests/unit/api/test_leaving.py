"""on_disconnect, and the headers that every answer with pictures carries."""

from __future__ import annotations

import asyncio
import io
import uuid
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app.fake_service import FakeImageService
from serve_app.settings import PoolSettings, Settings
from tests.unit.api.conftest import ClientFor, ServedAt

SMALL = {"prompt": "a fox", "seed": 3}
ROUTES: list[tuple[str, str]] = [
    ("GET", "/imagine"),
    ("POST", "/generate"),
    ("POST", "/api/text2image"),
    ("POST", "/v1/images/generations"),
    ("POST", "/sdapi/v1/txt2img"),
    ("POST", "/"),
]
STREAM = {"stream": True}


def _options(method: str, url: str, fields: dict[str, Any]) -> dict[str, Any]:
    if url == "/":
        prompt, seed = fields.pop("prompt"), fields.pop("seed")
        fields = {"inputs": prompt, "parameters": {"seed": seed}, **fields}
    return {"params": fields} if method == "GET" else {"json": fields}


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("method", "url"), ROUTES)
async def test_every_answer_tells_how_it_was_drawn(
    settings: Settings, make_client: ClientFor, method: str, url: str
) -> None:
    priced = settings.model_copy(update={"pools": [PoolSettings(price_per_hour=9.0)]})
    async with make_client(FakeImageService(priced)) as client:
        response = await client.request(method, url, **_options(method, url, dict(SMALL)))
    assert response.status_code == 200, response.text
    headers = response.headers
    uuid.UUID(headers["x-request-id"])
    assert (headers["x-seed"], headers["x-pool"], headers["x-model"]) == ("3", "default", "small-sdxl")
    # Four steps of a second each, as the fake counts them, at 9 an hour.
    assert float(headers["x-cost"]) == pytest.approx(0.01)
    stages = [stage.split(";dur=")[0] for stage in headers["server-timing"].split(", ")]
    stored = ["store"] if url == "/api/text2image" else []
    assert stages == ["queue", "prepare", "denoise", "decode", "encode", *stored]


async def _leave_while_drawing(
    client: httpx.AsyncClient, service: FakeImageService, method: str, url: str, headers: Any, options: Any
) -> None:
    leaving = asyncio.create_task(client.request(method, url, headers=headers, **options))
    await _until(lambda: service.drafts)
    await asyncio.sleep(0.1)
    leaving.cancel()
    await asyncio.wait({leaving})


@pytest.mark.parametrize(
    ("method", "url", "fields"),
    [*((method, url, {}) for method, url in ROUTES), ("POST", "/v1/images/generations", STREAM)],
)
async def test_a_drawing_may_go_on_and_be_kept(
    service: FakeImageService, served_at: ServedAt, method: str, url: str, fields: dict[str, Any]
) -> None:
    service.delay_s = 0.2
    picture_id = str(uuid.uuid4())
    options = _options(method, url, {**SMALL, **fields, "on_disconnect": "finish"})
    async with httpx.AsyncClient(base_url=served_at(service), trust_env=False) as client:
        await _leave_while_drawing(client, service, method, url, {"X-Request-Id": picture_id}, options)
        async with asyncio.timeout(10):
            while (answer := await client.get(f"/images/{picture_id}/0_0.png")).status_code == 404:
                await asyncio.sleep(0.05)
    assert Image.open(io.BytesIO(answer.content)).format == "PNG"
    assert service.cancelled == []


async def test_leaving_a_stream_stops_the_drawing(service: FakeImageService, served_at: ServedAt) -> None:
    service.delay_s = 0.2
    async with httpx.AsyncClient(base_url=served_at(service), trust_env=False) as client:
        await _leave_while_drawing(
            client, service, "POST", "/v1/images/generations", {}, {"json": {**SMALL, **STREAM}}
        )
        await _until(lambda: service.cancelled)
    assert service.finished == []
    assert await service.store.list() == []


@pytest.mark.parametrize(("method", "url"), ROUTES)
async def test_a_cancelled_request_is_kept_too(
    client: httpx.AsyncClient, service: FakeImageService, method: str, url: str
) -> None:
    # Without a server between, cancelling the client cancels the route, as Ray Serve does.
    service.delay_s = 0.1
    picture_id = str(uuid.uuid4())
    options = _options(method, url, {**SMALL, "on_disconnect": "finish"})
    await _leave_while_drawing(client, service, method, url, {"X-Request-Id": picture_id}, options)
    async with asyncio.timeout(10):
        while not await service.store.holds(picture_id):
            await asyncio.sleep(0.02)
    assert service.cancelled == []


async def test_finishing_replaces_no_picture(client: httpx.AsyncClient) -> None:
    stored = (await client.post("/api/text2image", json={**SMALL, "size": "64x64"})).json()["id"]
    body = {**SMALL, "on_disconnect": "finish"}
    response = await client.post("/generate", json=body, headers={"X-Request-Id": stored})
    assert response.status_code == 422
    assert response.json()["error"]["field"] == "X-Request-Id"


async def test_an_id_in_capitals_is_the_same_id(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.delay_s = 0.1
    picture_id = str(uuid.uuid4())
    options = {"json": {**SMALL, "on_disconnect": "finish"}}
    headers = {"X-Request-Id": picture_id.upper()}
    await _leave_while_drawing(client, service, "POST", "/generate", headers, options)
    async with asyncio.timeout(10):
        while (await client.get(f"/images/{picture_id}/0_0.png")).status_code == 404:
            await asyncio.sleep(0.02)


async def test_an_id_that_can_be_guessed_keeps_nothing_under_it(
    client: httpx.AsyncClient, service: FakeImageService
) -> None:
    service.delay_s = 0.05
    body = {**SMALL, "on_disconnect": "finish"}
    task = asyncio.create_task(client.post("/generate", json=body, headers={"X-Request-Id": "trace-1"}))
    await _until(lambda: service.drafts)
    task.cancel()
    await asyncio.wait({task})
    await _until(lambda: service.finished)
    async with asyncio.timeout(10):
        while not (kept := await service.store.list()):
            await asyncio.sleep(0.02)
    assert uuid.UUID(kept[0].path.split("/")[0]).version == 4


@pytest.mark.parametrize("value", ["stay", "", 1])
@pytest.mark.parametrize(("method", "url"), ROUTES)
async def test_other_wishes_are_refused(client: httpx.AsyncClient, method: str, url: str, value: Any) -> None:
    response = await client.request(method, url, **_options(method, url, {**SMALL, "on_disconnect": value}))
    assert response.status_code in (400, 422)
    assert "on_disconnect: " in response.text


@pytest.mark.parametrize(("method", "url"), [route for route in ROUTES if route[0] == "POST"])
async def test_null_is_absent(client: httpx.AsyncClient, method: str, url: str) -> None:
    response = await client.request(method, url, **_options(method, url, {**SMALL, "on_disconnect": None}))
    assert response.status_code == 200, response.text
