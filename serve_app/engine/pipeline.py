"""What an accelerator offers the engine: the `StepPipeline` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from serve_app.capabilities import Capabilities, ModelDefaults
from serve_app.request import GenerationRequest
from serve_app.result import Pixels

if TYPE_CHECKING:
    from serve_app.engine.state import ImageState


@runtime_checkable
class StepPipeline(Protocol):
    """A loaded model on a device, driven one denoising step at a time from one thread.

    Every method runs on the engine's thread, but for `decode` where `Capabilities.concurrent_decodes` allows others. A
    pipeline keeps no state about pictures: all of it is in
    `ImageState`, whose opaque fields only the pipeline reads and writes.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What can be drawn."""
        ...

    @property
    def defaults(self) -> ModelDefaults:
        """The model's defaults."""
        ...

    def prepare(self, request: GenerationRequest, index: int) -> ImageState:
        """Encodes the text and draws the first latents of picture `index` of `request`.

        Raises:
            Exception: Anything; the picture then fails alone.
        """
        ...

    def denoise_step(self, batch: Sequence[ImageState]) -> None:
        """Advances every picture of the batch by one step of its own schedule.

        All pictures share `ImageState.batch_key`. All or nothing: when it raises, no state has changed, so the
        engine may try again with fewer pictures. The engine, not the pipeline, counts `ImageState.step` up.

        Raises:
            MemoryError: The device has no room for so many rows.
        """
        ...

    def preview(self, state: ImageState) -> Pixels | None:
        """A small, cheap picture of what `state` will become, or None while there is no way to tell."""
        ...

    def decode(self, state: ImageState) -> Pixels:
        """The finished picture.

        Raises:
            GenerationFailed: The latents or the pixels are not finite.
        """
        ...

    def decodes_beside(self, count: int) -> None:
        """Hears how many decodes run beside the engine's thread, or will in a moment, from now on.

        Said before the first of them starts and after the last one ended, with the engine's lock held: it must not
        wait. A pipeline whose calls share something may give each its part.

        Args:
            count: 0 to `Capabilities.concurrent_decodes`; one more while the engine's thread calls nothing.
        """
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` means that the device ran out of memory (fewer rows may work)."""
        ...

    def works(self) -> bool:
        """Whether the device still computes; asked after an error of another kind. Some never do again after one."""
        ...
