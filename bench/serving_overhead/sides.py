"""The sides of the comparison: `EngineSide` over pipes to a process, `HttpSide` over HTTP to a server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Protocol

import httpx

from bench.closed_loop import Answer, closed_loop
from bench.light_client import LightClient
from bench.serving_overhead.bare_engine import Turn
from bench.whole_service import free_port
from serve_app.load_test import PROMPTS
from serve_app.settings import PoolSettings

START_TIMEOUT_S = 300.0
_STOP_S = 30.0
_MAX_LINE_BYTES = 16 * 2**20


class Side(Protocol):
    """Draws the pictures of a turn."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    async def play(self, turn: Turn) -> list[Answer]:
        """Draws what the turn asks for; raises when a picture does not come."""
        ...


class HttpSide:
    """A server with the service's ``GET /imagine``; the pictures are read and dropped.

    Args:
        name: For tables.
        client: Of the server.
    """

    def __init__(self, name: str, client: LightClient) -> None:
        self._name = name
        self._client = client

    @property
    def name(self) -> str:
        """As `Side.name`."""
        return self._name

    async def play(self, turn: Turn) -> list[Answer]:
        """As `Side.play`."""

        async def ask(number: int) -> None:
            answer = await self._client.get(
                "imagine",
                params={
                    "prompt": PROMPTS[number % len(PROMPTS)],
                    "width": turn.width,
                    "height": turn.height,
                    "num_inference_steps": turn.num_inference_steps,
                    "guidance_scale": turn.guidance_scale,
                    "seed": turn.first_seed + number,
                },
            )
            answer.raise_for_status()

        return await closed_loop(ask, clients=turn.clients, pictures=turn.pictures)


class EngineSide:
    """The bare engine in a process of its own.

    Args:
        process: Runs `bench.serving_overhead.bare_engine` and has said that it is ready.
        files: Whether its pictures are files or pixels.
    """

    def __init__(self, process: asyncio.subprocess.Process, *, files: bool) -> None:
        self._process = process
        self._files = files

    @property
    def name(self) -> str:
        """As `Side.name`."""
        return "engine" if self._files else "engine, pixels only"

    async def play(self, turn: Turn) -> list[Answer]:
        """As `Side.play`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(replace(turn, files=self._files))).encode() + b"\n")
        return [Answer(*pair) for pair in json.loads(await _line(self._process))]


@asynccontextmanager
async def bare_engine(pool: PoolSettings) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Starts the engine's process; gives it and the name of its number type."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.serving_overhead.bare_engine",
        pool.model_dump_json(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_MAX_LINE_BYTES,
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            ready = json.loads(await _line(process))
        yield process, ready["dtype"]
    finally:
        await _stopped(process)


@asynccontextmanager
async def plain_server(pool: PoolSettings, dtype: str) -> AsyncIterator[LightClient]:
    """Starts FastAPI with plain diffusers; gives a client of it.

    Raises:
        RuntimeError: It did not start.
    """
    port = free_port()
    threads = pool.num_threads or len(os.sched_getaffinity(0))
    options = {"port": port, "model": pool.model, "dtype": dtype, "num-threads": threads}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.serving_overhead.plain_server",
        *(text for name, value in options.items() for text in (f"--{name}", str(value))),
    )
    try:
        async with LightClient(f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not await _answers(client):
                if process.returncode is not None or time.monotonic() > deadline:
                    raise RuntimeError("the plain server did not start")
                await asyncio.sleep(0.2)
            yield client
    finally:
        await _stopped(process)


async def _answers(client: LightClient) -> bool:
    try:
        return (await client.get("health", params={})).status_code == 200
    except httpx.TransportError:
        return False


async def _line(process: asyncio.subprocess.Process) -> bytes:
    """The next line that it says.

    Raises:
        RuntimeError: It has ended.
    """
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("the engine's process has ended")
    return line


async def _stopped(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
