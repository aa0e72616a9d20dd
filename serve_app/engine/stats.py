"""`EngineStats`: what the engine says about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot, picklable.

    Attributes:
        queued_images: Accepted pictures that were not prepared yet.
        running_images: Pictures between their preparation and the end of their decoding.
        rows_in_flight: UNet rows of the running pictures.
        last_step_rows: Rows of the last denoising step.
        last_step_s: Seconds the last denoising step took; 0 before the first.
        steps_done: Denoising steps (batches) so far.
        images_done: Finished pictures.
        images_failed: Failed pictures, those past their deadline included.
        images_cancelled: Pictures whose caller left or cancelled.
        stuck_for_s: Seconds since the engine last got anywhere; 0 while it has nothing to do.
        predicted_wait_s: Seconds until all accepted work is done; 0 before the first measurement.
    """

    queued_images: int
    running_images: int
    rows_in_flight: int
    last_step_rows: int
    last_step_s: float
    steps_done: int
    images_done: int
    images_failed: int
    images_cancelled: int
    stuck_for_s: float
    predicted_wait_s: float
