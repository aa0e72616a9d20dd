"""A step that hangs or a device that breaks, up to the router: the replica ends, and others draw what it had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.handle import DeploymentHandle

from serve_app.deployment import Replica
from serve_app.engine.fake import POISON_DEVICE, POISON_HANG, FakePipeline
from serve_app.handle_pool import HandlePool
from serve_app.metrics import NoInstruments
from serve_app.replica_watch import ReplicaCounts, ReplicaWatch
from serve_app.request import GenerationRequest, RequestDraft
from serve_app.result import GenerationResult
from serve_app.router import Router
from serve_app.settings import PoolSettings
from serve_app.telemetry import DrawingTelemetry


class Call:
    """A call of a replica: its answer until the replica's process ends, then Ray's word of that."""

    def __init__(self, answer: AsyncGenerator[Any, None], ended: asyncio.Event) -> None:
        self._answer, self._ended = answer, ended

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> Any:
        item = asyncio.ensure_future(anext(self._answer))
        end = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait({item, end}, return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        if not item.done():
            item.cancel()
            raise ActorDiedError()
        return item.result()

    def cancel(self) -> None:
        """Nothing is left to stop in these tests."""


class Process:
    """A replica whose health Serve asks for, and the handle that leads to it."""

    def __init__(self, name: str, price_per_hour: float) -> None:
        self.settings = PoolSettings(
            name=name, model=f"fake/{name}", accelerator="fake", price_per_hour=price_per_hour, max_step_s=0.3
        )
        self.ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def broken() -> None:  # on the engine's thread
            loop.call_soon_threadsafe(self.ended.set)

        self.replica = Replica(self.settings, "fake", on_hung=self.ended.set, on_broken=broken)
        self.prompts: list[str] = []
        self.generate, self.facts = _Method(self._generate), _Method(self.replica.facts)

    def options(self, *, stream: bool) -> Process:
        return self

    def _generate(self, request: GenerationRequest, **named: Any) -> Call:
        self.prompts.append(request.prompt)
        return Call(self.replica.generate(request, progress=named["progress"]), self.ended)

    async def counts(self, deployment: str, *, max_age_s: float) -> ReplicaCounts:
        """As `ReplicaWatch`."""
        running = 0 if self.ended.is_set() else 1
        return ReplicaCounts(running, wanted=1)

    async def health_checks(self) -> None:
        """As Serve asks, until it fails."""
        while not self.ended.is_set():
            await asyncio.sleep(0.05)
            with suppress(RuntimeError):
                self.replica.check_health()

    def pool(self) -> HandlePool:
        """The pool as the router sees it."""
        handle, watch = cast(DeploymentHandle, self), cast(ReplicaWatch, self)
        return HandlePool(self.settings, handle, watch, DrawingTelemetry(NoInstruments()))

    def close(self) -> None:
        cast(FakePipeline, self.replica._engine.pipeline).hung.set()
        self.replica.close()


class _Method:
    def __init__(self, call: Any) -> None:
        self.remote = call


@pytest.fixture
async def processes() -> AsyncIterator[list[Process]]:
    made = [Process("cheap", 0.0), Process("dear", 100.0)]
    yield made
    for process in made:
        process.close()


async def _drawn(router: Router, draft: RequestDraft) -> GenerationResult:
    results = [event async for event in router.stream(draft)]
    assert isinstance(results[-1], GenerationResult)
    return results[-1]


async def test_what_hung_with_a_poisoned_picture_is_drawn_again_with_the_same_seed(
    processes: list[Process],
) -> None:
    cheap, dear = processes
    pools = [process.pool() for process in processes]
    router = Router(pools)
    checks = asyncio.create_task(cheap.health_checks())
    poison = asyncio.create_task(
        _drawn(router, RequestDraft(POISON_HANG, num_inference_steps=20, pool="cheap"))
    )
    neighbour = RequestDraft("a red fox", num_inference_steps=20, seed=7)
    async with asyncio.timeout(30.0):
        result = await _drawn(router, neighbour)
        await checks
    assert cheap.prompts.count("a red fox") == dear.prompts.count("a red fox") == 1
    assert (result.pool, result.images[0].seed) == ("dear", 7)
    # Drawn alone by a replica that never hung it is the same picture.
    again = await _drawn(router, neighbour)
    assert again.images[0].data == result.images[0].data
    poison.cancel()
    await asyncio.gather(poison, return_exceptions=True)
    for pool in pools:
        pool.close()


async def test_what_a_broken_device_had_is_drawn_again_with_the_same_seed(processes: list[Process]) -> None:
    cheap, dear = processes
    pools = [process.pool() for process in processes]
    router = Router(pools)
    poison = asyncio.create_task(
        _drawn(router, RequestDraft(POISON_DEVICE, num_inference_steps=20, pool="cheap"))
    )
    async with asyncio.timeout(30.0):
        result = await _drawn(router, RequestDraft("a red fox", num_inference_steps=20, seed=7))
        await cheap.ended.wait()
    assert (result.pool, result.images[0].seed) == ("dear", 7)
    assert not dear.ended.is_set()
    poison.cancel()
    await asyncio.gather(poison, return_exceptions=True)
    for pool in pools:
        pool.close()
