"""Dead callers are found, living ones left alone, and nobody is asked while nothing is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.callers import Callers


class Cluster:
    """Actors that live, and how often that was asked."""

    def __init__(self, *names: str) -> None:
        self.living = set(names)
        self.asked = 0
        self.away = False

    def __call__(self) -> set[str]:
        self.asked += 1
        if self.away:
            raise RuntimeError("no connection")
        return set(self.living)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.002)


async def looked(cluster: Cluster, times: int = 2) -> None:
    """Until it was asked so often again: a look that was under way before may know nothing of what has changed."""
    before = cluster.asked
    await until(lambda: cluster.asked > before + times)


async def test_the_dead_are_told_once_and_the_living_never() -> None:
    cluster = Cluster("a", "b")
    callers = Callers(cluster, look_every_s=0.005)
    deaths: list[str] = []
    with callers.waiting("a", lambda: deaths.append("a")), callers.waiting("b", lambda: deaths.append("b")):
        await looked(cluster)
        assert deaths == []
        cluster.living.discard("a")
        await until(lambda: bool(deaths))
        await looked(cluster)
        assert deaths == ["a"]


async def test_nobody_is_asked_while_nothing_is_drawn() -> None:
    cluster = Cluster("a")
    callers = Callers(cluster, look_every_s=0.005)
    with callers.waiting(None, lambda: None):
        await asyncio.sleep(0.02)
    assert cluster.asked == 0
    with callers.waiting("a", lambda: None):
        await looked(cluster)
    await asyncio.sleep(0.05)  # a look may have been under way
    asked = cluster.asked
    await asyncio.sleep(0.03)
    assert cluster.asked == asked


async def test_where_it_is_not_known_who_lives_nothing_is_stopped() -> None:
    cluster = Cluster()
    cluster.away = True
    callers = Callers(cluster, look_every_s=0.005)
    deaths: list[str] = []
    with callers.waiting("a", lambda: deaths.append("a")):
        await looked(cluster)
        assert deaths == []
        cluster.away = False
        await until(lambda: bool(deaths))
        assert deaths == ["a"]


async def test_calls_of_the_dead_end_one_after_another() -> None:
    callers = Callers(Cluster(), part_every_s=0.02)
    loop = asyncio.get_running_loop()
    began = loop.time()
    ends: list[float] = []

    async def call() -> None:
        await callers.part()
        ends.append(loop.time() - began)

    await asyncio.gather(*(call() for _ in range(3)))
    gaps = [later - earlier for earlier, later in zip([0.0, *ends], ends, strict=False)]
    assert min(gaps) >= 0.019
