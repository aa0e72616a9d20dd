"""This service's engine in a process of its own, without Ray or HTTP.

``python -m bench.serving_overhead.bare_engine POOL`` takes the pool's settings as JSON, says ``{"dtype": ...}`` when
it has loaded, then answers each line of stdin (the `Turn`'s fields as JSON) with a line of JSON: ``[asked_s, ended_s]``
of every picture. It ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench.closed_loop import Answer, closed_loop
from serve_app import accelerators
from serve_app.capabilities import PoolFacts
from serve_app.engine import Engine
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import ImagineError
from serve_app.images import encode
from serve_app.load_test import PROMPTS
from serve_app.request import OutputOptions, RequestDraft
from serve_app.result import Pixels, StageSeconds, StepProgress
from serve_app.settings import PoolSettings

ENCODING_THREADS = 2
"""As in a replica."""

_STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What is asked of a side at a time.

    Attributes:
        clients: Clients of the closed loop.
        pictures: In all.
        width: Pixels.
        height: Pixels.
        num_inference_steps: Steps.
        guidance_scale: Guidance.
        first_seed: Seed of the first picture; the next ones have the next.
        files: Whether a picture is there once it is encoded as PNG, or as soon as its pixels are.
    """

    clients: int
    pictures: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    first_seed: int = 0
    files: bool = True


class BareEngine:
    """An engine and its encoding threads.

    Args:
        pipeline: Loaded.
        facts: Of the pool.
        pool: Its settings.
    """

    def __init__(self, pipeline: StepPipeline, facts: PoolFacts, pool: PoolSettings) -> None:
        self._facts = facts
        self._engine = Engine(
            pipeline,
            max_rows=pool.max_rows,
            max_queued_images=pool.max_queued_images,
            max_queue_s=pool.max_queue_s,
        )
        self._encoders = ThreadPoolExecutor(ENCODING_THREADS, thread_name_prefix="encode")
        self._engine.start()

    async def play(self, turn: Turn) -> list[Answer]:
        """Draws what the turn asks for."""

        async def ask(number: int) -> None:
            await self._draw(turn, number)

        return await closed_loop(ask, clients=turn.clients, pictures=turn.pictures)

    async def _draw(self, turn: Turn, number: int) -> bytes:
        draft = RequestDraft(
            PROMPTS[number % len(PROMPTS)],
            width=turn.width,
            height=turn.height,
            num_inference_steps=turn.num_inference_steps,
            guidance_scale=turn.guidance_scale,
            seed=turn.first_seed + number,
        )
        loop = asyncio.get_running_loop()
        drawn: asyncio.Future[Pixels] = loop.create_future()
        self._engine.submit(draft.for_pool(self._facts), _ToFuture(loop, drawn))
        pixels = await drawn
        if not turn.files:
            return pixels.rgb
        return await loop.run_in_executor(self._encoders, encode, pixels, OutputOptions())

    def close(self) -> None:
        """Ends the threads."""
        self._engine.stop(_STOP_S)
        self._encoders.shutdown()


class _ToFuture:
    """A `Listener` that carries a picture from the engine's thread to a future of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, drawn: asyncio.Future[Pixels]) -> None:
        self._loop = loop
        self._drawn = drawn

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        pass

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        self._loop.call_soon_threadsafe(self._drawn.set_result, pixels)

    def on_failure(self, index: int, error: ImagineError) -> None:
        self._loop.call_soon_threadsafe(self._drawn.set_exception, error)


def load(pool: PoolSettings) -> tuple[BareEngine, str]:
    """The engine as a replica of `pool` has it, and the name of its number type (``none`` where there is none)."""
    accelerator = accelerators.of_pool(pool)
    # Not StepPipeline: the dtype is for whoever compares.
    pipeline: Any = accelerator.load_pipeline(pool)
    facts = PoolFacts(pool.name, pool.model, accelerator.name, pipeline.defaults, pipeline.capabilities)
    dtype = str(getattr(pipeline, "dtype", "none")).removeprefix("torch.")
    return BareEngine(pipeline, facts, pool), dtype


def main() -> None:
    """Runs until the input ends."""
    engine, dtype = load(PoolSettings.model_validate_json(sys.argv[1]))
    try:
        print(json.dumps({"dtype": dtype}), flush=True)
        for line in sys.stdin:
            answers = asyncio.run(engine.play(Turn(**json.loads(line))))
            print(json.dumps([[one.asked_s, one.ended_s] for one in answers]), flush=True)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
