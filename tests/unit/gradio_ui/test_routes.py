"""The page's own routes, with the twin of the service behind them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from gradio_ui.client import PictureFile, ServiceError
from gradio_ui.fake_client import FakeService
from gradio_ui.routes import router
from gradio_ui.tabs import Tabs

TAB = "0123456789abcdef" * 2
ORDER = {"prompt": "a cat", "num_inference_steps": 3, "preview_every": 1, "seed": 7}


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    service = FakeService()
    yield service
    await service.aclose()


@pytest.fixture
async def tabs(service: FakeService) -> AsyncIterator[Tabs]:
    tabs = Tabs(service)
    yield tabs
    await tabs.aclose()


@pytest.fixture
async def client(service: FakeService, tabs: Tabs) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(router(service, tabs))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://page.test/studio/"
    ) as client:
        yield client


async def drawn(service: FakeService) -> str:
    body = await service.submit(ORDER)
    async with asyncio.timeout(5):
        async for event in service.events(body["id"]):
            if event.kind == "finished":
                break
    return str(body["id"])


async def test_a_picture_comes_through_and_downloads_under_a_plain_name(
    service: FakeService, client: httpx.AsyncClient
) -> None:
    job_id = await drawn(service)
    answer = await client.get(f"pictures/{job_id}/0_0.png")
    assert answer.headers["content-type"] == "image/png"
    assert "content-disposition" not in answer.headers
    answer = await client.get(f"pictures/{job_id}/0_0.png", params={"download": 'a "cat"\r\n/../7.png'})
    assert answer.headers["content-disposition"] == 'attachment; filename="a-cat-..-7.png"'
    assert (await client.get(f"pictures/{'f' * 32}/0_0.png")).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "pictures/..%2f..%2fapi/0_0.png",
        "pictures/0123456789abcdef/..%2Fx.png",
        "pictures/0123456789abcdef/0_0.svg",
        "tabs/short/events",
        "static/..%2fapp.py",
        "static/missing.css",
        "static/studio.js",
    ],
)
async def test_only_what_is_meant_has_a_path(path: str, client: httpx.AsyncClient) -> None:
    assert (await client.get(path)).status_code == 404


async def test_a_dropped_picture_is_read_and_replayed(
    service: FakeService, client: httpx.AsyncClient
) -> None:
    file = (await client.get(f"pictures/{await drawn(service)}/0_0.png")).content
    assert (await client.post("read", content=file)).json()["prompt"] == "a cat"
    again = await client.post("replay", content=file)
    assert again.content == file
    assert (again.headers["x-seed"], again.headers["x-pool"]) == ("7", "default")
    assert (await client.post("read", content=b"no picture")).json() == {}


async def test_what_cannot_be_replayed_is_refused_in_words(client: httpx.AsyncClient) -> None:
    from gradio_ui.fake_client import _png

    answer = await client.post("replay", content=_png("x", 1, (8, 8), {}))
    assert answer.status_code == 422
    assert answer.json()["text"] == "Picture: The file does not say how it was drawn."
    assert (await client.post("read", content=b"0" * 20_000_001)).status_code == 413


async def test_cancelling_and_health_tell_of_a_service_that_is_away(
    service: FakeService, tabs: Tabs, client: httpx.AsyncClient
) -> None:
    assert (await client.get("health")).json() == {"ready": True, "words": "Ready: small-sdxl on fake"}
    service.delay_s = 0.05
    drawing = await tabs.get(TAB).draw({**ORDER, "num_inference_steps": 500}, keep=False)
    service.away = True
    assert (await client.get("health")).json()["ready"] is False
    answer = await client.delete(f"tabs/{TAB}/jobs/{drawing.id}")
    assert answer.status_code == 502
    assert "does not answer" in answer.json()["text"]
    service.away = False
    assert (await client.delete(f"tabs/{TAB}/jobs/{drawing.id}")).status_code == 204
    assert service.cancelled == [drawing.id]


async def test_events_are_what_a_browser_reads(
    service: FakeService, tabs: Tabs, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradio_ui.drawings.QUIET_S", 0.05)
    job_id = await drawn(service)
    pending = [{"id": job_id, "settings": ORDER, "keep": True}]
    assert (await client.post(f"tabs/{TAB}/attach", json=pending)).json() == {"gone": []}
    answer = await client.get(f"tabs/{TAB}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in answer.text.split("\n\n") if block and not block.startswith(":")]
    assert blocks[-1] == "event: quiet\ndata: {}"
    last = json.loads(blocks[-2].removeprefix("event: drawing\ndata: "))
    assert (last["id"], last["state"]) == (job_id, "finished")
    assert (await client.post(f"tabs/{TAB}/attach", json=[{"id": "../x"}])).status_code == 422


async def test_a_browser_hears_which_of_its_jobs_the_service_has_forgotten(
    service: FakeService, client: httpx.AsyncClient
) -> None:
    known, forgotten = await drawn(service), "f" * 32
    pending = [{"id": job_id, "settings": ORDER} for job_id in (forgotten, known)]
    answer = await client.post(f"tabs/{TAB}/attach", json=pending)
    assert answer.json() == {"gone": [forgotten]}
    service.away = True
    assert (await client.post(f"tabs/{TAB}/attach", json=pending[:1])).status_code == 502


async def test_a_proxy_that_knows_no_path_is_no_picture_that_is_not_kept(
    service: FakeService, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(job_id: str, name: str) -> PictureFile:
        raise ServiceError("it answered 404 Not Found", status=404)

    monkeypatch.setattr(service, "picture", nobody)
    assert (await client.get(f"pictures/{'f' * 32}/0_0.png")).status_code == 502
