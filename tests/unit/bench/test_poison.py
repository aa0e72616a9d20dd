"""`PoisonedPipeline`: what is marked fails, alone, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from bench.poison import DECODE, NOT_FINITE, PREPARE, STEP, OutOfMemory, PoisonedPipeline
from serve_app.engine.fake import FakePipeline
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import GenerationFailed
from serve_app.result import Pixels
from tests.unit.pipelines.drawing import ask, draw_alone, draw_together


def small(prompt: str = "a cat", **changes: Any) -> Any:
    return ask(prompt, width=64, height=64, request_id=prompt, **changes)


@pytest.mark.parametrize("mark", [PREPARE, STEP, DECODE, NOT_FINITE])
@pytest.mark.parametrize("steps", [1, 4])
def test_only_the_marked_one_fails(mark: str, steps: int) -> None:
    poisoned: Any = PoisonedPipeline(FakePipeline())
    requests = [small("a cat"), small(f"a dog, {mark}", num_inference_steps=steps), small("the sea")]
    first, marked, last = draw_together(poisoned, requests)
    assert isinstance(marked.ends[0], GenerationFailed)
    assert first.ends == {0: draw_alone(FakePipeline(), requests[0])}
    assert last.ends == {0: draw_alone(FakePipeline(), requests[2])}


def test_few_rows_are_drawn_with_little_memory() -> None:
    poisoned: Any = PoisonedPipeline(FakePipeline())
    poisoned.memory_rows = 2
    requests = [small(f"cat {number}", guidance_scale=3.0) for number in range(4)]
    for request, ends in zip(requests, draw_together(poisoned, requests), strict=True):
        assert ends.ends == {0: draw_alone(FakePipeline(), request)}
    assert poisoned.oom_steps > 0


def test_a_decode_that_runs_out_of_memory_is_written_down() -> None:
    poisoned: Any = PoisonedPipeline(FakePipeline())
    poisoned.decode_oom_share = 1.0
    (ends,) = draw_together(poisoned, [small()])
    assert isinstance(ends.ends[0], GenerationFailed)
    assert poisoned.oom_decodes == {("a cat", 0)}


def test_it_knows_its_own_errors_and_the_pipelines() -> None:
    poisoned: Any = PoisonedPipeline(FakePipeline())
    assert isinstance(poisoned, StepPipeline)
    assert poisoned.is_out_of_memory(OutOfMemory())
    assert poisoned.is_out_of_memory(MemoryError())
    assert not poisoned.is_out_of_memory(ValueError())
    assert isinstance(draw_alone(poisoned, small()), Pixels)
