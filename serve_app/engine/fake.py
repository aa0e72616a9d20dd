"""`FakePipeline`: a `StepPipeline` without torch, for tests and for demonstrations of the service."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence

from serve_app.capabilities import Capabilities, ModelDefaults
from serve_app.engine.state import ImageState
from serve_app.errors import GenerationFailed
from serve_app.request import GenerationRequest
from serve_app.result import Pixels

POISON_PREPARE = "poison-prepare"
POISON_STEP = "poison-step"
POISON_DECODE = "poison-decode"
POISON_HANG = "poison-hang"
POISON_DEVICE = "poison-device"


class FakePipeline:
    """Deterministic pictures from prompt, seed and settings; a picture never depends on its neighbours.

    A prompt with `POISON_PREPARE`, `POISON_STEP` (at its second step) or `POISON_DECODE` in it fails there; at the
    second step of one with `POISON_HANG` the whole pipeline hangs, as a broken device does. From the second step of one
    with `POISON_DEVICE` on all calls fail, as those of a GPU do after an illegal access.

    Args:
        step_s: Seconds of one step, whatever the rows.
        row_s: Seconds more for each row.
        decode_s: Seconds of one decode.
        max_rows: Most rows of one step.
        fixed_rows: See `Capabilities`: a step takes as long as one of the rows it is filled up to.
        memory_rows: A step of more rows raises MemoryError; None never does.
        concurrent_decodes: See `Capabilities`.
        sleep: Spends the seconds; tests give a clock of their own.

    Attributes:
        batches: One tuple per successful step: (request id, picture index, step) of each picture.
        gate: Steps wait for it; cleared by tests that need a step to hang.
        decode_gate: The same for decodes.
        hung: A poisoned step waits for it; only tests set it.
    """

    def __init__(
        self,
        *,
        step_s: float = 0.0,
        row_s: float = 0.0,
        decode_s: float = 0.0,
        max_rows: int = 8,
        fixed_rows: tuple[int, ...] = (),
        memory_rows: int | None = None,
        concurrent_decodes: int = 0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._step_s = step_s
        self._row_s = row_s
        self._decode_s = decode_s
        self._memory_rows = memory_rows
        self._sleep = sleep
        self.batches: list[tuple[tuple[str, int, int], ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.decode_gate = threading.Event()
        self.decode_gate.set()
        self.hung = threading.Event()
        self._broken = False
        self._capabilities = Capabilities(
            max_rows=max_rows,
            fixed_rows=fixed_rows,
            previews=True,
            scheduler_names=("euler", "ddim"),
            max_pixels=1024 * 1024,
            concurrent_decodes=concurrent_decodes,
        )

    @property
    def capabilities(self) -> Capabilities:
        """Any multiple of 8 up to 1024x1024 pixels."""
        return self._capabilities

    @property
    def defaults(self) -> ModelDefaults:
        """64x64 pixels, 4 steps, no guidance."""
        return ModelDefaults(
            height=64, width=64, num_inference_steps=4, guidance_scale=0.0, scheduler_name="euler"
        )

    def prepare(self, request: GenerationRequest, index: int) -> ImageState:
        """A state whose latents are a digest of all that makes the picture."""
        self._fail_if_broken()
        if POISON_PREPARE in request.prompt:
            raise ValueError("poisoned in prepare")
        negative = request.negative_prompt if request.guided else ""
        facts = (
            request.prompt,
            negative,
            request.image_seed(index),
            request.width,
            request.height,
            request.guidance_scale if request.guided else 0.0,
            request.scheduler_name,
        )
        return ImageState(
            request=request,
            index=index,
            batch_key=(request.height // 8, request.width // 8),
            rows=1 + request.guided,
            total_steps=request.num_inference_steps,
            latents=hashlib.sha256(repr(facts).encode()).digest(),
            conditioning=None,
            noise_scheduler=None,
        )

    def denoise_step(self, batch: Sequence[ImageState]) -> None:
        """Digests each picture's latents once more."""
        self.gate.wait()
        rows = sum(state.rows for state in batch)
        if len({state.batch_key for state in batch}) != 1 or rows > self._capabilities.max_rows:
            raise AssertionError("the engine made a batch that may not share a step")
        if self._memory_rows is not None and rows > self._memory_rows:
            raise MemoryError(f"{rows} rows")
        if any(POISON_STEP in state.request.prompt and state.step == 1 for state in batch):
            raise ValueError("poisoned in step")
        if any(POISON_DEVICE in state.request.prompt and state.step == 1 for state in batch):
            self._broken = True
        self._fail_if_broken()
        if any(POISON_HANG in state.request.prompt and state.step == 1 for state in batch):
            self.hung.wait()
        self._spend(self._step_s + self._row_s * self._capabilities.filled_rows(rows))
        for state in batch:
            state.latents = hashlib.sha256(state.latents + state.step.to_bytes(2, "big")).digest()
        self.batches.append(tuple((state.request.request_id, state.index, state.step) for state in batch))

    def preview(self, state: ImageState) -> Pixels:
        """One pixel."""
        return Pixels(width=1, height=1, rgb=state.latents[:3])

    def decode(self, state: ImageState) -> Pixels:
        """The digest, repeated over the picture."""
        self.decode_gate.wait()
        self._fail_if_broken()
        if POISON_DECODE in state.request.prompt:
            raise GenerationFailed("the picture is not finite")
        self._spend(self._decode_s)
        width, height = state.request.width, state.request.height
        size = 3 * width * height
        rgb = (state.latents * (size // len(state.latents) + 1))[:size]
        return Pixels(width=width, height=height, rgb=rgb)

    def decodes_beside(self, count: int) -> None:
        """Nothing here is shared."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """MemoryError."""
        return isinstance(error, MemoryError)

    def works(self) -> bool:
        """Until it is broken."""
        return not self._broken

    def _fail_if_broken(self) -> None:
        if self._broken:
            raise RuntimeError("an illegal memory access was encountered")

    def _spend(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
