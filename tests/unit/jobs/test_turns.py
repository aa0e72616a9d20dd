"""Places and the order of those who wait for one."""

from __future__ import annotations

import asyncio

from serve_app.jobs.turns import BATCH_DELAY_S, Turns
from serve_app.request import Priority

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH


async def test_batch_waits_for_interactive_but_not_for_ever() -> None:
    turns = Turns(1, lambda: None)
    done: list[str] = []

    async def one(name: str, created_at: float, priority: Priority) -> None:
        async with turns.take(name, created_at, priority):
            done.append(name)
            await asyncio.sleep(0)

    arrivals = [
        ("first", 0.0, INTERACTIVE),
        ("batch", 1.0, BATCH),
        ("soon", 2.0, INTERACTIVE),
        ("late", 2.0 + BATCH_DELAY_S, INTERACTIVE),
    ]
    await asyncio.gather(*(one(*arrival) for arrival in arrivals))
    assert done == ["first", "soon", "batch", "late"]


async def test_places_are_neither_lost_nor_doubled_by_cancelling() -> None:
    changes: list[int] = []
    turns = Turns(2, lambda: changes.append(len(turns.waiting())))
    inside = most = ran = 0

    async def one(number: int) -> None:
        nonlocal inside, most, ran
        async with turns.take(str(number), number, INTERACTIVE):
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(0.001 * (number % 3))
                ran += 1
            finally:
                inside -= 1

    for round_number in range(20):
        tasks = [asyncio.create_task(one(number)) for number in range(10)]
        await asyncio.sleep(0.0005 * (round_number % 4))
        for task in tasks[:: 2 + round_number % 3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 2
    assert ran > 50
    assert turns.waiting() == []
    async with turns.take("a", 0, INTERACTIVE), asyncio.timeout(1), turns.take("b", 0, INTERACTIVE):
        assert inside == 0
    assert max(changes) == 8  # ten wanted a place, two had one


async def test_a_place_goes_to_the_owner_who_holds_the_fewest() -> None:
    turns = Turns(2, lambda: None)
    done: list[str] = []
    go_on = asyncio.Event()

    async def one(name: str, created_at: float, owner: str) -> None:
        async with turns.take(name, created_at, INTERACTIVE, owner):
            await go_on.wait()
            done.append(name)
            await asyncio.sleep(0)

    many = [asyncio.create_task(one(f"many{n}", n, "many")) for n in range(6)]
    few = [asyncio.create_task(one(f"few{n}", 100 + n, "few")) for n in range(2)]
    await asyncio.sleep(0)
    # Both places are taken by "many", so both of the other's jobs go first, as long as it holds fewer.
    assert turns.waiting() == ["few0", "few1", "many2", "many3", "many4", "many5"]
    go_on.set()
    await asyncio.gather(*many, *few)
    assert done.index("few0") <= 2
    assert done.index("few1") <= 4
    assert [name for name in done if name.startswith("many")] == [f"many{n}" for n in range(6)]
