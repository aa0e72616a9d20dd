"""What the engine tells its observer."""

from __future__ import annotations

import pytest

from serve_app.engine import Engine
from serve_app.engine.fake import FakePipeline
from serve_app.engine.observer import RecordingObserver
from serve_app.request import GenerationRequest
from serve_app.warmup import Collector


def _request(name: str, guidance_scale: float = 0.0) -> GenerationRequest:
    return GenerationRequest(name, "a fox", "", 64, 64, 2, guidance_scale, seed=1)


def test_every_step_is_told_with_its_pictures_and_rows() -> None:
    observer = RecordingObserver()
    engine = Engine(FakePipeline(), observer=observer)
    engine.submit(_request("plain"), Collector())
    engine.submit(_request("guided", 5.0), Collector())
    for _ in range(6):
        engine.tick()
    assert engine.stats().images_done == 2
    assert len(observer.steps) == engine.stats().steps_done
    assert (("plain", "guided"), 3) in [(ids, rows) for ids, rows, _ in observer.steps]
    assert all(seconds >= 0.0 for _, _, seconds in observer.steps)


def test_a_step_without_memory_is_told_with_its_rows() -> None:
    observer = RecordingObserver()
    engine = Engine(FakePipeline(memory_rows=2), observer=observer)
    for number in range(4):
        engine.submit(_request(str(number)), Collector())
    for _ in range(20):
        engine.tick()
    assert engine.stats().images_done == 4
    assert observer.out_of_memory
    assert min(observer.out_of_memory) > 2
    assert max(rows for _, rows, _ in observer.steps) <= 2


def test_what_the_engine_logs_of_a_picture_has_its_id(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(FakePipeline())
    monkeypatch.setattr(engine.pipeline, "denoise_step", lambda states: 1 / 0)
    engine.submit(_request("the-one"), Collector())
    engine.tick()
    assert engine.stats().images_failed == 1
    assert [getattr(record, "drawing_id", None) for record in caplog.records] == ["the-one"]
