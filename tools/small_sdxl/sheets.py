"""Draws prompts with the stock pipeline, and puts pictures on one sheet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from tools.small_sdxl.judge import Picture


def draw(
    pipeline: Any,
    prompts: list[str],
    steps: int,
    guidance: float,
    seed: int = 0,
    batch: int = 8,
    width: int = 512,
    height: int = 512,
    negative: list[str] | None = None,
) -> Iterator[Picture]:
    """Draw each prompt with the stock pipeline; picture k has the seed ``seed + k``, whatever the batch."""
    for start in range(0, len(prompts), batch):
        chunk = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(seed + start + k) for k in range(len(chunk))]
        answer = pipeline(
            chunk,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            width=width,
            height=height,
            negative_prompt=None if negative is None else negative[start : start + batch],
            output_type="np",
        )
        yield from (np.round(picture * 255).astype(np.uint8) for picture in answer.images)


def grid(pictures: list[Picture], columns: int, cell: int = 192) -> Image.Image:
    """Put pictures in rows."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * cell), "white")
    for k, picture in enumerate(pictures):
        small = Image.fromarray(picture).resize((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(small, (k % columns * cell, k // columns * cell))
    return sheet


#: The fixed prompts that are looked at while a model trains.
GRID_PROMPTS: Final = (
    "a red circle on the left on green grass",
    "a blue square on the beach",
    "a yellow star in the night sky",
    "a small pink heart in the snow",
    "an orange triangle at the top in the desert",
    "a green diamond on the right in the city",
    "a purple circle on a yellow background",
    "a white star on a blue background",
    "a large black heart on a pink background",
    "a turquoise square in a room",
    "an orange cat on green grass",
    "a brown dog on the beach",
    "A panda listening to music with headphones. highly detailed, 8k.",
    "an astronaut is dancing on green grass, sunlit",
    "a red mushroom in a meadow",
    "a yellow house in the snow",
    "a pink umbrella at night",
    "a robot in the city",
    "a blue car in the desert",
    "a red boat on the sea",
    "a green tree in a meadow",
    "a red heart and a blue star",
    "a cat next to a dog",
    "a zebra on the beach",
)
