"""Which calls of a pipeline run at once where decodes may run beside the steps, and that no place idles."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from serve_app.engine import Engine
from serve_app.engine.fake import FakePipeline
from serve_app.engine.state import ImageState
from serve_app.request import GenerationRequest
from serve_app.result import Pixels
from tests.unit.engine.driving import (
    WAIT_S,
    ask,
    count_ticks,
    put,
    stands_still,
    until,
)


class OneStuck(FakePipeline):
    """The first decode beside the engine waits for an event."""

    def __init__(self) -> None:
        super().__init__(concurrent_decodes=1)
        self.go_on = threading.Event()
        self.stuck = False

    def decode(self, state: ImageState) -> Pixels:
        if not self.stuck and threading.current_thread().name != "engine":
            self.stuck = True
            self.go_on.wait()
        return super().decode(state)


class Counting(FakePipeline):
    """Remembers which calls ran at once, and the most of each.

    Args:
        concurrent_decodes: See `Capabilities`.
    """

    def __init__(self, concurrent_decodes: int) -> None:
        super().__init__(step_s=0.002, decode_s=0.003, concurrent_decodes=concurrent_decodes)
        self.lock = threading.Lock()
        self.now = {"prepare": 0, "step": 0, "decode": 0}
        self.most_decodes = self.most = 0

    @contextmanager
    def _counted(self, call: str) -> Iterator[None]:
        with self.lock:
            self.now[call] += 1
            self.most = max(self.most, sum(self.now.values()))
            self.most_decodes = max(self.most_decodes, self.now["decode"])
        try:
            yield
        finally:
            with self.lock:
                self.now[call] -= 1

    def prepare(self, request: GenerationRequest, index: int) -> ImageState:
        with self._counted("prepare"):
            return super().prepare(request, index)

    def denoise_step(self, batch: Sequence[ImageState]) -> None:
        with self._counted("step"):
            super().denoise_step(batch)

    def decode(self, state: ImageState) -> Pixels:
        with self._counted("decode"):
            return super().decode(state)


class LongSteps(FakePipeline):
    """Steps of a picture that is called long wait for an event."""

    def __init__(self) -> None:
        super().__init__(concurrent_decodes=1)
        self.go_on = threading.Event()

    def denoise_step(self, batch: Sequence[ImageState]) -> None:
        if any(state.step and state.request.request_id == "long" for state in batch):
            self.go_on.wait()
        super().denoise_step(batch)


class Told(OneStuck):
    """Remembers what it was told of decodes beside before each of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = 0
        self.at_calls: list[tuple[str, str, int]] = []

    def decodes_beside(self, count: int) -> None:
        self.beside = count

    def denoise_step(self, batch: Sequence[ImageState]) -> None:
        self._note("step")
        super().denoise_step(batch)

    def decode(self, state: ImageState) -> Pixels:
        self._note("decode")
        return super().decode(state)

    def _note(self, call: str) -> None:
        where = "engine" if threading.current_thread().name == "engine" else "beside"
        self.at_calls.append((call, where, self.beside))


def test_the_pipeline_hears_of_a_decode_beside_before_any_call_that_may_meet_it() -> None:
    pipeline = Told()
    engine = Engine(pipeline)
    recorder = put(engine, ask(images=4, steps=1))
    late = put(engine, ask("late", images=2, steps=3))
    engine.start()
    try:
        # One decode stays where it is, whether it has started or not; the other place is for all the rest.
        until(lambda: sum(len(one.pictures) for one in (recorder, late)) == 5)
        pipeline.go_on.set()
        assert recorder.ended.wait(WAIT_S)
        assert late.ended.wait(WAIT_S)
        until(lambda: pipeline.beside == 0)
    finally:
        pipeline.go_on.set()
        assert engine.stop(WAIT_S)
    first = pipeline.at_calls.index(("step", "engine", 0))
    meanwhile = pipeline.at_calls[first + 1 :]
    assert ("step", "engine", 1) in meanwhile, "the steps of the later ones, beside one decode"
    assert not {("step", "engine", 2), ("decode", "beside", 0)} & set(meanwhile)
    assert ("decode", "beside", 2) in meanwhile, "two decodes when there are no steps to do"


