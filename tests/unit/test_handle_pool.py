"""A pool behind a handle that stands for Ray's: its states, its starts, and what it is known to draw."""

from __future__ import annotations

import asyncio

import pytest
from ray.exceptions import ActorDiedError

from serve_app.errors import PoolUnavailable
from serve_app.pool_status import PoolState
from tests.unit.handle_pool_fakes import (
    FACTS,
    REQUEST,
    Clock,
    Handle,
    Reply,
    Watch,
    hurry,
    pool_behind,
)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def test_a_running_replica_is_asked_once_what_it_can_draw() -> None:
    pool = pool_behind(Handle(facts=[Reply(FACTS)]), Watch(1))
    assert await pool.facts() is FACTS
    assert await pool.facts() is FACTS
    assert pool.start_s() == 0.0
    assert pool.predicted_s(REQUEST) == pytest.approx(8.0)  # 4 steps of a megapixel at its own 2 s
    assert (await pool.status()).state is PoolState.READY


async def test_a_sleeping_pool_is_known_by_its_settings_and_not_woken_by_looking() -> None:
    pool = pool_behind(
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
    pool = pool_behind(Handle(facts=[Reply(up, FACTS)]), watch, clock, min_replicas=0, expected_start_s=60.0)
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
    pool = pool_behind(handle, Watch(0, wanted=1))
    await pool.started()
    assert pool.start_s() == 0.0


async def test_who_leaves_takes_its_question_along() -> None:
    reply = Reply(asyncio.Event())
    pool = pool_behind(Handle(facts=[reply]), Watch(0))
    start = asyncio.create_task(pool.started())
    await asyncio.sleep(0.01)
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    assert reply.cancelled


async def test_a_pool_that_does_not_start_says_why() -> None:
    pool = pool_behind(Handle(), Watch(0, failed=True, message="no such model"))
    with pytest.raises(PoolUnavailable, match="no such model"):
        await pool.facts()
    status = await pool.status()
    assert (status.state, status.last_error) == (PoolState.FAILED, "no such model")


async def test_a_sleeping_pool_is_woken_when_its_start_pays() -> None:
    handle = Handle(facts=[Reply(asyncio.Event())])
    pool = pool_behind(handle, Watch(0), price_per_hour=3600.0, expected_start_s=10.0)  # a start costs 10
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
    pool = pool_behind(Handle(facts=[Reply(FACTS)]), watch)
    assert await pool.facts() is FACTS
    assert pool.start_s() == 0.0
