"""What the engine itself adds to a step: a tick's time with pictures in flight that cost nothing to draw.

Run ``python -m bench.engine_overhead --help``. Times are the thread's CPU time, so that whatever else the machine
does falls out of them. Divided by the time of a full-size UNet's step it is the share of
the machine that goes into bookkeeping.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from serve_app import accelerators
from serve_app.engine import Engine
from serve_app.engine.fake import FakePipeline
from serve_app.errors import ImagineError
from serve_app.request import GenerationRequest
from serve_app.result import Pixels, StageSeconds, StepProgress
from serve_app.settings import PoolSettings

_WARM_UP_TICKS = 50


class _Deaf:
    """A listener nobody listens to."""

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        pass

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        pass

    def on_failure(self, index: int, error: ImagineError) -> None:
        raise error


class _Counting(_Deaf):
    """Keeps every event, as a replica's stream does."""

    def __init__(self) -> None:
        self.events: list[StepProgress] = []

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        self.events.append(progress)


def measure_tick_overhead(pictures: int = 16, ticks: int = 2000) -> dict[str, float]:
    """Times `Engine.tick` with all `pictures` in one batch of one row each.

    Args:
        pictures: In flight, and in every step.
        ticks: Timed ones.

    Returns:
        ``pictures``, ``ticks``, and CPU microseconds per tick: ``tick_median_us`` and ``tick_p99_us`` with a listener
        that drops what it hears, ``listened_median_us`` and ``listened_p99_us`` with one that keeps it, and
        ``pipeline_median_us``, what of it is the fake pipeline's own step.
    """
    deaf, listened = _tick_us(pictures, ticks, _Deaf), _tick_us(pictures, ticks, _Counting)
    return {
        "pictures": pictures,
        "ticks": ticks,
        "tick_median_us": round(statistics.median(deaf), 1),
        "tick_p99_us": round(_p99(deaf), 1),
        "listened_median_us": round(statistics.median(listened), 1),
        "listened_p99_us": round(_p99(listened), 1),
        "pipeline_median_us": round(statistics.median(_pipeline_us(pictures, ticks)), 1),
    }


def _request(number: int, steps: int) -> GenerationRequest:
    return GenerationRequest(str(number), "a cat", "", 64, 64, steps, 0.0, number)


def _tick_us(pictures: int, ticks: int, listener: type[_Deaf]) -> list[float]:
    pipeline = FakePipeline(max_rows=pictures)
    engine = Engine(pipeline, max_rows=pictures, max_queued_images=pictures)
    for number in range(pictures):
        engine.submit(_request(number, ticks + 2 * _WARM_UP_TICKS), listener())
    for _ in range(_WARM_UP_TICKS):
        engine.tick()
    times = []
    for _ in range(ticks):
        began = time.thread_time_ns()
        engine.tick()
        times.append((time.thread_time_ns() - began) / 1000)
    if {len(batch) for batch in pipeline.batches[_WARM_UP_TICKS:]} != {pictures}:
        raise RuntimeError(f"not every step had {pictures} pictures")
    return times


def _pipeline_us(pictures: int, ticks: int) -> list[float]:
    pipeline = FakePipeline(max_rows=pictures)
    states = [pipeline.prepare(_request(number, ticks), 0) for number in range(pictures)]
    times = []
    for _ in range(ticks):
        began = time.thread_time_ns()
        pipeline.denoise_step(states)
        times.append((time.thread_time_ns() - began) / 1000)
    return times


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98] if len(values) > 1 else values[0]


def measure_step_s(model: str, rows: int, repeats: int = 3) -> float:
    """Median seconds of one step of `model` with `rows` unguided pictures of its own size, on this machine."""
    pool = PoolSettings.model_validate({"model": model, "max_rows": max(2, rows)})
    pipeline: Any = accelerators.choose("auto").load_pipeline(pool)
    defaults = pipeline.defaults
    states = [
        pipeline.prepare(
            GenerationRequest("a", "a cat", "", defaults.height, defaults.width, repeats + 1, 0.0, number), 0
        )
        for number in range(rows)
    ]
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        pipeline.denoise_step(states)
        times.append(time.perf_counter() - began)
        for state in states:
            state.step += 1
    return statistics.median(times[1:])  # the first warms up


def main(
    pictures: Annotated[int, typer.Option(min=1, help="Pictures in flight.")] = 16,
    ticks: Annotated[int, typer.Option(min=2, help="Timed ticks.")] = 2000,
    step_s: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Seconds of a full-size UNet's step, to give the share of it."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Or the model whose step is measured here with as many rows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time the engine's own work per tick."""
    result = measure_tick_overhead(pictures, ticks)
    if model is not None:
        step_s = measure_step_s(model, pictures)
    if step_s is not None:
        own_us = result["listened_median_us"] - result["pipeline_median_us"]
        result |= {"step_s": round(step_s, 4), "share_of_step": own_us / 1e6 / step_s}
    if as_json:
        print(json.dumps(result))
        return
    table = Table("", "", box=None, show_header=False)
    for name, value in result.items():
        table.add_row(name, f"{value:.2e}" if name == "share_of_step" else f"{value:g}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
