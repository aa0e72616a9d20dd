"""Whatever arrives with it, before it and after it: a picture is the one drawn alone."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine import Engine
from serve_app.engine.fake import POISON_STEP, FakePipeline
from serve_app.errors import GenerationCancelled, GenerationFailed, ImagineError
from serve_app.request import GenerationRequest, Priority
from serve_app.result import Pixels, StageSeconds, StepProgress


@dataclass(frozen=True)
class Arrival:
    request: GenerationRequest
    after_ticks: int
    cancel_after_ticks: int | None


class Ends:
    """A listener that insists on one end per picture."""

    def __init__(self) -> None:
        self.ends: dict[int, Pixels | ImagineError] = {}

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        assert 0 <= progress.step <= progress.num_inference_steps

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        assert self.ends.setdefault(index, pixels) is pixels

    def on_failure(self, index: int, error: ImagineError) -> None:
        assert self.ends.setdefault(index, error) is error


arrivals = st.builds(
    Arrival,
    request=st.builds(
        GenerationRequest,
        request_id=st.uuids().map(str),
        prompt=st.sampled_from(["a cat", "a dog", POISON_STEP]),
        negative_prompt=st.sampled_from(["", "blurry"]),
        height=st.sampled_from([64, 128]),
        width=st.sampled_from([64, 96]),
        num_inference_steps=st.integers(2, 9),
        guidance_scale=st.sampled_from([0.0, 1.0, 3.0]),
        seed=st.integers(0, 2**32 - 1),
        num_images=st.integers(1, 3),
        scheduler_name=st.sampled_from([None, "ddim"]),
        priority=st.sampled_from(list(Priority)),
    ),
    after_ticks=st.integers(0, 4),
    cancel_after_ticks=st.none() | st.integers(0, 8),
)


def drawn_alone(request: GenerationRequest, index: int) -> Pixels:
    pipeline = FakePipeline()
    state = pipeline.prepare(request, index)
    while not state.finished:
        pipeline.denoise_step([state])
        state.step += 1
    return pipeline.decode(state)


@settings(max_examples=60, deadline=None)
@given(
    plan=st.lists(arrivals, min_size=1, max_size=8),
    max_rows=st.integers(2, 8),
    memory_rows=st.none() | st.integers(2, 5),
)
def test_every_picture_equals_the_one_drawn_alone(
    plan: list[Arrival], max_rows: int, memory_rows: int | None
) -> None:
    pipeline = FakePipeline(max_rows=max_rows, memory_rows=memory_rows)
    engine = Engine(pipeline, max_rows=max_rows)
    asked = []
    cancels = []
    ticks = 0
    for arrival in plan:
        for _ in range(arrival.after_ticks):
            engine.tick()
            ticks += 1
        ends = Ends()
        ticket = engine.submit(arrival.request, ends)
        asked.append((arrival, ends))
        if arrival.cancel_after_ticks is not None:
            cancels.append((ticks + arrival.cancel_after_ticks, ticket))
    for _ in range(1000):
        for at, ticket in cancels:
            if at <= ticks:
                ticket.cancel()
        stats = engine.stats()
        if not stats.queued_images + stats.running_images:
            break
        engine.tick()
        ticks += 1
    for arrival, ends in asked:
        assert sorted(ends.ends) == list(range(arrival.request.num_images)), "every picture ends"
        for index, end in ends.ends.items():
            if isinstance(end, GenerationCancelled):
                assert arrival.cancel_after_ticks is not None
            elif arrival.request.prompt == POISON_STEP:
                assert isinstance(end, GenerationFailed)
            else:
                assert end == drawn_alone(arrival.request, index)
