"""A pool behind a handle that stands for Ray's: its states, starts, lost replicas, and what answers are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.handle import DeploymentHandle

from serve_app import handle_pool
from serve_app.capabilities import Capabilities, ModelDefaults, PoolFacts
from serve_app.errors import DeadlineUnreachable, PoolUnavailable, QueueFull
from serve_app.handle_errors import reason
from serve_app.handle_pool import HandlePool
from serve_app.metrics import NoInstruments
from serve_app.pool_status import PoolState
from serve_app.replica_watch import ReplicaCounts, ReplicaWatch
from serve_app.request import GenerationRequest, ImageFormat
from serve_app.result import GeneratedImage, GenerationResult, ReplicaLoad, StageSeconds
from serve_app.settings import PoolSettings
from serve_app.telemetry import DrawingTelemetry

FACTS = PoolFacts("p", "org/m", "fake", ModelDefaults(64, 64, 4, 0.0, "euler"), Capabilities(8), step_s=2.0)
REQUEST = GenerationRequest("id", "x", "", 1000, 1000, 4, 0.0, seed=0)
LOAD = ReplicaLoad("r1", queued_images=2, running_images=1, predicted_wait_s=5.0)
IMAGE = GeneratedImage(0, 0, b"", ImageFormat.PNG, 1, 1, StageSeconds(device=3.0))
RESULT = GenerationResult(REQUEST, (IMAGE,), "p", "org/m", "fake", 1.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watch:
    """Counts that the test gives."""

    def __init__(self, running: int, wanted: int | None = None, **more: Any) -> None:
        self.now: ReplicaCounts | None
        self.set(running, wanted, **more)

    def set(self, running: int, wanted: int | None = None, **more: Any) -> None:
        self.now = ReplicaCounts(running, running if wanted is None else wanted, **more)

    async def counts(self, deployment: str, *, max_age_s: float) -> ReplicaCounts | None:
        return self.now


class Reply:
    """Ray's answer to one call: items and errors, in turn; it waits at a `asyncio.Event`."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
        self.cancelled = False
        self._stream: AsyncGenerator[Any, None] | None = None

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Any:
        return self._next().__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self.items:
            raise StopAsyncIteration
        return await self._next()

    async def _next(self) -> Any:
        item = self.items.pop(0)
        if isinstance(item, asyncio.Event):
            await item.wait()
            item = self.items.pop(0)
        if isinstance(item, Exception):
            raise item
        return item


class Handle:
    """Answers each method with the replies that were prepared for it."""

    def __init__(self, *, facts: list[Reply] | None = None, generate: list[Reply] | None = None) -> None:
        self.replies = {"facts": facts or [], "generate": generate or []}
        self.arguments: list[dict[str, Any]] = []

    def options(self, *, stream: bool) -> Handle:
        assert stream
        return self

    def __getattr__(self, method: str) -> Any:
        handle = self

        class Method:
            @staticmethod
            def remote(*_: Any, **named: Any) -> Reply:
                handle.arguments.append(named)
                return handle.replies[method].pop(0)

        return Method


