"""progress, interrupt, skip and tasks: each caller's own."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app.fake_service import FakeImageService
from serve_app.request import RequestDraft
from serve_app.settings import Settings
from tests.unit.api.conftest import ClientFor

ME, OTHER = {"Authorization": "Bearer me"}, {"Authorization": "Bearer other"}
IDLE = {
    "skipped": False,
    "interrupted": False,
    "stopping_generation": False,
    "job": "",
    "job_count": 0,
    "job_timestamp": "0",
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}
BODY = {"prompt": "a fox", "width": 64, "height": 64, "steps": 10}


@asynccontextmanager
async def drawing(
    client: httpx.AsyncClient, headers: dict[str, str], **fields: Any
) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """A request under way, seen in its caller's progress."""
    task = asyncio.create_task(client.post("/sdapi/v1/txt2img", json={**BODY, **fields}, headers=headers))
    async with asyncio.timeout(10):
        while (await state(client, headers))["job_count"] == 0:
            await asyncio.sleep(0.01)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def progress(client: httpx.AsyncClient, headers: dict[str, str], **query: Any) -> dict[str, Any]:
    response = await client.get("/sdapi/v1/progress", headers=headers, params=query)
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def state(client: httpx.AsyncClient, headers: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = (await progress(client, headers))["state"]
    return found


async def test_idle(client: httpx.AsyncClient) -> None:
    assert await progress(client, ME) == {
        "progress": 0.0,
        "eta_relative": 0.0,
        "state": IDLE,
        "current_image": None,
        "textinfo": None,
    }


async def test_a_drawing_whose_pool_is_started_for_it_says_so(
    client: httpx.AsyncClient, service: FakeImageService
) -> None:
    service.held_s = 5.0
    async with drawing(client, ME, force_task_id="t"):
        async with asyncio.timeout(5):
            while (await progress(client, ME))["textinfo"] != "Waiting: an accelerator is being started":
                await asyncio.sleep(0.05)
        task = await client.post("/internal/progress", headers=ME, json={"id_task": "t"})
        assert (task.json()["queued"], task.json()["active"]) == (True, False)


async def test_progress_grows_and_ends_idle(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.delay_s = 0.1
    seen: list[dict[str, Any]] = []
    async with drawing(client, ME, n_iter=2) as task:
        while not task.done():
            seen.append(await progress(client, ME))
            await asyncio.sleep(0.05)
        assert task.result().status_code == 200
        # Asked for right after the answer: idle, not "almost done".
        assert await state(client, ME) == IDLE
    running = [one for one in seen if one["state"]["job_count"]]
    fractions = [one["progress"] for one in running]
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.5 < fractions[-1]
    # Idle before it began and, by a moment, before its answer was read; never in between.
    first = seen.index(running[0])
    assert seen[first : first + len(running)] == running
    assert all(one["progress"] == 0.0 for one in seen if not one["state"]["job_count"])
    assert {one["state"]["job_count"] for one in running} == {2}
    assert {one["state"]["sampling_steps"] for one in running} == {10}
    assert any(one["eta_relative"] > 0 for one in running)
    preview = next(one["current_image"] for one in running if one["current_image"])
    assert Image.open(io.BytesIO(base64.b64decode(preview))).format == "PNG"


async def test_previews_may_be_left_out(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.delay_s = 0.1
    async with drawing(client, ME):
        async with asyncio.timeout(5):
            while (await progress(client, ME))["current_image"] is None:
                await asyncio.sleep(0.02)
        assert (await progress(client, ME, skip_current_image="true"))["current_image"] is None


async def test_callers_see_and_stop_only_their_own(
    client: httpx.AsyncClient, service: FakeImageService
) -> None:
    service.delay_s = 0.1
    async with drawing(client, ME) as mine, drawing(client, OTHER) as others:
        assert (await state(client, ME))["job_count"] == 1
        assert await state(client, {}) == IDLE
        response = await client.post("/sdapi/v1/interrupt", headers=ME)
        assert (response.status_code, response.json()) == (200, {})
        answer = (await mine).json()
        assert answer["images"] == []
        assert json.loads(answer["info"])["all_seeds"] == []
        assert not others.done()
        assert (await state(client, OTHER))["interrupted"] is False
        assert len((await others).json()["images"]) == 1
    assert len(service.cancelled) == 1


async def test_interrupt_keeps_what_is_finished(settings: Settings, make_client: ClientFor) -> None:
    class SecondRoundIsSlow(FakeImageService):
        async def stream(self, draft: RequestDraft, *, progress: bool = False) -> Any:
            if draft.seed != 5:
                await asyncio.sleep(30)
            async for event in super().stream(draft, progress=progress):
                yield event

    service = SecondRoundIsSlow(settings)
    async with make_client(service) as client, drawing(client, ME, n_iter=2, seed=5) as task:
        async with asyncio.timeout(5):
            while (await state(client, ME))["job_no"] == 0:
                await asyncio.sleep(0.02)
        await client.post("/sdapi/v1/interrupt", headers=ME)
        answer = (await task).json()
    assert len(answer["images"]) == 1
    assert json.loads(answer["info"])["all_seeds"] == [5]


async def test_skip_leaves_one_round_out(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.delay_s = 0.1
    async with drawing(client, ME, n_iter=3, seed=5) as task:
        response = await client.post("/sdapi/v1/skip", headers=ME)
        assert (response.status_code, response.json()) == (200, None)
        answer = (await task).json()
    assert json.loads(answer["info"])["all_seeds"] == [6, 7]
    assert len(answer["images"]) == 2


async def test_nothing_to_stop(client: httpx.AsyncClient) -> None:
    assert (await client.post("/sdapi/v1/interrupt")).json() == {}
    assert (await client.post("/sdapi/v1/skip")).json() is None


async def test_a_task_by_its_own_id(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.delay_s = 0.1

    async def task_of(headers: dict[str, str], task_id: str = "task(1)", **fields: Any) -> dict[str, Any]:
        response = await client.post(
            "/internal/progress", json={"id_task": task_id, **fields}, headers=headers
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async with (
        drawing(client, {}, force_task_id="task(1)") as task,
        drawing(client, {}, force_task_id="task(2)"),
    ):
        async with asyncio.timeout(5):  # the second has only been sent
            while (pending := (await client.get("/internal/pending-tasks")).json())["size"] < 2:
                await asyncio.sleep(0.01)
        assert pending == {"size": 2, "tasks": ["task(1)", "task(2)"]}
        assert (await client.get("/internal/pending-tasks", headers=ME)).json() == {"size": 0, "tasks": []}
        async with asyncio.timeout(5):
            while (now := await task_of({}))["live_preview"] is None:
                await asyncio.sleep(0.02)
        assert (now["active"], now["queued"], now["completed"]) == (True, False, False)
        assert now["live_preview"].startswith("data:image/png;base64,")
        assert (await task_of({}, live_preview=False))["live_preview"] is None
        # Without a key the address may have changed since; with one, the task is nobody else's.
        elsewhere = {"X-Forwarded-For": "8.8.8.8"}
        assert (await task_of(elsewhere))["active"]
        assert not (await task_of({}, "unknown"))["active"]
        await client.post("/sdapi/v1/interrupt", params={"id_task": "task(1)"})
        assert (await task).json()["images"] == []
        assert (await task_of({}))["completed"]
        assert (await task_of({}, "task(2)"))["active"]
    async with drawing(client, ME, force_task_id="task(3)"):
        assert (await task_of(ME, "task(3)"))["active"]
        assert not (await task_of({}, "task(3)"))["active"]
        assert not (await task_of(OTHER, "task(3)"))["active"]


@pytest.mark.parametrize("body", [{}, {"id_task": ""}, {"id_task": "a", "id_live_preview": "x"}])
async def test_bad_task_queries(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await client.post("/internal/progress", json=body)).status_code == 422
    assert (await client.get("/sdapi/v1/progress", params={"skip_current_image": "maybe"})).status_code == 422


async def test_leaving_ends_the_drawing_in_progress_too(
    client: httpx.AsyncClient, service: FakeImageService
) -> None:
    service.delay_s = 30.0
    async with drawing(client, ME) as task:
        task.cancel()
        await asyncio.wait({task})
        assert await state(client, ME) == IDLE
        assert len(service.cancelled) == 1
