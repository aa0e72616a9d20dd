"""The ingress's way to the shared place: what happens while that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from serve_app import live_drawings_handle
from serve_app.errors import PoolUnavailable
from serve_app.live_drawings import LiveDrawing, LiveDrawings, LiveDrawingsHere
from serve_app.live_drawings_handle import LiveDrawingsThere

DRAWING = LiveDrawing("d", "me", "t", rounds=1, num_inference_steps=4, started_at=1.0)


class Handle:
    """A handle whose calls do what `answer` does."""

    def __init__(self, answer: Callable[[str, tuple[object, ...]], Any]) -> None:
        self._answer = answer

    def __getattr__(self, method: str) -> Any:
        answer = self._answer

        class Method:
            async def remote(self, *arguments: object) -> Any:
                return await answer(method, arguments)

        return Method()


async def test_every_call_reaches_the_other_side() -> None:
    here = LiveDrawingsHere()
    there: LiveDrawings = LiveDrawingsThere(
        Handle(lambda method, arguments: getattr(here, method)(*arguments))
    )
    assert await there.report(DRAWING) == DRAWING
    await there.skip("d")
    await there.interrupt("d")
    (seen,) = await there.of("me")
    assert (seen.skips, seen.interrupted) == (1, True)
    assert await there.task("t") == [seen]
    await there.finish("d")
    assert await there.was_finished("me", "t")
    await there.choose_model("me", "m")
    assert await there.chosen_model("me") == "m"


async def _hang(method: str, arguments: tuple[object, ...]) -> None:
    await asyncio.sleep(60)


async def _dead(method: str, arguments: tuple[object, ...]) -> None:
    raise RayActorError()


async def _gone(method: str, arguments: tuple[object, ...]) -> None:
    raise RayServeException("no replica")


@pytest.mark.parametrize("answer", [_hang, _dead, _gone])
async def test_drawings_go_on_without_it_and_who_asks_is_told(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, tuple[object, ...]], Any]
) -> None:
    monkeypatch.setattr(live_drawings_handle, "TIMEOUT_S", 0.02)
    there = LiveDrawingsThere(Handle(answer))
    assert await there.report(DRAWING) == DRAWING
    await there.finish("d")
    with pytest.raises(PoolUnavailable, match="try again"):
        await there.of("me")
    with pytest.raises(PoolUnavailable):
        await there.interrupt("d")
