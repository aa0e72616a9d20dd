"""Many clients at once, clients that leave, and what stays behind in the processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import httpx
import pytest

from tests.running_service import RunningService

REQUESTS, CONCURRENCY = 50, 5


async def _draw(client: httpx.AsyncClient, seed: int) -> int:
    answer = await client.get("/imagine", params={"prompt": "a blue square", "seed": seed, "pool": "default"})
    return answer.status_code


async def _fifty(client: httpx.AsyncClient) -> list[int]:
    permits = asyncio.Semaphore(CONCURRENCY)

    async def one(seed: int) -> int:
        async with permits:
            return await _draw(client, seed)

    return await asyncio.gather(*(one(seed) for seed in range(REQUESTS)))


async def _half_cancelled(client: httpx.AsyncClient, stop: asyncio.Event) -> tuple[int, int]:
    """Draws until `stop`, leaving every second time after 0.1 s. Returns (answered, left)."""
    answered = left = 0
    while not stop.is_set():
        draw = asyncio.create_task(_draw(client, answered))
        if (answered + left) % 2:
            await asyncio.sleep(0.1)
            draw.cancel()
            await asyncio.gather(draw, return_exceptions=True)
            left += 1
        else:
            assert await draw == 200
            answered += 1
    return answered, left


async def test_fifty_requests_while_another_client_leaves_half_of_its_own(service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=120.0, trust_env=False) as client:
        await _fifty(client)  # pools of threads, allocator arenas and caches fill up in the first round
        before = _memory(service)
        stop = asyncio.Event()
        leaver = asyncio.create_task(_half_cancelled(client, stop))
        statuses = await _fifty(client)
        stop.set()
        answered, left = await leaver
        assert statuses == [200] * REQUESTS
        assert answered > 2
        assert left > 2
        after = _memory(service)
        assert after - before < 60e6, f"{before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after"


def _memory(service: RunningService) -> int:
    """Resident bytes of all replicas of model and ingress."""
    processes = service.replicas("default") + service.replicas("Ingress")
    return sum(process.memory_info().rss for process in processes)


def test_the_ingress_stays_small(service: RunningService, client: httpx.Client) -> None:
    client.post("/api/text2image", json={"prompt": "a red circle", "number": 4}).raise_for_status()
    ingresses = service.replicas("Ingress")
    assert len(ingresses) == 2
    for process in ingresses:
        megabytes = process.memory_info().rss / 1e6
        assert megabytes < 250, f"{megabytes:.0f} MB"
        mapped = {os.path.basename(region.path) for region in process.memory_maps()}
        assert not {name for name in mapped if name.startswith("libtorch")}


async def test_leaving_stops_the_drawing_at_the_next_step(service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=60.0, trust_env=False) as client:
        # 150 slow steps would take far longer than this test waits.
        query: dict[str, str | int] = {"prompt": "slow", "num_inference_steps": 150, "pool": "slow"}
        draws = [asyncio.create_task(client.get("/imagine", params=query)) for _ in range(4)]
        await _until_images(service, 4)
        for draw in draws:
            draw.cancel()
        await asyncio.gather(*draws, return_exceptions=True)
        await _until_images(service, 0, within_s=3.0)


async def _until_images(service: RunningService, count: int, within_s: float = 20.0) -> None:
    """Waits until the slow pool's engine holds `count` pictures."""
    deadline = time.monotonic() + within_s
    held = -1
    while time.monotonic() < deadline:
        stats = await asyncio.to_thread(service.stats, "slow")
        held = stats.queued_images + stats.running_images
        if held == count:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"the engine still held {held} pictures after {within_s} s")


async def test_a_replica_killed_while_drawing_costs_no_request(service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=120.0, trust_env=False) as client:
        query: dict[str, str | int] = {"prompt": "slow", "num_inference_steps": 40, "pool": "slow", "seed": 7}
        expected = await client.get("/imagine", params=query)
        draws = [asyncio.create_task(client.get("/imagine", params=query)) for _ in range(4)]
        await _until_images(service, 4)
        victim = service.replicas("slow")[0]
        os.kill(victim.pid, signal.SIGKILL)
        answers = await asyncio.gather(*draws)
        assert [answer.status_code for answer in answers] == [200] * 4
        assert {answer.content for answer in answers} == {expected.content}


async def test_what_was_drawn_for_a_dead_ingress_is_stopped(service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=120.0, trust_env=False) as client:
        query: dict[str, str | int] = {"prompt": "slow", "num_inference_steps": 150, "pool": "slow"}
        draws = [asyncio.create_task(client.get("/imagine", params=query)) for _ in range(16)]
        await _until_images(service, 16)
        before = await asyncio.to_thread(service.stats, "slow")
        for process in service.replicas("Ingress"):
            os.kill(process.pid, signal.SIGKILL)
        await asyncio.gather(*draws, return_exceptions=True)
        await _until_images(service, 0)
        after = await asyncio.to_thread(service.stats, "slow")
        # All sixteen take longer than it takes to find out; of the first eight some may have been finished.
        assert after.images_cancelled - before.images_cancelled >= 8
        deadline = time.monotonic() + 60.0
        while len(service.replicas("Ingress")) < 2 or (await client.get("/health")).status_code != 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)


def test_every_ingress_replica_serves_every_picture(service: RunningService) -> None:
    answer = httpx.post(
        f"{service.url}/api/text2image", json={"prompt": "a red circle"}, trust_env=False
    ).json()
    # New connections, so that both ingress replicas get their turn.
    statuses = [httpx.get(answer["output"][0]["url"], trust_env=False).status_code for _ in range(10)]
    assert statuses == [200] * 10
