"""A short soak passes, and a pipeline that breaks a promise does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from bench.soak import Soak
from serve_app.engine.fake import FakePipeline
from serve_app.engine.pipeline import StepPipeline
from serve_app.engine.state import ImageState
from serve_app.pipelines.loading import load_sdxl
from serve_app.settings import PoolSettings


@pytest.fixture
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def soak(pipeline: StepPipeline, *, seconds: float, **settings: Any) -> dict[str, Any]:
    return Soak(pipeline, minutes=seconds / 60, seed=3, most_samples=12, **settings).run()


@pytest.mark.usefixtures("_one_thread")
def test_the_bundled_model_keeps_every_promise() -> None:
    pipeline = load_sdxl(PoolSettings(), device=torch.device("cpu"), dtype=torch.float32)
    report = soak(pipeline, seconds=6.0, max_queued_images=8)
    assert report["passed"], report
    assert report["ends"]["picture"] > 0


def test_much_traffic_on_the_fake_does_too() -> None:
    report = soak(FakePipeline(step_s=0.005), seconds=4.0, max_queued_images=8)
    assert report["passed"], report
    assert set(report["ends"]) >= {"picture", "GenerationFailed"}


class _Neighbourly(FakePipeline):
    """Lets a neighbour in the batch change a picture."""

    def denoise_step(self, batch: Sequence[ImageState]) -> None:
        super().denoise_step(batch)
        if len(batch) > 1:
            batch[0].latents = batch[1].latents


class _Forgetful(Soak):
    """Loses the count of what it was promised."""

    def _submit(self) -> None:
        super()._submit()
        self.accepted_pictures += not self.readings[1:]


def test_a_picture_that_depends_on_its_neighbours_is_found() -> None:
    report = soak(_Neighbourly(step_s=0.002), seconds=1.5)
    failed = {name for name, check in report["checks"].items() if not check["passed"]}
    assert failed == {"sampled pictures equal those drawn alone"}, report


def test_a_picture_that_nobody_hears_of_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.soak._DRAIN_S", 2.0)
    report = _Forgetful(FakePipeline(), minutes=0.01, seed=3, most_samples=3).run()
    assert not report["checks"]["every accepted picture ends exactly once"]["passed"]