def _pool(handle: Handle, watch: Watch, clock: Clock | None = None, **settings: Any) -> HandlePool:
    made = PoolSettings.model_validate({"name": "p", "model": "org/m", "accelerator": "fake"} | settings)
    return HandlePool(
        made,
        cast(DeploymentHandle, handle),
        cast(ReplicaWatch, watch),
        DrawingTelemetry(NoInstruments()),
        caller="ingress-1",
        clock=clock or Clock(),
    )


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle_pool, "_AGAIN_S", 0.01)
    monkeypatch.setattr(handle_pool, "ACCEPT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(handle_pool, "FACTS_TIMEOUT_S", 0.05)


async def _drawn(pool: HandlePool) -> list[Any]:
    async with aclosing(pool.stream(REQUEST, progress=False)) as events:
        return [event async for event in events]


async def test_a_running_replica_is_asked_once_what_it_can_draw() -> None:
    pool = _pool(Handle(facts=[Reply(FACTS)]), Watch(1))
    assert await pool.facts() is FACTS
    assert await pool.facts() is FACTS
    assert pool.start_s() == 0.0
    assert pool.predicted_s(REQUEST) == pytest.approx(8.0)  # 4 steps of a megapixel at its own 2 s
    assert (await pool.status()).state is PoolState.READY


async def test_a_sleeping_pool_is_known_by_its_settings_and_not_woken_by_looking() -> None:
    pool = _pool(
        Handle(),  # any call would fail
        Watch(0),
        min_replicas=0,
        sizes=[(512, 512)],
        num_inference_steps=7,
        guidance_scale=0.0,
        expected_start_s=60.0,
        expected_step_s=0.5,
        price_per_hour=3600.0,
    )
    facts = await pool.facts()
    assert facts.assumed
    assert facts.capabilities.fixed_sizes == ((512, 512),)
    assert (facts.defaults.width, facts.defaults.num_inference_steps) == (512, 7)
    assert pool.start_s() == 60.0
    assert pool.predicted_cost(REQUEST) == pytest.approx(2.0)  # 4 units of 0.5 s at 1 a second
    status = await pool.status()
    assert (status.state, status.replicas_wanted, status.start_s) == (PoolState.ASLEEP, 0, 60.0)


async def test_a_start_teaches_how_long_the_next_one_takes_and_facts_outlive_sleep() -> None:
    clock, watch, up = Clock(), Watch(0), asyncio.Event()
    pool = _pool(Handle(facts=[Reply(up, FACTS)]), watch, clock, min_replicas=0, expected_start_s=60.0)
    await pool.facts()
    start = asyncio.create_task(pool.started())
    await asyncio.sleep(0)
    assert (await pool.status()).state is PoolState.STARTING
    clock.now += 20.0
    assert pool.start_s() == pytest.approx(40.0)
    up.set()
    await start
    assert pool.start_s() == 0.0  # though Ray's count still lags
    watch.set(1)
    clock.now += 100.0
    assert await pool.facts() is FACTS
    watch.set(0)
    assert await pool.facts() is FACTS
    assert pool.start_s() == pytest.approx(20.0)


async def test_waiting_goes_on_when_the_replica_dies_while_it_starts() -> None:
    handle = Handle(facts=[Reply(ActorDiedError()), Reply(FACTS)])
    pool = _pool(handle, Watch(0, wanted=1))
    await pool.started()
    assert pool.start_s() == 0.0


async def test_who_leaves_takes_its_question_along() -> None:
    reply = Reply(asyncio.Event())
    pool = _pool(Handle(facts=[reply]), Watch(0))
    start = asyncio.create_task(pool.started())
    await asyncio.sleep(0.01)
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    assert reply.cancelled


async def test_a_pool_that_does_not_start_says_why() -> None:
    pool = _pool(Handle(), Watch(0, failed=True, message="no such model"))
    with pytest.raises(PoolUnavailable, match="no such model"):
        await pool.facts()
    status = await pool.status()
    assert (status.state, status.last_error) == (PoolState.FAILED, "no such model")


async def test_an_answer_tells_cost_and_load() -> None:
    clock = Clock()
    handle = Handle(facts=[Reply(FACTS)], generate=[Reply(LOAD, RESULT)])
    pool = _pool(handle, Watch(1), clock, price_per_hour=3600.0)
    await pool.facts()
    stream = pool.stream(REQUEST, progress=False)
    clock.now += 1.0
    (result,) = [event async for event in stream]
    assert result == replace(RESULT, cost=3.0)
    assert handle.arguments[-1] == {"progress": False, "caller": "ingress-1"}
    status = await pool.status()
    assert (status.queued_images, status.running_images, status.requests_in_flight) == (2, 1, 0)
    assert pool.predicted_cost(REQUEST) == pytest.approx(3.0)


async def test_a_lost_replica_counts_as_gone_until_one_answers() -> None:
    back = asyncio.Event()
    died = Reply(LOAD, ActorDiedError())
    handle = Handle(facts=[Reply(FACTS), Reply(back, FACTS)], generate=[died])
    pool = _pool(handle, Watch(1), expected_start_s=30.0)
    await pool.facts()
    with pytest.raises(PoolUnavailable, match="died while drawing"):
        await _drawn(pool)
    assert died.cancelled
    assert pool.start_s() == 30.0  # though Ray still counts one
    status = await pool.status()
    assert status.state is PoolState.STARTING
    assert "died" in str(status.last_error)
    back.set()
    await asyncio.sleep(0.01)  # it was asked in the background
    assert pool.start_s() == 0.0
    pool.close()


async def test_a_broken_connection_is_a_lost_replica_too_and_said_in_one_sentence() -> None:
    reset = AioRpcError(
        StatusCode.INTERNAL, Metadata(), Metadata(), details="Stream removed", debug_error_string="-"
    )
    handle = Handle(facts=[Reply(FACTS), Reply(asyncio.Event())], generate=[Reply(LOAD, reset)])
    pool = _pool(handle, Watch(1), expected_start_s=30.0)
    await pool.facts()
    with pytest.raises(PoolUnavailable, match="died while drawing"):
        await _drawn(pool)
    assert (await pool.status()).last_error == "a replica died: Stream removed"
    pool.close()


@pytest.mark.parametrize(("details", "said"), [("no room", "no room"), (None, "unavailable")])
def test_of_a_failed_call_only_its_reason_is_told(details: str | None, said: str) -> None:
    assert reason(AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata(), details=details)) == said


