"""Runners over a fake service, and a receiver of webhooks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serve_app.fake_service import FakeImageService
from serve_app.jobs import JobEvent, JobOrder, JobRunner, JobView
from serve_app.jobs.webhooks import Webhooks
from serve_app.request import RequestDraft
from serve_app.settings import JobsSettings, Settings, StoreSettings

MakeRunner = Callable[..., tuple[JobRunner, FakeImageService]]


@pytest.fixture
async def make_runner(tmp_path: Path) -> AsyncIterator[MakeRunner]:
    """Makes a runner over a fake service, all of them on one store; they are closed at the end."""
    runners: list[JobRunner] = []

    def make(
        *,
        delay_s: float = 0.0,
        failure: Exception | None = None,
        store: StoreSettings | None = None,
        webhooks: Webhooks | None = None,
        **jobs: Any,
    ) -> tuple[JobRunner, FakeImageService]:
        settings = Settings(
            store=store or StoreSettings(url=str(tmp_path / "store"), sweep_interval_s=0.05),
            jobs=JobsSettings(**jobs),
        )
        service = FakeImageService(settings, delay_s=delay_s, failure=failure)
        runner = JobRunner(settings, service, service.store, webhooks=webhooks, first_pause_s=0.01)
        runners.append(runner)
        return runner, service

    yield make
    for runner in runners:
        await runner.close()


def order(prompt: str = "a red fox", **fields: Any) -> JobOrder:
    """An order with small pictures and a fixed seed."""
    keys = ("webhook_url", "idempotency_key", "base_url")
    rest = {key: fields.pop(key) for key in keys if key in fields}
    return JobOrder(RequestDraft(prompt, width=64, height=64, **{"seed": 7, **fields}), **rest)


async def ended(runner: JobRunner, job_id: str, within_s: float = 10.0) -> JobView:
    """The job once it has ended."""
    return await until(runner, job_id, lambda view: view.progress.state.ended, within_s)


async def until(
    runner: JobRunner, job_id: str, reached: Callable[[JobView], bool], within_s: float = 10.0
) -> JobView:
    """The job once `reached` says so."""
    async with asyncio.timeout(within_s):
        while True:
            view = await runner.get(job_id)
            if reached(view):
                return view
            await asyncio.sleep(0.005)


async def eventually(reached: Callable[[], Awaitable[bool]], within_s: float = 10.0) -> None:
    """Waits until `reached` answers true."""
    async with asyncio.timeout(within_s):
        while not await reached():
            await asyncio.sleep(0.01)


@dataclass
class Receiver:
    """A server that takes webhooks.

    Attributes:
        port: On 127.0.0.1.
        answers: Statuses to answer with, one after the other; 204 when they are used up.
        received: (head in lower case, body) of each request.
    """

    port: int = 0
    answers: list[bytes] = field(default_factory=list)
    received: list[tuple[str, bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        self.received.append((head, await reader.readexactly(length)))
        status = self.answers.pop(0) if self.answers else b"204 No Content"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    def header(self, name: str, number: int = -1) -> str:
        """A header of a request."""
        return self.received[number][0].partition(f"\r\n{name}: ")[2].partition("\r\n")[0]


@asynccontextmanager
async def receiver(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Runs a receiver."""
    found = Receiver()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=tls)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found


async def nothing_open(runner: JobRunner) -> bool:
    """Whether nothing is left to do for any job."""
    return await runner._records.open_jobs() == []


async def events_of(runner: JobRunner, job_id: str, last_seen: int = 0) -> list[JobEvent]:
    """All events of a job from there on, until its end."""
    return [event async for event in runner.events(job_id, last_seen)]
