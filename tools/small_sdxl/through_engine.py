"""Draws with the service's own engine, as the pictures of an evaluation that stock diffusers drew."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from serve_app import accelerators
from serve_app.capabilities import PoolFacts
from serve_app.engine import Engine
from serve_app.local_drawing import STEP_TIMEOUT_S, draw_pictures
from serve_app.request import RequestDraft
from serve_app.settings import PoolSettings
from tools.small_sdxl.judge import Picture


def draw_through_engine(
    model: Path, prompts: Sequence[str], steps: int, dtype: str, seed: int, guidance: float = 1.0
) -> list[Picture]:
    """Draw each prompt; picture k has the seed ``seed + k``.

    Args:
        model: An exported pipeline folder.
        prompts: What to draw.
        steps: Denoising steps.
        dtype: What the accelerator computes in: ``float32`` or ``bfloat16``.
        seed: The first picture's seed.
        guidance: The guidance scale.
    """
    pool = PoolSettings.model_validate({"model": str(model.resolve()), "accelerator": "cpu", "dtype": dtype})
    accelerator = accelerators.of_pool(pool)
    pipeline = accelerator.load_pipeline(pool)
    facts = PoolFacts(pool.name, pool.model, accelerator.name, pipeline.defaults, pipeline.capabilities)
    engine = Engine(pipeline, max_rows=pool.max_rows, max_queued_images=pool.max_queued_images)
    engine.start()
    pictures = []
    try:
        for k, prompt in enumerate(prompts):
            draft = RequestDraft(
                prompt=prompt, num_inference_steps=steps, guidance_scale=guidance, seed=seed + k
            )
            drawn = draw_pictures(engine, draft.for_pool(facts), Console(file=io.StringIO()))
            pixels = drawn[0][0]
            pictures.append(
                np.frombuffer(pixels.rgb, dtype=np.uint8).reshape(pixels.height, pixels.width, 3).copy()
            )
    finally:
        engine.stop(STEP_TIMEOUT_S)
    return pictures
