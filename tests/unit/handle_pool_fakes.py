"""What tests of `HandlePool` share: replies and a handle that stand for Ray's, a watch and a clock of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest
from ray.serve.handle import DeploymentHandle

from serve_app import handle_pool, pool_start
from serve_app.capabilities import Capabilities, ModelDefaults, PoolFacts
from serve_app.handle_pool import HandlePool
from serve_app.metrics import NoInstruments
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


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens what a pool waits for."""
    monkeypatch.setattr(pool_start, "_AGAIN_S", 0.01)
    monkeypatch.setattr(handle_pool, "ACCEPT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(handle_pool, "FACTS_TIMEOUT_S", 0.05)


def pool_behind(handle: Handle, watch: Watch, clock: Clock | None = None, **settings: Any) -> HandlePool:
    made = PoolSettings.model_validate({"name": "p", "model": "org/m", "accelerator": "fake"} | settings)
    return HandlePool(
        made,
        cast(DeploymentHandle, handle),
        cast(ReplicaWatch, watch),
        DrawingTelemetry(NoInstruments()),
        caller="ingress-1",
        clock=clock or Clock(),
    )


async def drawn(pool: HandlePool) -> list[Any]:
    async with aclosing(pool.stream(REQUEST, progress=False)) as events:
        return [event async for event in events]
