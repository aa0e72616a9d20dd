"""`ImageState`: one picture on its way through the engine."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from serve_app.request import GenerationRequest

BatchKey = Hashable
"""What must be equal to share a denoising step: the latent shape, unless a pipeline asks for more."""


@dataclass(slots=True, eq=False)
class ImageState:
    """One picture: one row of the UNet's batch, two while guided.

    Opaque fields (`latents`, `conditioning`, `noise_scheduler`) belong to the pipeline; the engine never looks
    inside. Everything per picture is here, so a picture can join, pause, move or leave between any two steps.
    """

    request: GenerationRequest  # written by the pipeline in prepare(), never changed
    index: int  # which picture of the request; prepare()
    batch_key: BatchKey  # who may share a step; prepare()
    rows: int  # 1, or 2 while guided; prepare(), and denoise_step() where guidance ends before the last step
    total_steps: int  # steps of its own schedule (some noise schedulers add one to what was asked); prepare()
    latents: Any  # opaque; written by every denoise_step()
    conditioning: Any  # opaque text embeddings and the like; prepare()
    noise_scheduler: Any  # opaque state of its noise scheduler; written by every denoise_step()
    step: int = 0  # steps done; written by the engine alone

    @property
    def finished(self) -> bool:
        """Whether all denoising steps are done."""
        return self.step >= self.total_steps
