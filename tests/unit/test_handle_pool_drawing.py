"""Drawing on a pool behind a handle that stands for Ray's: what answers tell, lost replicas, full ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import ActorDiedError, RayTaskError

from serve_app.errors import DeadlineUnreachable, PoolUnavailable, QueueFull
from serve_app.handle_errors import reason
from serve_app.pool_status import PoolState
from tests.unit.handle_pool_fakes import (
    FACTS,
    LOAD,
    REQUEST,
    RESULT,
    Clock,
    Handle,
    Reply,
    Watch,
    drawn,
    hurry,
    pool_behind,
)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def test_an_answer_tells_cost_and_load() -> None:
    clock = Clock()
    handle = Handle(facts=[Reply(FACTS)], generate=[Reply(LOAD, RESULT)])
    pool = pool_behind(handle, Watch(1), clock, price_per_hour=3600.0)
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
    pool = pool_behind(handle, Watch(1), expected_start_s=30.0)
    await pool.facts()
    with pytest.raises(PoolUnavailable, match="died while drawing"):
        await drawn(pool)
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
    pool = pool_behind(handle, Watch(1), expected_start_s=30.0)
    await pool.facts()
    with pytest.raises(PoolUnavailable, match="died while drawing"):
        await drawn(pool)
    assert (await pool.status()).last_error == "a replica died: Stream removed"
    pool.close()


@pytest.mark.parametrize(("details", "said"), [("no room", "no room"), (None, "unavailable")])
def test_of_a_failed_call_only_its_reason_is_told(details: str | None, said: str) -> None:
    assert reason(AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata(), details=details)) == said


async def test_of_several_replicas_the_others_go_on() -> None:
    handle = Handle(facts=[Reply(FACTS)], generate=[Reply(LOAD, ActorDiedError())])
    pool = pool_behind(handle, Watch(2))
    await pool.facts()
    with pytest.raises(PoolUnavailable):
        await drawn(pool)
    assert pool.start_s() == 0.0


async def test_a_replica_that_neither_accepts_nor_refuses_counts_as_gone() -> None:
    silent = Reply(asyncio.Event(), LOAD)
    handle = Handle(facts=[Reply(FACTS), Reply(asyncio.Event())], generate=[silent])
    pool = pool_behind(handle, Watch(2))
    await pool.facts()
    with pytest.raises(PoolUnavailable, match="does not answer"):
        await drawn(pool)
    assert silent.cancelled
    assert pool.start_s() > 0
    pool.close()


async def test_a_refusal_is_the_replicas_own() -> None:
    error = RayTaskError("generate", "traceback", QueueFull("full", 7.0)).as_instanceof_cause()
    pool = pool_behind(Handle(facts=[Reply(FACTS)], generate=[Reply(error)]), Watch(1))
    await pool.facts()
    with pytest.raises(QueueFull) as refused:
        await drawn(pool)
    assert refused.value.retry_after_s == 7.0
    assert pool.start_s() == 0.0


async def test_a_full_pool_is_not_asked_again_until_it_may_have_room() -> None:
    clock = Clock()
    refused = Reply(replace(LOAD, refusal=QueueFull("full", 7.0)))  # 5 s for 3 pictures
    handle = Handle(facts=[Reply(FACTS)], generate=[refused])
    pool = pool_behind(handle, Watch(1), clock)
    await pool.facts()
    with pytest.raises(QueueFull, match="full"):
        await drawn(pool)
    assert not refused.cancelled  # there is nothing to cancel
    clock.now += 0.5
    with pytest.raises(QueueFull) as again:  # the handle has no other answer
        await drawn(pool)
    assert again.value.retry_after_s == pytest.approx(6.5)
    assert (await pool.status()).requests_in_flight == 0
    clock.now += 0.6
    handle.replies["generate"] = [Reply(LOAD, RESULT)]
    assert await drawn(pool) == [RESULT]


async def test_a_picture_that_ends_makes_room() -> None:
    end = asyncio.Event()
    replies = [Reply(LOAD, end, RESULT), Reply(replace(LOAD, refusal=QueueFull("full"))), Reply(LOAD, RESULT)]
    pool = pool_behind(Handle(facts=[Reply(FACTS)], generate=replies), Watch(1))
    await pool.facts()
    drawing = asyncio.create_task(drawn(pool))
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(QueueFull):
            await drawn(pool)
    end.set()
    await drawing
    assert await drawn(pool) == [RESULT]


async def test_a_deadline_that_cannot_be_met_says_nothing_of_other_requests() -> None:
    replies = [Reply(replace(LOAD, refusal=DeadlineUnreachable("too late"))), Reply(LOAD, RESULT)]
    pool = pool_behind(Handle(facts=[Reply(FACTS)], generate=replies), Watch(1))
    await pool.facts()
    with pytest.raises(DeadlineUnreachable):
        await drawn(pool)
    assert await drawn(pool) == [RESULT]


async def test_who_gets_the_last_place_is_told_so_for_the_next_one() -> None:
    clock, end = Clock(), asyncio.Event()
    last = Reply(replace(LOAD, full=QueueFull("full now", 7.0)), end, RESULT)
    handle = Handle(facts=[Reply(FACTS)], generate=[last])
    pool = pool_behind(handle, Watch(1), clock)
    await pool.facts()
    drawing = asyncio.create_task(drawn(pool))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull, match="full now"):  # the handle has no other answer
        await drawn(pool)
    handle.replies["generate"] = [Reply(LOAD, RESULT)]
    end.set()
    assert await drawing == [RESULT]
    assert await drawn(pool) == [RESULT]
