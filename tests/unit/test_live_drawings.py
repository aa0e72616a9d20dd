"""The one place that knows what is being drawn."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from serve_app import live_drawings
from serve_app.live_drawings import LEASE_S, LiveDrawing, LiveDrawingsHere, LiveProgress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def drawing(
    drawing_id: str, caller: str = "me", task_id: str | None = None, started_at: float = 1.0
) -> LiveDrawing:
    return LiveDrawing(drawing_id, caller, task_id, rounds=2, num_inference_steps=4, started_at=started_at)


async def test_each_caller_sees_its_own_oldest_first() -> None:
    live = LiveDrawingsHere()
    for one in (drawing("b", started_at=2.0), drawing("a"), drawing("c", "other")):
        await live.report(one)
    assert [one.drawing_id for one in await live.of("me")] == ["a", "b"]
    assert [one.drawing_id for one in await live.of("other")] == ["c"]
    await live.finish("a")
    await live.finish("a")
    assert [one.drawing_id for one in await live.of("me")] == ["b"]
    assert await live.of("nobody") == []


async def test_wishes_survive_the_next_report() -> None:
    live = LiveDrawingsHere()
    first = await live.report(drawing("a"))
    await live.skip("a")
    await live.skip("a")
    await live.interrupt("a")
    again = await live.report(replace(first, progress=LiveProgress(steps_done=3)))
    assert (again.interrupted, again.skips, again.progress.steps_done) == (True, 2, 3)
    await live.interrupt("gone")
    await live.skip("gone")
    assert pickle.loads(pickle.dumps(again)) == again


async def test_a_drawing_that_is_not_heard_of_is_forgotten() -> None:
    clock = Clock()
    live = LiveDrawingsHere(clock)
    await live.report(drawing("a"))
    clock.now += LEASE_S - 1
    await live.report(drawing("b"))
    clock.now += 2
    assert [one.drawing_id for one in await live.of("me")] == ["b"]


async def test_tasks_and_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_drawings, "MAX_REMEMBERED", 2)
    live = LiveDrawingsHere()
    for number in range(3):
        await live.report(drawing(f"d{number}", task_id=f"t{number}"))
    assert [one.drawing_id for one in await live.task("t1")] == ["d1"]
    for number in range(3):
        await live.finish(f"d{number}")
    assert [await live.was_finished("me", f"t{number}") for number in range(3)] == [False, True, True]
    assert not await live.was_finished("other", "t2")


async def test_models_are_chosen_by_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_drawings, "MAX_REMEMBERED", 2)
    live = LiveDrawingsHere()
    for caller in ("a", "b", "a", "c"):
        await live.choose_model(caller, f"model of {caller}")
    assert [await live.chosen_model(caller) for caller in "abc"] == ["model of a", None, "model of c"]
