"""The start of a pool: waited for, given up, and worth its price."""

from __future__ import annotations

import asyncio
import logging

import pytest
from ray.exceptions import ActorDiedError

from serve_app import pool_start
from serve_app.pool_start import PoolStart
from serve_app.speed import StartEstimate
from tests.unit.handle_pool_fakes import Clock


class Replica:
    """Answers once it is up; before that each question ends with the next of its errors, if there is one."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.up = asyncio.Event()
        self.asked = 0
        self.left = 0

    async def answer(self) -> None:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        try:
            await self.up.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_start, "_AGAIN_S", 0.01)


def start_of(replica: Replica, clock: Clock | None = None, *, price_per_hour: float = 3600.0) -> PoolStart:
    return PoolStart("p", price_per_hour, replica.answer, StartEstimate(10.0, clock or Clock()))


async def test_waiting_goes_on_when_the_replica_dies_while_it_starts() -> None:
    replica = Replica(ActorDiedError(), ActorDiedError())
    replica.up.set()
    await start_of(replica).wait()
    assert replica.asked == 3


async def test_an_error_that_is_no_death_ends_the_waiting() -> None:
    with pytest.raises(ZeroDivisionError):
        await start_of(Replica(ZeroDivisionError())).wait()


async def test_who_waits_has_begun_the_start() -> None:
    clock, replica = Clock(), Replica()
    start = start_of(replica, clock)
    assert (start.under_way, start.remaining_s()) == (False, 10.0)
    waiting = asyncio.create_task(start.wait())
    await asyncio.sleep(0)
    clock.now += 4.0
    assert (start.under_way, start.remaining_s()) == (True, 6.0)
    replica.up.set()
    await waiting
    start.ended(measured=True)
    assert (start.under_way, start.remaining_s()) == (False, 4.0)


async def test_it_is_woken_once_its_sleep_has_cost_as_much_as_its_start() -> None:
    replica = Replica()
    start = start_of(replica)  # 10 s at 1 a second
    start.passed_over(6.0)
    await asyncio.sleep(0)
    assert replica.asked == 0
    start.passed_over(6.0)
    await asyncio.sleep(0)
    assert replica.asked == 1
    start.close()


async def test_what_was_lost_before_it_was_up_does_not_count_for_its_next_start() -> None:
    replica = Replica()
    start = start_of(replica)
    start.passed_over(6.0)
    start.ended(measured=False)
    start.passed_over(6.0)
    await asyncio.sleep(0)
    assert replica.asked == 0


async def test_it_is_woken_by_one_question_at_a_time_which_ends_with_it() -> None:
    replica = Replica()
    start = start_of(replica)
    for _ in range(3):
        start.wake()
        await asyncio.sleep(0)
    assert (replica.asked, replica.left) == (1, 0)
    start.close()
    await asyncio.sleep(0)
    assert replica.left == 1


async def test_a_start_that_takes_too_long_is_given_up_and_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_start, "WAKE_TIMEOUT_S", 0.01)
    replica = Replica()
    start = start_of(replica)
    with caplog.at_level(logging.WARNING):
        start.wake()
        while replica.left == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
    assert "pool p did not start within" in caplog.text
    start.wake()
    await asyncio.sleep(0)
    assert replica.asked == 2
    start.close()
