"""Clients that send or read by drops: they hold nobody else up, and what they keep of the service is bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

from serve_app.fake_service import FakeImageService
from serve_app.settings import JobsSettings, Settings, StoreSettings
from tests.unit.api.conftest import client_of, own_app

READERS = 20
EVENT_BUFFER = 8


@pytest.fixture
def service(tmp_path: Path) -> FakeImageService:
    return FakeImageService(
        Settings(
            store=StoreSettings(url=str(tmp_path / "pictures")),
            jobs=JobsSettings(event_buffer=EVENT_BUFFER),
            body_timeout_s=0.2,
        )
    )


@pytest.fixture
def app(service: FakeImageService) -> FastAPI:
    return own_app(service)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


async def _drops() -> AsyncIterator[bytes]:
    yield b'{"prompt":'
    await asyncio.sleep(30.0)
    yield b'"a fox"}'


@pytest.mark.parametrize(
    "route",
    ["/generate", "/api/text2image", "/v1/images/generations", "/sdapi/v1/txt2img", "/", "/api/jobs"],
)
async def test_a_body_that_comes_by_drops_is_given_up(
    client: httpx.AsyncClient, service: FakeImageService, route: str
) -> None:
    answer = await client.post(route, content=_drops())
    assert answer.status_code == 408, answer.text
    assert "did not arrive within 0.2 s" in answer.text
    assert service.drafts == []


async def test_only_the_body_has_that_bound(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.delay_s = 0.1
    body = {"prompt": "a fox", "stream": True, "num_inference_steps": 5}
    answer = await client.post("/v1/images/generations", json=body)
    assert "image_generation.completed" in answer.text
    assert (await client.get("/imagine", params={"prompt": "a fox"})).status_code == 200


class SlowReader:
    """A client that takes the headers and then nothing until `goes_on`."""

    def __init__(self, app: FastAPI, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        self.goes_on = asyncio.Event()
        self.stands = asyncio.Event()
        self.read = b""
        content = json.dumps(body).encode() if body is not None else b""
        self._asked = [{"type": "http.request", "body": content, "more_body": False}]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1:5000"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 5000),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._asked:
            return self._asked.pop()
        await asyncio.Event().wait()  # it stays
        raise AssertionError("unreachable")

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and message.get("body"):
            self.stands.set()
            await self.goes_on.wait()
            self.read += message["body"]


async def test_drawings_do_not_wait_for_who_does_not_read(
    app: FastAPI, client: httpx.AsyncClient, service: FakeImageService
) -> None:
    service.delay_s = 0.01
    body = {"prompt": "a fox", "stream": True, "partial_images": 3, "num_inference_steps": 20}
    readers = [SlowReader(app, "POST", "/v1/images/generations", body) for _ in range(READERS)]
    async with asyncio.timeout(30.0):
        for reader in readers:
            await reader.stands.wait()
        while len(service.finished) < READERS:
            await asyncio.sleep(0.01)
        assert (await client.get("/imagine", params={"prompt": "a fox"})).status_code == 200
        for reader in readers:
            reader.goes_on.set()
            await reader.task
    for reader in readers:
        assert reader.read.count(b"event: image_generation.partial_image") == 3
        assert reader.read.count(b"event: image_generation.completed") == 1


async def test_of_a_job_they_miss_what_is_no_longer_kept(
    app: FastAPI, client: httpx.AsyncClient, service: FakeImageService
) -> None:
    service.delay_s = 0.01
    body = {"prompt": "a fox", "num_inference_steps": 60, "preview_every": 1}
    job = (await client.post("/api/jobs", json=body)).json()
    readers = [SlowReader(app, "GET", f"/api/jobs/{job['id']}/events") for _ in range(READERS)]
    async with asyncio.timeout(30.0):
        for reader in readers:
            await reader.stands.wait()
        while (await client.get(f"/api/jobs/{job['id']}")).json()["state"] != "finished":
            await asyncio.sleep(0.02)
        for reader in readers:
            reader.goes_on.set()
            await reader.task
    for reader in readers:
        assert reader.read.count(b"event: finished") == 1
        # What it stood at, what its own stretch still held, and the newest: never all 60 steps.
        assert reader.read.count(b"\nevent: ") <= 2 * EVENT_BUFFER + 2
