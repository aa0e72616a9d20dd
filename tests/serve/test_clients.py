"""What clients rely on and only a real Ray Serve with two ingress replicas can show."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import time
import uuid
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.running_service import RunningService

SLOW = {
    "prompt": "slow",
    "steps": 150,
    "width": 64,
    "height": 64,
    "override_settings": {"sd_model_checkpoint": "fake"},
}


async def _ask(service: RunningService, method: str, path: str, **options: Any) -> Any:
    """One request on a connection of its own, so that any ingress replica may answer it."""
    async with httpx.AsyncClient(base_url=service.url, timeout=60.0, trust_env=False) as client:
        response = await client.request(method, path, **options)
        response.raise_for_status()
        return response.json()


async def _progress(service: RunningService, headers: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(base_url=service.url, timeout=60.0, trust_env=False) as client:
        return await client.get("/sdapi/v1/progress", headers=headers)


async def _until_drawing(service: RunningService, headers: dict[str, str]) -> None:
    async with asyncio.timeout(30):
        while (await _ask(service, "GET", "/sdapi/v1/progress", headers=headers))["state"]["job_count"] == 0:
            await asyncio.sleep(0.05)


async def test_progress_and_interrupt_whichever_replica_answers(service: RunningService) -> None:
    me, other = {"Authorization": "Bearer me"}, {"Authorization": "Bearer other"}
    mine = asyncio.create_task(_ask(service, "POST", "/sdapi/v1/txt2img", json=SLOW, headers=me))
    await _until_drawing(service, me)
    # What takes no less on a slow machine is asked while the picture lasts, so nothing waits for something else.
    interrupted, idle, *seen = await asyncio.gather(
        _ask(service, "POST", "/sdapi/v1/interrupt", headers=other),
        _ask(service, "GET", "/sdapi/v1/progress", headers=other),
        *(_ask(service, "GET", "/sdapi/v1/progress", headers=me) for _ in range(10)),
    )
    assert interrupted == {}
    assert (idle["progress"], idle["state"]["job_count"]) == (0.0, 0)
    assert [one["state"]["job_count"] for one in seen] == [1] * 10
    async with asyncio.timeout(20):
        while (await _ask(service, "GET", "/sdapi/v1/progress", headers=me))["current_image"] is None:
            await asyncio.sleep(0.05)
    assert not mine.done()
    started = time.monotonic()
    await _ask(service, "POST", "/sdapi/v1/interrupt", headers=me)
    assert (await mine)["images"] == []
    assert time.monotonic() - started < 5
    after = [await _ask(service, "GET", "/sdapi/v1/progress", headers=me) for _ in range(6)]
    assert {(one["progress"], one["state"]["job_count"]) for one in after} == {(0.0, 0)}


async def test_callers_without_a_key_are_told_apart_by_their_address(service: RunningService) -> None:
    me, other = {"X-Forwarded-For": "8.8.8.8"}, {"X-Forwarded-For": "9.9.9.9"}
    mine = asyncio.create_task(_ask(service, "POST", "/sdapi/v1/txt2img", json=SLOW, headers=me))
    await _until_drawing(service, me)
    assert (await _ask(service, "GET", "/sdapi/v1/progress", headers=other))["state"]["job_count"] == 0
    assert (await _ask(service, "GET", "/sdapi/v1/progress"))["state"]["job_count"] == 0
    await _ask(service, "POST", "/sdapi/v1/interrupt", headers=me)
    await mine


async def test_a_chosen_model_holds_on_every_replica(service: RunningService) -> None:
    me = {"Authorization": "Bearer chooser"}
    await _ask(service, "POST", "/sdapi/v1/options", json={"sd_model_checkpoint": "fake"}, headers=me)
    for _ in range(6):
        options = await _ask(service, "GET", "/sdapi/v1/options", headers=me)
        assert options["sd_model_checkpoint"].startswith("fake [")
    answer = await _ask(service, "POST", "/sdapi/v1/txt2img", json={"prompt": "a", "steps": 2}, headers=me)
    assert answer["parameters"]["override_settings"]["sd_model_checkpoint"].startswith("fake [")


async def test_a_drawing_outlives_the_place_that_knows_of_it(service: RunningService) -> None:
    me = {"Authorization": "Bearer survivor"}
    mine = asyncio.create_task(_ask(service, "POST", "/sdapi/v1/txt2img", json=SLOW, headers=me))
    await _until_drawing(service, me)
    (keeper,) = service.replicas("LiveDrawings")
    os.kill(keeper.pid, signal.SIGKILL)
    assert len((await mine)["images"]) == 1
    async with asyncio.timeout(60):
        while (after := await _progress(service, me)).status_code == 503:
            await asyncio.sleep(0.2)
    assert after.json()["state"]["job_count"] == 0


@pytest.mark.parametrize("on_disconnect", ["cancel", "finish"])
async def test_leaving(service: RunningService, on_disconnect: str) -> None:
    picture_id = str(uuid.uuid4())
    body = {
        "prompt": "slow",
        "num_inference_steps": 60,
        "pool": "slow",
        "on_disconnect": on_disconnect,
    }
    async with httpx.AsyncClient(base_url=service.url, timeout=60.0, trust_env=False) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/generate", json=body, headers={"X-Request-Id": picture_id}, timeout=0.5)
        deadline = time.monotonic() + 20
        while (answer := await client.get(f"/images/{picture_id}/0_0.png")).status_code == 404:
            stats = await asyncio.to_thread(service.stats, "slow")
            if on_disconnect == "cancel" and stats.queued_images + stats.running_images == 0:
                return
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
    assert on_disconnect == "finish"
    assert Image.open(io.BytesIO(answer.content)).format == "PNG"


def test_openai_stream_and_cost(service: RunningService) -> None:
    with (
        openai.DefaultHttpxClient(trust_env=False) as transport,
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", http_client=transport) as client,
    ):
        stream = client.images.generate(
            prompt="a red star",
            model="fake",
            size="256x256",
            stream=True,
            partial_images=3,
            extra_body={"num_inference_steps": 8},
        )
        *previews, last = list(stream)
        assert [event.type for event in previews] == ["image_generation.partial_image"] * 3
        assert last.type == "image_generation.completed"
        assert Image.open(io.BytesIO(base64.b64decode(last.b64_json))).size == (256, 256)
        answer = client.images.with_raw_response.generate(prompt="a red star", model="fake")
        # The slow pool costs 1 an hour; a picture of it takes a fraction of a second.
        assert 0 < float(answer.headers["x-cost"]) < 60 / 3600
        free = client.images.with_raw_response.generate(prompt="a red star", model="small-sdxl")
        assert float(free.headers["x-cost"]) == 0
        assert len(answer.headers.get_list("x-request-id")) == 1


def test_a_picture_is_drawn_again(client: httpx.Client) -> None:
    first = client.get("/imagine", params={"prompt": "a blue square", "pool": "default"})
    again = client.post("/api/replay", files={"picture": ("square.png", first.content)})
    assert again.status_code == 200, again.text
    assert again.content == first.content
