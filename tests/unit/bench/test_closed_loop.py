"""The closed loop: as many at a time as there are clients, and where it ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from bench.closed_loop import Answer, closed_loop, rate_per_s


async def test_each_client_waits_for_its_own_answer() -> None:
    under_way: list[int] = []
    numbers: list[int] = []
    current = 0

    async def ask(number: int) -> None:
        nonlocal current
        numbers.append(number)
        current += 1
        under_way.append(current)
        await asyncio.sleep(0.01 if number % 2 else 0.002)
        current -= 1

    answers = await closed_loop(ask, clients=3, pictures=10)
    assert sorted(numbers) == list(range(10))
    assert max(under_way) == 3
    assert len(answers) == 10
    assert [one.ended_s for one in answers] == sorted(one.ended_s for one in answers)
    assert all(one.latency_s > 0.001 for one in answers)


async def test_it_ends_when_the_time_is_over() -> None:
    async def ask(number: int) -> None:
        await asyncio.sleep(0.01)

    began = time.perf_counter()
    answers = await closed_loop(ask, clients=2, seconds=0.1)
    assert time.perf_counter() - began >= 0.1
    assert answers
    assert all(one.asked_s < 0.1 for one in answers)
    with pytest.raises(ValueError, match="either"):
        await closed_loop(ask, clients=1)


async def test_a_picture_that_does_not_come_ends_it() -> None:
    async def ask(number: int) -> None:
        if number == 2:
            raise RuntimeError("no picture")
        await asyncio.sleep(0)

    with pytest.raises(ExceptionGroup) as failed:
        await closed_loop(ask, clients=2, pictures=100)
    assert failed.group_contains(RuntimeError, match="no picture")


def test_the_rate_counts_what_ended_within_the_span() -> None:
    assert rate_per_s([0.5, 1.0, 1.5, 2.9, 3.0], 1.0, 3.0) == pytest.approx(1.5)
    assert Answer(1.0, 3.5).latency_s == 2.5
