"""A client that leaves, or a request that takes too long, stops the drawing."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from serve_app.errors import GenerationFailed
from serve_app.fake_service import FakeImageService
from serve_app.request import RequestDraft
from serve_app.result import GenerationResult
from serve_app.settings import Settings
from tests.unit.api.conftest import ClientFor

REQUESTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/imagine?prompt=a+fox", {}, 1),
    ("POST", "/generate", {"json": {"prompt": "a fox"}}, 1),
    ("POST", "/api/text2image", {"json": {"prompt": "a fox", "number": 3}}, 3),
    ("POST", "/v1/images/generations", {"json": {"prompt": "a fox", "n": 2}}, 1),
    ("POST", "/v1/images/generations", {"json": {"prompt": "a fox", "stream": True}}, 1),
    ("POST", "/sdapi/v1/txt2img", {"json": {"prompt": "a fox", "n_iter": 3}}, 3),
    ("POST", "/", {"json": {"inputs": "a fox"}}, 1),
]


async def _until_drawing(service: FakeImageService, drafts: int) -> None:
    async with asyncio.timeout(5):
        while len(service.drafts) < drafts:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("method", "url", "options", "drafts"), REQUESTS)
async def test_leaving_stops_the_drawing(
    client: httpx.AsyncClient,
    service: FakeImageService,
    method: str,
    url: str,
    options: dict[str, Any],
    drafts: int,
) -> None:
    service.delay_s = 30.0
    task = asyncio.create_task(client.request(method, url, **options))
    await _until_drawing(service, drafts)
    await asyncio.sleep(0.02)
    # What Ray Serve does to the request's task when the client's connection closes.
    task.cancel()
    await asyncio.wait({task})
    assert sorted(service.cancelled) == sorted(draft.request_id for draft in service.drafts)
    assert service.finished == []


@pytest.mark.parametrize(("method", "url", "options", "drafts"), REQUESTS)
async def test_the_time_limit_stops_the_drawing(
    settings: Settings,
    make_client: ClientFor,
    method: str,
    url: str,
    options: dict[str, Any],
    drafts: int,
) -> None:
    service = FakeImageService(settings.model_copy(update={"request_timeout_s": 0.2}), delay_s=30.0)
    async with make_client(service) as client:
        response = await client.request(method, url, **options)
    # A stream has begun by then, so it ends with an event that says so.
    assert response.status_code == (200 if "event: error" in response.text else 504)
    assert "longer than 0.2 s" in response.text
    assert len(service.cancelled) == drafts


class _FailsOnSecondRound(FakeImageService):
    async def draw(self, draft: RequestDraft) -> GenerationResult:
        if self.drafts:
            raise GenerationFailed("This picture is not finite")
        return await super().draw(draft)


async def test_one_failed_round_stops_the_others(settings: Settings, make_client: ClientFor) -> None:
    service = _FailsOnSecondRound(settings, delay_s=30.0)
    async with make_client(service) as client:
        response = await client.post("/api/text2image", json={"prompt": "a fox", "number": 2})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "generation_failed"
    assert len(service.cancelled) == 1