async def test_of_several_replicas_the_others_go_on() -> None:
    handle = Handle(facts=[Reply(FACTS)], generate=[Reply(LOAD, ActorDiedError())])
    pool = _pool(handle, Watch(2))
    await pool.facts()
    with pytest.raises(PoolUnavailable):
        await _drawn(pool)
    assert pool.start_s() == 0.0


async def test_a_replica_that_neither_accepts_nor_refuses_counts_as_gone() -> None:
    silent = Reply(asyncio.Event(), LOAD)
    handle = Handle(facts=[Reply(FACTS), Reply(asyncio.Event())], generate=[silent])
    pool = _pool(handle, Watch(2))
    await pool.facts()
    with pytest.raises(PoolUnavailable, match="does not answer"):
        await _drawn(pool)
    assert silent.cancelled
    assert pool.start_s() > 0
    pool.close()


async def test_a_refusal_is_the_replicas_own() -> None:
    error = RayTaskError("generate", "traceback", QueueFull("full", 7.0)).as_instanceof_cause()
    pool = _pool(Handle(facts=[Reply(FACTS)], generate=[Reply(error)]), Watch(1))
    await pool.facts()
    with pytest.raises(QueueFull) as refused:
        await _drawn(pool)
    assert refused.value.retry_after_s == 7.0
    assert pool.start_s() == 0.0


async def test_a_full_pool_is_not_asked_again_until_it_may_have_room() -> None:
    clock = Clock()
    refused = Reply(replace(LOAD, refusal=QueueFull("full", 7.0)))  # 5 s for 3 pictures
    handle = Handle(facts=[Reply(FACTS)], generate=[refused])
    pool = _pool(handle, Watch(1), clock)
    await pool.facts()
    with pytest.raises(QueueFull, match="full"):
        await _drawn(pool)
    assert not refused.cancelled  # there is nothing to cancel
    clock.now += 0.5
    with pytest.raises(QueueFull) as again:  # the handle has no other answer
        await _drawn(pool)
    assert again.value.retry_after_s == pytest.approx(6.5)
    assert (await pool.status()).requests_in_flight == 0
    clock.now += 0.6
    handle.replies["generate"] = [Reply(LOAD, RESULT)]
    assert await _drawn(pool) == [RESULT]


async def test_a_picture_that_ends_makes_room() -> None:
    end = asyncio.Event()
    replies = [Reply(LOAD, end, RESULT), Reply(replace(LOAD, refusal=QueueFull("full"))), Reply(LOAD, RESULT)]
    pool = _pool(Handle(facts=[Reply(FACTS)], generate=replies), Watch(1))
    await pool.facts()
    drawing = asyncio.create_task(_drawn(pool))
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(QueueFull):
            await _drawn(pool)
    end.set()
    await drawing
    assert await _drawn(pool) == [RESULT]


async def test_a_deadline_that_cannot_be_met_says_nothing_of_other_requests() -> None:
    replies = [Reply(replace(LOAD, refusal=DeadlineUnreachable("too late"))), Reply(LOAD, RESULT)]
    pool = _pool(Handle(facts=[Reply(FACTS)], generate=replies), Watch(1))
    await pool.facts()
    with pytest.raises(DeadlineUnreachable):
        await _drawn(pool)
    assert await _drawn(pool) == [RESULT]


async def test_a_sleeping_pool_is_woken_when_its_start_pays() -> None:
    handle = Handle(facts=[Reply(asyncio.Event())])
    pool = _pool(handle, Watch(0), price_per_hour=3600.0, expected_start_s=10.0)  # a start costs 10
    await pool.facts()
    pool.passed_over(6.0)
    await asyncio.sleep(0)
    assert handle.replies["facts"]
    pool.passed_over(6.0)
    await asyncio.sleep(0)
    assert not handle.replies["facts"]
    pool.close()


async def test_where_ray_does_not_tell_only_trying_helps() -> None:
    watch = Watch(0)
    watch.now = None
    pool = _pool(Handle(facts=[Reply(FACTS)]), watch)
    assert await pool.facts() is FACTS
    assert pool.start_s() == 0.0
