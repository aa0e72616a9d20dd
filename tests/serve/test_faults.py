"""A short chaos run on the session's own service: parts of it are killed under mixed load, and it heals.

``python -m bench.chaos`` is the long one, on several nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.chaos import parts
from bench.chaos.load import ConstantLoad, Outcome
from bench.chaos.orders import Way
from serve_app.local_service import APP_NAME
from tests.running_service import RunningService

WANTED = {"default": 2, "slow": 1, "Ingress": 2, "Jobs": 1, "LiveDrawings": 1}
HEALED_WITHIN_S = 120.0
DIRECT = (Way.BYTES, Way.OPENAI)


@asynccontextmanager
async def _load_on(service: RunningService) -> AsyncIterator[ConstantLoad]:
    """Load that one pool has to draw, with one replica of the fake; at the end all of it has ended.

    What comes while a replica starts must find room in the next one's queue of 16, even where that takes ten seconds.
    """
    load = ConstantLoad(service.url, rate=2.5, seed=1, pool="slow")
    await load.learn()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as running:
        running.create_task(load.run(stop))
        try:
            yield load
        finally:
            stop.set()


async def _busy(load: ConstantLoad) -> None:
    """Waits until something is in hand of the ingress: then the next death hits it."""
    async with asyncio.timeout(60.0):
        while not load.in_flight(*DIRECT):
            await asyncio.sleep(0.005)


async def _healed(load: ConstantLoad, dead: int, proxies: int) -> None:
    """Waits until everything is there again, and until ten more requests have been answered after that."""
    async with asyncio.timeout(HEALED_WITHIN_S):
        while not await asyncio.to_thread(parts.whole, WANTED, APP_NAME, frozenset({dead}), proxies):
            await asyncio.sleep(0.2)
        ended = len(load.samples)
        while len(load.samples) < ended + 10:
            await asyncio.sleep(0.05)


async def test_killed_replicas_of_pool_and_ingress_cost_what_was_in_a_dead_hand_and_no_more(
    service: RunningService,
) -> None:
    proxies = len(parts.living(parts.PROXY))
    async with _load_on(service) as load:
        await _busy(load)
        (replica,) = parts.replicas("slow", APP_NAME)
        assert replica.kill()
        await _healed(load, replica.pid, proxies)
        # The pool's only replica died: all of its requests were held until another one had started.
        assert {sample.outcome for sample in load.samples} == {Outcome.ANSWERED}

        await _busy(load)
        ingress = parts.replicas("Ingress", APP_NAME)[0]
        in_hand = load.in_flight(*DIRECT)
        assert ingress.kill()
        await _healed(load, ingress.pid, proxies)
    lost = [sample for sample in load.samples if sample.outcome is not Outcome.ANSWERED]
    assert {sample.outcome for sample in lost} <= {Outcome.BY_INGRESS, Outcome.BY_PROXY}
    assert len(lost) <= in_hand
    assert all(sample.order.way is not Way.JOB for sample in lost)
    assert {sample.order.way for sample in load.samples} == set(Way)
