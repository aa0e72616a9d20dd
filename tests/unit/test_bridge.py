"""What the engine's thread says reaches the event loop, in order."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serve_app.bridge import Bridge
from serve_app.errors import GenerationFailed
from serve_app.result import GeneratedImage, Pixels, StageSeconds, StepProgress

STEP = StepProgress("id", 0, 1, 4)
PIXELS = Pixels(1, 1, b"abc")
ERROR = GenerationFailed("no")


def said(bridge: Bridge) -> None:
    def say() -> None:
        bridge.on_progress(STEP, PIXELS)
        bridge.on_picture(0, PIXELS, StageSeconds())
        bridge.on_failure(1, ERROR)

    thread = threading.Thread(target=say)
    thread.start()
    thread.join()


async def heard(bridge: Bridge, count: int) -> list[object]:
    async with asyncio.timeout(5):
        return [await bridge.events.get() for _ in range(count)]


async def test_all_that_is_said_on_a_thread_is_heard_in_order() -> None:
    bridge = Bridge(asyncio.get_running_loop(), progress=True)
    said(bridge)
    assert await heard(bridge, 3) == [(STEP, PIXELS), (0, PIXELS, StageSeconds()), ERROR]


async def test_steps_are_heard_by_those_who_asked_alone() -> None:
    bridge = Bridge(asyncio.get_running_loop(), progress=False)
    said(bridge)
    assert await heard(bridge, 2) == [(0, PIXELS, StageSeconds()), ERROR]
    assert bridge.events.empty()


@pytest.mark.parametrize("error", [ERROR, ValueError("an encoder's own")])
async def test_a_file_that_will_not_be_is_an_event(error: Exception) -> None:
    async def encode() -> GeneratedImage:
        raise error

    bridge = Bridge(asyncio.get_running_loop(), progress=False)
    file = asyncio.create_task(encode())
    file.add_done_callback(bridge.on_file)
    assert await heard(bridge, 1) == [error]


async def test_a_file_that_nobody_wants_any_more_is_none() -> None:
    bridge = Bridge(asyncio.get_running_loop(), progress=False)
    file: asyncio.Task[GeneratedImage] = asyncio.create_task(asyncio.sleep(60))  # type: ignore[arg-type]
    file.add_done_callback(bridge.on_file)
    file.cancel()
    await asyncio.wait({file})
    assert bridge.events.empty()