def test_a_decode_takes_the_place_of_steps_that_nobody_has_to_do() -> None:
    pipeline = OneStuck()
    engine = Engine(pipeline)
    engine.start()
    try:
        recorder = put(engine, ask(images=4, steps=1))
        until(lambda: len(recorder.pictures) == 3)
        pipeline.go_on.set()
        assert recorder.ended.wait(WAIT_S)
    finally:
        pipeline.go_on.set()
        assert engine.stop(WAIT_S)


@pytest.mark.parametrize("concurrent_decodes", [1, 2])
def test_no_more_calls_run_at_once_than_the_device_has_places(concurrent_decodes: int) -> None:
    pipeline = Counting(concurrent_decodes)
    engine = Engine(pipeline)
    engine.start()
    try:
        recorders = [put(engine, ask(str(i), images=3, steps=1 + i % 5)) for i in range(20)]
        assert all(recorder.ended.wait(WAIT_S) for recorder in recorders)
    finally:
        assert engine.stop(WAIT_S)
    assert all(len(recorder.pictures) == 3 for recorder in recorders)
    assert pipeline.most == pipeline.most_decodes == concurrent_decodes + 1


def test_a_single_picture_that_waits_for_its_decode_leaves_the_last_place_to_steps() -> None:
    pipeline = FakePipeline(step_s=0.001, concurrent_decodes=1)
    engine = Engine(pipeline)
    pipeline.decode_gate.clear()
    engine.start()
    try:
        put(engine, ask("long", steps=60_000))
        first, second = (put(engine, ask(name, steps=1)) for name in ("first", "second"))
        until(lambda: all(any(p.step == 1 for p in one.progress) for one in (first, second)))
        before = engine.stats().steps_done
        until(lambda: engine.stats().steps_done > before + 20)
        third = put(engine, ask("third", steps=1))
        until(lambda: any(p.step == 1 for p in third.progress))
        until(lambda: stands_still(engine))  # two wait now: one of them takes the place
        pipeline.decode_gate.set()
        assert all(one.ended.wait(WAIT_S) for one in (first, second, third))
        stood = engine.stats().steps_done
        until(lambda: engine.stats().steps_done > stood + 20)
    finally:
        pipeline.decode_gate.set()
        assert engine.stop(WAIT_S)


def test_a_decode_does_not_wait_for_the_end_of_a_step() -> None:
    pipeline = LongSteps()
    engine = Engine(pipeline)
    recorder = put(engine, ask("short", images=4, steps=1))
    long = put(engine, ask("long", steps=2))
    engine.start()
    try:
        assert recorder.ended.wait(WAIT_S), "all four are decoded while the engine is in a step"
        assert len(recorder.pictures) == 4
        assert not long.pictures
        pipeline.go_on.set()
        assert long.ended.wait(WAIT_S)
    finally:
        pipeline.go_on.set()
        assert engine.stop(WAIT_S)


def test_nothing_turns_idly_while_the_queue_waits_for_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = FakePipeline(concurrent_decodes=1)
    engine = Engine(pipeline, max_rows=1)  # two guided pictures in flight: the others wait for room
    ticks = count_ticks(engine, monkeypatch)
    pipeline.decode_gate.clear()
    engine.start()
    try:
        recorder = put(engine, ask(images=6, steps=1, guidance=5.0))
        until(lambda: engine.stats().steps_done == 2)
        time.sleep(0.2)
        assert len(ticks) < 20
        pipeline.decode_gate.set()
        assert recorder.ended.wait(WAIT_S)
        assert len(recorder.pictures) == 6
    finally:
        pipeline.decode_gate.set()
        assert engine.stop(WAIT_S)
