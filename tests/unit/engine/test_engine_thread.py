"""The engine with its own thread: listeners that raise, stopping, a step that hangs."""

from __future__ import annotations

import threading

import pytest

from serve_app.engine import Engine
from serve_app.engine.fake import POISON_DEVICE, POISON_STEP, FakePipeline
from serve_app.engine.picture import Picture
from serve_app.errors import (
    GenerationCancelled,
    GenerationFailed,
    ImagineError,
    PoolUnavailable,
)
from serve_app.result import Pixels, StepProgress
from tests.unit.engine.driving import WAIT_S, ManualClock, Recorder, ask, put, run


def threaded(pipeline: FakePipeline) -> Engine:
    engine = Engine(pipeline)
    engine.start()
    return engine


def test_a_listener_that_raises_at_the_last_step_is_still_told_the_end() -> None:
    class Raises(Recorder):
        def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
            super().on_progress(progress, preview)
            if progress.step == progress.num_inference_steps:
                raise RuntimeError("a bug of the caller")

    engine = Engine(FakePipeline())
    engine.start()
    try:
        recorder = Raises()
        engine.submit(ask(steps=2), recorder)
        assert recorder.ended.wait(WAIT_S), "nothing else wakes the engine, and the picture must not be lost"
        assert isinstance(recorder.failures[0], GenerationCancelled)
        assert engine.stuck_for_s() == 0
    finally:
        assert engine.stop(WAIT_S)


def test_the_thread_draws_stops_and_refuses_afterwards() -> None:
    engine = threaded(FakePipeline())
    recorder = put(engine, ask())
    assert recorder.ended.wait(WAIT_S)
    assert any(thread.name == "engine" for thread in threading.enumerate())
    assert engine.stop(WAIT_S)
    assert not any(thread.name == "engine" for thread in threading.enumerate())
    with pytest.raises(PoolUnavailable):
        put(engine, ask())


def test_stopping_is_bounded_and_fails_what_is_unfinished() -> None:
    pipeline = FakePipeline()
    pipeline.gate.clear()
    engine = threaded(pipeline)
    recorder = put(engine, ask())
    assert recorder.admitted.wait(WAIT_S)
    assert not engine.stop(0.05), "the step hangs"
    pipeline.gate.set()
    assert engine.stop(WAIT_S)
    assert isinstance(recorder.failures[0], PoolUnavailable)


def test_a_hanging_step_is_seen_and_idling_is_not() -> None:
    clock = ManualClock()
    pipeline = FakePipeline()
    engine = Engine(pipeline, clock=clock)
    clock.sleep(100)
    assert engine.stuck_for_s() == 0
    pipeline.gate.clear()
    recorder = put(engine, ask())
    assert engine.stuck_for_s() == 0
    engine.start()
    clock.sleep(30)
    assert engine.stuck_for_s() == pytest.approx(30)
    pipeline.gate.set()
    assert recorder.ended.wait(WAIT_S)
    assert engine.stop(WAIT_S)


def test_a_device_that_is_broken_is_told_before_its_pictures_are_failed() -> None:
    events: list[str] = []

    class Told(Recorder):
        def on_failure(self, index: int, error: ImagineError) -> None:
            events.append(type(error).__name__)
            super().on_failure(index, error)

    engine = Engine(FakePipeline(), on_broken=lambda: events.append("broken"))
    for prompt in (POISON_STEP, POISON_DEVICE):
        assert events == (
            ["GenerationFailed"] if prompt == POISON_DEVICE else []
        )  # one bad picture is no bad device
        neighbour, poisoned = Told(), Told()
        engine.submit(ask("neighbour"), neighbour)
        engine.submit(ask("poisoned", prompt), poisoned)
        run(engine)
        assert bool(neighbour.pictures) == (prompt == POISON_STEP)
    assert events[1:3] == ["broken", "PoolUnavailable"], "another replica draws it"
    assert events.count("PoolUnavailable") == 2


def test_an_error_of_the_engine_itself_never_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FakePipeline())
    original = engine._decoding.start
    calls = iter([RuntimeError("a bug of the engine")])

    def broken_once() -> Picture | None:
        error = next(calls, None)
        if error is not None:
            raise error
        return original()

    monkeypatch.setattr(engine._decoding, "start", broken_once)
    engine.start()
    first = put(engine, ask())
    assert first.ended.wait(WAIT_S)
    assert isinstance(first.failures[0], GenerationFailed)
    second = put(engine, ask())
    assert second.ended.wait(WAIT_S)
    assert second.pictures
    assert engine.stop(WAIT_S)
