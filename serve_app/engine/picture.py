"""`Picture`: the engine's own record of one picture, around the pipeline's `ImageState`."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.engine.state import ImageState
from serve_app.engine.ticket import Listener
from serve_app.request import GenerationRequest, Priority
from serve_app.result import StageSeconds, StepProgress

Shape = tuple[int, int]
"""Width and height in pixels: step times are learned by it, as it is known before a picture is prepared."""


@dataclass(slots=True, eq=False)
class Picture:
    """One picture from acceptance to its end. All times are of the engine's monotonic clock, in seconds."""

    request: GenerationRequest  # submit()
    index: int  # submit()
    listener: Listener  # submit()
    accepted_at: float  # submit()
    cancelled: bool = False  # any thread, under the engine's lock, or by a listener that raised
    state: ImageState | None = None  # the engine, once prepared
    turn: int = 0  # the scheduler: its place in the order in which pictures were prepared
    passed_over: int = 0  # the scheduler: steps given to others since its own last one
    held_s: float = 0.0  # the scheduler: predicted seconds of all steps given to others while it was ready
    overtaken_s: float = 0.0  # the scheduler: of these, steps led by pictures prepared later
    decode_attempts: int = 0  # the engine: decodes that found no memory
    ended: bool = False  # the engine: its listener heard the end
    told_position: int | None = None  # the engine: last queue position its listener heard
    prepare_s: float = 0.0  # the engine
    first_step_at: float = 0.0  # the engine
    last_step_at: float = 0.0  # the engine
    steps_share_s: float = 0.0  # the engine: its rows' part of the seconds of its steps

    @property
    def shape(self) -> Shape:
        """(width, height) in pixels."""
        return self.request.width, self.request.height

    @property
    def rows(self) -> int:
        """UNet rows; an estimate until prepared."""
        return self.state.rows if self.state else 1 + self.request.guided

    @property
    def remaining_steps(self) -> int:
        """Steps still to do; an estimate until prepared."""
        if self.state is None:
            return self.request.num_inference_steps
        return self.state.total_steps - self.state.step

    @property
    def interactive(self) -> bool:
        """Whether it goes before batch work."""
        return self.request.priority is Priority.INTERACTIVE

    @property
    def log_fields(self) -> dict[str, str]:
        """What a log line about it says beside its message."""
        return {"drawing_id": self.request.request_id}

    def progress(self, queue_position: int | None = None) -> StepProgress:
        """Where it stands now."""
        return StepProgress(
            request_id=self.request.request_id,
            image_index=self.index,
            step=self.state.step if self.state else 0,
            num_inference_steps=self.state.total_steps if self.state else self.request.num_inference_steps,
            queue_position=queue_position,
        )

    def seconds(self, decode_s: float) -> StageSeconds:
        """Stage times of the finished picture."""
        return StageSeconds(
            queue=max(0.0, self.first_step_at - self.accepted_at - self.prepare_s),
            prepare=self.prepare_s,
            denoise=self.last_step_at - self.first_step_at,
            decode=decode_s,
            device=self.prepare_s + self.steps_share_s + decode_s,
        )
