"""What a pool can draw, as plain picklable facts: `Capabilities`, `ModelDefaults`, `PoolFacts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded pipeline can draw.

    Attributes:
        max_rows: Most rows of one denoising step (a picture is one row, two while guided).
        fixed_rows: Row counts the device is compiled for, ascending; the pipeline pads to the next one. Empty: any.
        size_multiple: Height and width must be multiples of this many pixels (ignored with `fixed_sizes`).
        min_side: Shortest side in pixels.
        max_side: Longest side in pixels.
        max_pixels: Most pixels of one picture.
        fixed_sizes: The only (width, height) pairs, in pixels. Empty: any within the range.
        guidance: Whether classifier-free guidance is possible.
        previews: Whether `StepPipeline.preview` is cheap enough to be called between steps.
        max_prompt_tokens: Most tokens of a prompt and of a negative prompt, or None for any number. Only the pipeline
            can count them: it refuses in `StepPipeline.prepare`.
        scheduler_names: Noise schedulers that may be named in a request.
        max_num_inference_steps: Most steps of one picture.
        concurrent_decodes: Calls of `StepPipeline.decode` that may run while another thread denoises, one more while
            none does; 0 where decoding beside the denoising gains nothing, and all is done in turn.
    """

    max_rows: int
    fixed_rows: tuple[int, ...] = ()
    size_multiple: int = 8
    min_side: int = 64
    max_side: int = 2048
    max_pixels: int = 2048 * 2048
    fixed_sizes: tuple[tuple[int, int], ...] = ()
    guidance: bool = True
    previews: bool = False
    max_prompt_tokens: int | None = None
    scheduler_names: tuple[str, ...] = ()
    max_num_inference_steps: int = 150
    concurrent_decodes: int = 0

    def problem(
        self, *, height: int, width: int, num_inference_steps: int, guided: bool, scheduler_name: str | None
    ) -> tuple[str, str] | None:
        """The first reason why this cannot be drawn here.

        Returns:
            (canonical field, sentence that says what is allowed), or None when all is well.
        """
        if self.fixed_sizes:
            if (width, height) not in self.fixed_sizes:
                sizes = ", ".join(f"{w}x{h}" for w, h in self.fixed_sizes)
                return "size", f"{width}x{height} cannot be drawn here; allowed: {sizes}"
        else:
            for name, side in (("width", width), ("height", height)):
                if not self.min_side <= side <= self.max_side:
                    return name, f"{side} is not between {self.min_side} and {self.max_side} pixels"
                if side % self.size_multiple:
                    return name, f"{side} is not a multiple of {self.size_multiple} pixels"
            if width * height > self.max_pixels:
                return "size", f"{width}x{height} is more than {self.max_pixels} pixels"
        if num_inference_steps > self.max_num_inference_steps:
            return "num_inference_steps", f"{num_inference_steps} is more than {self.max_num_inference_steps}"
        if guided and not self.guidance:
            return "guidance_scale", "guidance is not possible on this pool; allowed: 0 to 1"
        if scheduler_name is not None and scheduler_name not in self.scheduler_names:
            known = ", ".join(self.scheduler_names)
            return "scheduler_name", f"{scheduler_name!r} is not known; allowed: {known}"
        return None

    def filled_rows(self, rows: int) -> int:
        """How many rows a step of `rows` rows really has: the next one of `fixed_rows`."""
        return next((fixed for fixed in self.fixed_rows if fixed >= rows), rows)

    def limited_to(self, sizes: Sequence[tuple[int, int]]) -> Capabilities:
        """The same with these (width, height) pairs as the only ones; with none, the same.

        Raises:
            ConfigurationError: One of them cannot be drawn.
        """
        for width, height in sizes:
            problem = self.problem(
                height=height, width=width, num_inference_steps=1, guided=False, scheduler_name=None
            )
            if problem is not None:
                raise ConfigurationError(f"sizes: {problem[1]}")
        return replace(self, fixed_sizes=tuple(sizes)) if sizes else self


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """What a request gets where the client said nothing; read from the model, never hard-coded to one.

    Attributes:
        height: Pixels.
        width: Pixels.
        num_inference_steps: Steps.
        guidance_scale: Guidance; 0 for models distilled to work without.
        scheduler_name: Name of the model's own noise scheduler.
    """

    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    scheduler_name: str

    def limited_to(self, sizes: Sequence[tuple[int, int]]) -> ModelDefaults:
        """The same with a default size that is one of these (width, height) pairs, where there are any."""
        if not sizes or (self.width, self.height) in sizes:
            return self
        return replace(self, width=sizes[0][0], height=sizes[0][1])


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """What the ingress knows of a pool without importing torch: asked of a replica through the handle.

    Attributes:
        pool: Pool name.
        model: Model id or folder as configured.
        accelerator: Accelerator name.
        defaults: The model's defaults.
        capabilities: What can be drawn.
        step_s: Seconds of one row's denoising step per megapixel, as the test picture had it; None without one.
        assumed: Follows from the settings alone: no replica has said it yet.
    """

    pool: str
    model: str
    accelerator: str
    defaults: ModelDefaults
    capabilities: Capabilities
    step_s: float | None = None
    assumed: bool = False
