"""Decoding: between two steps, or beside them on threads of its own; out of memory is tried again."""

from __future__ import annotations

import threading
import time

import pytest

from serve_app.engine import Engine
from serve_app.engine.decoding import MAX_DECODE_ATTEMPTS
from serve_app.engine.fake import FakePipeline
from serve_app.engine.state import ImageState
from serve_app.errors import GenerationCancelled, GenerationFailed, PoolUnavailable
from serve_app.result import Pixels
from tests.unit.engine.driving import (
    WAIT_S,
    Recorder,
    ask,
    count_ticks,
    drawn_alone,
    put,
    run,
    until,
)


class Forgetful(FakePipeline):
    """Finds no memory for its first decodes."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def decode(self, state: ImageState) -> Pixels:
        if self.failures:
            self.failures -= 1
            raise MemoryError
        return super().decode(state)


class Named(FakePipeline):
    """Remembers the threads that decoded."""

    def __init__(self) -> None:
        super().__init__(concurrent_decodes=2)
        self.threads: list[str] = []

    def decode(self, state: ImageState) -> Pixels:
        self.threads.append(threading.current_thread().name)
        return super().decode(state)


def test_a_decode_without_memory_is_tried_again() -> None:
    engine = Engine(Forgetful(MAX_DECODE_ATTEMPTS - 1))
    recorder = put(engine, ask())
    run(engine)
    assert recorder.pictures == {0: drawn_alone(ask())}


def test_a_decode_that_never_finds_memory_fails_clearly() -> None:
    engine = Engine(Forgetful(MAX_DECODE_ATTEMPTS))
    recorder = put(engine, ask())
    run(engine)
    assert isinstance(recorder.failures[0], GenerationFailed)
    assert "memory" in str(recorder.failures[0])


def test_steps_go_on_beside_a_decode() -> None:
    pipeline = FakePipeline(step_s=0.001, concurrent_decodes=1)
    engine = Engine(pipeline)
    engine.start()
    pipeline.decode_gate.clear()
    try:
        long = put(engine, ask("long", steps=60_000))
        short = put(engine, ask("short", steps=1))
        until(lambda: any(progress.step == 1 for progress in short.progress))
        before = engine.stats().steps_done
        until(lambda: engine.stats().steps_done > before + 50)
        assert not short.pictures
        pipeline.decode_gate.set()
        assert short.ended.wait(WAIT_S)
        assert short.pictures == {0: drawn_alone(ask("short", steps=1))}
        assert not long.ended.is_set()
    finally:
        pipeline.decode_gate.set()
        assert engine.stop(WAIT_S)


def test_the_only_picture_is_decoded_by_the_engine_itself_and_several_beside() -> None:
    pipeline = Named()
    engine = Engine(pipeline)
    engine.start()
    try:
        assert put(engine, ask()).ended.wait(WAIT_S)
        assert pipeline.threads == ["engine"]
        recorder = put(engine, ask(images=6))
        assert recorder.ended.wait(WAIT_S)
        assert len(recorder.pictures) == 6
        assert any(name.startswith("engine-decode") for name in pipeline.threads)
    finally:
        assert engine.stop(WAIT_S)


def test_cancelling_during_a_decode_ends_the_picture_once() -> None:
    pipeline = FakePipeline(step_s=0.001, concurrent_decodes=1)
    engine = Engine(pipeline)
    engine.start()
    pipeline.decode_gate.clear()
    try:
        put(engine, ask("other", steps=60_000))
        recorder = Recorder()
        ticket = engine.submit(ask("mine", steps=1), recorder)
        until(lambda: any(p.step == 1 for p in recorder.progress))
        ticket.cancel()
        assert recorder.ended.wait(WAIT_S)
        assert isinstance(recorder.failures[0], GenerationCancelled)
        pipeline.decode_gate.set()
        done = put(engine, ask("next", steps=1))
        assert done.ended.wait(WAIT_S), "the slot is free again"
        assert not recorder.pictures
    finally:
        pipeline.decode_gate.set()
        assert engine.stop(WAIT_S)


def test_nothing_turns_idly_while_all_that_is_left_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = FakePipeline(concurrent_decodes=2)
    engine = Engine(pipeline)
    ticks = count_ticks(engine, monkeypatch)
    pipeline.decode_gate.clear()
    engine.start()
    try:
        recorder = put(engine, ask(images=2, steps=1))
        until(lambda: engine.stats().steps_done >= 1)
        time.sleep(0.2)
        assert len(ticks) < 10
        pipeline.decode_gate.set()
        assert recorder.ended.wait(WAIT_S)
    finally:
        pipeline.decode_gate.set()
        assert engine.stop(WAIT_S)


def test_stopping_during_a_decode_fails_the_picture() -> None:
    pipeline = FakePipeline(concurrent_decodes=2)
    engine = Engine(pipeline)
    engine.start()
    pipeline.decode_gate.clear()
    recorder = put(engine, ask(images=2, steps=1))
    until(lambda: engine.stats().steps_done >= 1)
    try:
        assert engine.stop(WAIT_S)
        assert all(isinstance(error, PoolUnavailable) for error in recorder.failures.values())
        assert len(recorder.failures) == 2
    finally:
        pipeline.decode_gate.set()
