"""Events of a job as a client reads them: from the first to the last, again from the middle, and with previews."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.api.sse import HEARTBEAT
from serve_app.fake_service import FakeImageService
from serve_app.request import RequestDraft
from serve_app.result import GenerationResult, StepProgress
from serve_app.settings import JobsSettings, Settings, StoreSettings
from tests.unit.api.conftest import ClientFor
from tests.unit.api.ordering import end_of, post_job


def _parse(text: str) -> list[dict[str, Any]]:
    events = []
    for block in text.split("\n\n"):
        if block and not block.startswith(":"):
            event = dict(line.split(": ", 1) for line in block.split("\n"))
            events.append({**event, "id": int(event["id"]), "data": json.loads(event["data"])})
    return events


async def test_events_from_first_to_last(client: httpx.AsyncClient, service: FakeImageService) -> None:
    job_id = (await post_job(client)).json()["id"]
    answer = await client.get(f"/api/jobs/{job_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert "no-cache" in answer.headers["cache-control"]
    events = _parse(answer.text)
    assert [event["event"] for event in events] == ["queued", "starting", *["step"] * 5, "finished"]
    assert [event["id"] for event in events] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert events[3]["data"] == {
        "id": job_id,
        "state": "running",
        "position": None,
        "step": 1,
        "num_inference_steps": 4,
        "progress": 0.25,
        "eta_s": events[3]["data"]["eta_s"],
        "message": None,
        "image_index": 0,
    }
    assert events[-1]["data"] == await end_of(client, job_id)


async def test_a_reader_comes_back_with_the_last_event_id(client: httpx.AsyncClient) -> None:
    job_id = (await post_job(client)).json()["id"]
    await end_of(client, job_id)

    async def numbers(last_event_id: str) -> list[int]:
        answer = await client.get(f"/api/jobs/{job_id}/events", headers={"Last-Event-ID": last_event_id})
        assert answer.status_code == 200
        return [event["id"] for event in _parse(answer.text)]

    assert await numbers("4") == [5, 6, 7, 8]
    assert await numbers("0") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert await numbers("999") == [8]
    seen = await client.get(f"/api/jobs/{job_id}/events", headers={"Last-Event-ID": "8"})
    assert seen.status_code == 204
    odd = await client.get(f"/api/jobs/{job_id}/events", headers={"Last-Event-ID": "x"})
    assert (odd.status_code, odd.json()["error"]["field"]) == (422, "Last-Event-ID")


async def test_a_reader_who_missed_too_much_begins_with_the_state_now(
    tmp_path: Path, make_client: ClientFor
) -> None:
    settings = Settings(store=StoreSettings(url=str(tmp_path)), jobs=JobsSettings(event_buffer=2))
    async with make_client(FakeImageService(settings)) as client:
        job_id = (await post_job(client)).json()["id"]
        await end_of(client, job_id)
        for last_event_id, expected in (("2", [8]), ("6", [7, 8])):
            answer = await client.get(f"/api/jobs/{job_id}/events", headers={"Last-Event-ID": last_event_id})
            assert [event["id"] for event in _parse(answer.text)] == expected


async def test_silence_is_filled_with_heartbeats(tmp_path: Path, make_client: ClientFor) -> None:
    settings = Settings(store=StoreSettings(url=str(tmp_path)), jobs=JobsSettings(heartbeat_s=0.02))
    async with make_client(FakeImageService(settings, delay_s=0.1)) as client:
        job_id = (await post_job(client, num_inference_steps=2)).json()["id"]
        answer = await client.get(f"/api/jobs/{job_id}/events")
    assert 4 <= answer.content.count(HEARTBEAT) <= 12
    assert [event["event"] for event in _parse(answer.text)] == [
        "queued",
        "starting",
        "step",
        "step",
        "step",
        "finished",
    ]


async def test_previews_come_as_base64(
    client: httpx.AsyncClient, service: FakeImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = service.stream

    async def with_previews(
        draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        async for event in plain(draft, progress=progress):
            if isinstance(event, StepProgress) and draft.preview_every and event.step:
                event = replace(event, preview=f"png {event.step}".encode())
            yield event

    monkeypatch.setattr(service, "stream", with_previews)
    service.delay_s = 0.05
    job_id = (await post_job(client, preview_every=1)).json()["id"]
    events = _parse((await client.get(f"/api/jobs/{job_id}/events")).text)
    previews = [event["data"].get("preview") for event in events]
    expected = [base64.b64encode(f"png {step}".encode()).decode() for step in (1, 2, 3, 4)]
    assert previews == [None, None, None, *expected, None]


async def test_leaving_the_events_does_not_stop_the_job(
    client: httpx.AsyncClient, service: FakeImageService
) -> None:
    service.delay_s = 0.05
    job_id = (await post_job(client)).json()["id"]
    reader = asyncio.create_task(client.get(f"/api/jobs/{job_id}/events"))
    await asyncio.sleep(0.05)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert (await end_of(client, job_id))["state"] == "finished"
    assert service.cancelled == []
