"""`PoisonedPipeline`: a pipeline that fails where a prompt says so, and that runs out of memory at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from serve_app.engine.pipeline import StepPipeline
from serve_app.engine.state import ImageState
from serve_app.request import GenerationRequest
from serve_app.result import Pixels

PREPARE = "poison: prepare"
STEP = "poison: step"
DECODE = "poison: decode"
NOT_FINITE = "poison: not finite"
MARKS = (PREPARE, STEP, DECODE, NOT_FINITE)


class OutOfMemory(RuntimeError):
    """A device's out-of-memory error: a class of its own beside MemoryError, as torch's is."""


class PoisonedPipeline:
    """A `StepPipeline` around another one. What is not marked and has room is drawn by that one unchanged.

    Args:
        pipeline: Draws.
        seed: Of the random choices.

    Attributes:
        memory_rows: A step of more rows runs out of memory; may be changed at any time. None: never.
        decode_oom_share: Share of decodes that run out of memory.
        oom_steps: Steps that ran out of memory so far.
        oom_decodes: (request id, picture) of those whose decode did, at least once.
    """

    def __init__(self, pipeline: StepPipeline, *, seed: int = 0) -> None:
        self._pipeline = pipeline
        self._random = random.Random(seed)
        self.memory_rows: int | None = None
        self.decode_oom_share = 0.0
        self.oom_steps = 0
        self.oom_decodes: set[tuple[str, int]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)  # all that is not poisoned below

    def prepare(self, request: GenerationRequest, index: int) -> ImageState:
        """As the pipeline, unless marked; latents that are not finite for `NOT_FINITE`."""
        if PREPARE in request.prompt:
            raise ValueError("poisoned in prepare")
        state: ImageState = self._pipeline.prepare(request, index)
        if NOT_FINITE in request.prompt:
            state.latents = state.latents * float("nan")
        return state

    def denoise_step(self, batch: Sequence[ImageState]) -> None:
        """As the pipeline, unless there is no room or one is marked: then no state has changed."""
        rows = sum(state.rows for state in batch)
        limit = self.memory_rows
        if limit is not None and rows > limit:
            self.oom_steps += 1
            raise self._out_of_memory(f"{rows} rows")
        for state in batch:
            # At the second step, so that it has been part of a batch before; or the only one.
            if STEP in state.request.prompt and state.step == min(1, state.total_steps - 1):
                raise ValueError("poisoned in step")
        self._pipeline.denoise_step(batch)

    def decode(self, state: ImageState) -> Pixels:
        """As the pipeline, unless marked or out of memory."""
        if DECODE in state.request.prompt:
            raise ValueError("poisoned in decode")
        if self._random.random() < self.decode_oom_share:
            self.oom_decodes.add((state.request.request_id, state.index))
            raise self._out_of_memory("decode")
        return self._pipeline.decode(state)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Both kinds of injected errors, and the pipeline's own."""
        return isinstance(error, OutOfMemory) or self._pipeline.is_out_of_memory(error)

    def _out_of_memory(self, what: str) -> Exception:
        return self._random.choice([MemoryError, OutOfMemory])(what)
