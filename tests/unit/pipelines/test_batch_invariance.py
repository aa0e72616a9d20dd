"""On the bundled model: whatever arrives with it, before it and after it, a picture is the one drawn alone.

`tests/unit/engine/test_batch_invariance.py` shows the same of the engine's bookkeeping, bit for bit, on the fake.
Here the UNet's sums differ in their last bits with the number of rows, so pictures may differ by 1 of 255.
``EXHAUSTIVE=1 pytest tests/unit/pipelines/test_batch_invariance.py`` tries many more arrivals.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from serve_app import accelerators
from serve_app.engine import Engine, Ticket
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import GenerationCancelled
from serve_app.noise_schedulers import NOISE_SCHEDULERS
from serve_app.pipelines.loading import load_sdxl
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.request import GenerationRequest, Priority
from serve_app.result import Pixels
from serve_app.settings import PoolSettings
from tests.unit.pipelines.drawing import Ends, array, ask, busy, difference, draw_alone, draw_together

EXHAUSTIVE = bool(os.environ.get("EXHAUSTIVE"))
TOLERANCE = 1  # of 255
DEADLOCK_S = 120.0

SCHEDULERS = (None, *(scheduler.name for scheduler in NOISE_SCHEDULERS))
# Odd latents too: 160 / 32 = 5, which the UNet halves and interpolates on its way up.
SIZES = ((128, 128), (160, 128), (256, 128)) + (((256, 256), (256, 384), (512, 512)) if EXHAUSTIVE else ())
PROMPTS = (
    "a yellow star in the city",
    "two red circles on the beach",
    "a green square and a black cat in the city " * 12,  # two chunks of text: never in a step with the others
)
GUIDANCE_SCALES = (0.0, 3.0, 7.5)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pipeline() -> SdxlPipeline:
    """The bundled model as the service loads it, float32."""
    return load_sdxl(PoolSettings(), device=torch.device("cpu"), dtype=torch.float32)


class Alone:
    """Pictures drawn alone, each once.

    Args:
        pipeline: Draws them.
    """

    def __init__(self, pipeline: StepPipeline) -> None:
        self._pipeline = pipeline
        self._known: dict[GenerationRequest, Pixels] = {}

    def picture(self, request: GenerationRequest, index: int) -> Pixels:
        """Picture `index` of `request`."""
        # Neither who asked nor how urgently matters to a picture.
        single = replace(
            request,
            request_id="alone",
            seed=request.image_seed(index),
            num_images=1,
            priority=Priority.INTERACTIVE,
        )
        if single not in self._known:
            self._known[single] = draw_alone(self._pipeline, single)
        return self._known[single]


@pytest.fixture(scope="module")
def alone(pipeline: SdxlPipeline) -> Alone:
    return Alone(pipeline)


@dataclass(frozen=True)
class Arrival:
    request: GenerationRequest
    after_ticks: int
    cancel_after_ticks: int | None


def kind(number: int) -> GenerationRequest:
    """The periods have no common divisor or differ, so neighbouring numbers differ in everything."""
    guidance_scale = GUIDANCE_SCALES[number // 2 % len(GUIDANCE_SCALES)]
    width, height = SIZES[number % len(SIZES)]
    return ask(
        PROMPTS[number // 5 % len(PROMPTS)],
        negative_prompt=("", "blurry")[number % 2],
        width=width,
        height=height,
        num_inference_steps=1 + number % 5 + number // 7 % 2,
        guidance_scale=guidance_scale,
        seed=number,
        scheduler_name=SCHEDULERS[number % len(SCHEDULERS)],
    )


def arrivals() -> st.SearchStrategy[Arrival]:
    """Of few kinds, so that most pictures drawn alone are known already; in an order that is any."""
    return st.builds(
        lambda number, images, priority, after, cancel: Arrival(
            replace(kind(number), num_images=images, priority=priority), after, cancel
        ),
        st.integers(0, 959 if EXHAUSTIVE else 23),
        st.sampled_from([1, 1, 2]),
        st.sampled_from(list(Priority)),
        st.integers(0, 4),
        st.none() | st.none() | st.integers(0, 6),
    )


plans = st.lists(arrivals(), min_size=2, max_size=8)
# Shrinking draws for minutes; the plan that failed is printed, and is short.
few = settings(
    max_examples=150 if EXHAUSTIVE else 6,
    deadline=None,
    derandomize=not EXHAUSTIVE,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def check(plan: list[Arrival], asked: list[Ends], alone: Alone) -> None:
    for arrival, ends in zip(plan, asked, strict=True):
        assert sorted(ends.ends) == list(range(arrival.request.num_images)), "every picture ends"
        assert not ends.twice
        for index, end in ends.ends.items():
            if isinstance(end, Pixels):
                expected = alone.picture(arrival.request, index)
                assert difference(array(end), array(expected)) <= TOLERANCE, arrival
            else:
                assert isinstance(end, GenerationCancelled), end
                assert arrival.cancel_after_ticks is not None


@few
@given(plan=plans, max_rows=st.sampled_from([2, 3, 5, 8]))
def test_every_picture_equals_the_one_drawn_alone(
    pipeline: SdxlPipeline, alone: Alone, plan: list[Arrival], max_rows: int
) -> None:
    engine = Engine(pipeline, max_rows=max_rows)
    asked: list[Ends] = []
    cancels: list[tuple[int, Ticket]] = []
    ticks = 0
    for arrival in plan:
        for _ in range(arrival.after_ticks):
            engine.tick()
            ticks += 1
        asked.append(Ends())
        ticket = engine.submit(arrival.request, asked[-1])
        if arrival.cancel_after_ticks is not None:
            cancels.append((ticks + arrival.cancel_after_ticks, ticket))
    until = time.monotonic() + DEADLOCK_S
    while busy(engine):
        assert time.monotonic() < until, "the engine does not come to an end"
        for at, ticket in cancels:
            if at <= ticks:
                ticket.cancel()
        engine.tick()
        ticks += 1
    check(plan, asked, alone)


@few
@given(plan=plans)
def test_also_on_the_engines_own_thread(pipeline: SdxlPipeline, alone: Alone, plan: list[Arrival]) -> None:
    engine = Engine(pipeline)
    engine.start()
    asked: list[Ends] = []
    cancels: list[tuple[float, Ticket]] = []
    try:
        for arrival in plan:
            time.sleep(0.02 * arrival.after_ticks)
            asked.append(Ends())
            ticket = engine.submit(arrival.request, asked[-1])
            if arrival.cancel_after_ticks is not None:
                cancels.append((time.monotonic() + 0.1 * arrival.cancel_after_ticks, ticket))
        until = time.monotonic() + DEADLOCK_S
        while busy(engine):
            assert time.monotonic() < until, "the engine does not come to an end"
            for at, ticket in cancels:
                if time.monotonic() >= at:
                    ticket.cancel()
            time.sleep(0.01)
    finally:
        assert engine.stop(DEADLOCK_S)
    check(plan, asked, alone)


EXACT_ROWS = 4


@pytest.fixture(scope="module")
def exact() -> StepPipeline:
    """The bundled model with every step padded to the same number of rows."""
    exact_pool: dict[str, Any] = {
        "exact_batches": True,
        "max_rows": EXACT_ROWS,
        "num_threads": 1,
        "dtype": "float32",
    }
    return accelerators.get("cpu").load_pipeline(PoolSettings.model_validate(exact_pool))


@few
@given(numbers=st.lists(st.integers(0, 23), min_size=2, max_size=6))
def test_exact_batches_are_bit_equal(exact: StepPipeline, numbers: list[int]) -> None:
    alone = Alone(exact)
    requests = [kind(number) for number in numbers]
    for request, ends in zip(requests, draw_together(exact, requests, max_rows=EXACT_ROWS), strict=True):
        assert ends.ends == {0: alone.picture(request, 0)}
