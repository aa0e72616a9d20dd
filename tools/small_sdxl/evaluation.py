"""Measures an exported model: adherence on combinations it never saw, the VAE, and the time of a picture."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tools.small_sdxl.captions import describe
from tools.small_sdxl.drawing import render
from tools.small_sdxl.judge import judge_error, score
from tools.small_sdxl.scenes import SHAPES, SUBJECTS, Mix, Scene, held_out_scenes, random_scene

Picture = npt.NDArray[np.uint8]

#: (steps, guidance) pairs that are measured.
MODES: Final = ((4, 1.0), (8, 2.0), (25, 3.0))


def draw(
    pipeline: Any,
    prompts: list[str],
    steps: int,
    guidance: float,
    seed: int = 0,
    batch: int = 8,
    side: int = 512,
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
            width=side,
            height=side,
            output_type="np",
        )
        yield from (np.round(picture * 255).astype(np.uint8) for picture in answer.images)


def held_out_prompts(scenes: Iterable[Scene], seed: int = 404) -> list[str]:
    """A plain caption for each scene."""
    rng = random.Random(seed)
    return [describe(scene, rng, plainly=True) for scene in scenes]


def adherence(
    pipeline: Any, count: int, steps: int, guidance: float, subjects: tuple[str, ...] = SHAPES
) -> dict[str, float]:
    """The share of held-out pictures that the judge finds right, by aspect."""
    scenes = held_out_scenes(count, subjects=subjects)
    pictures = list(draw(pipeline, held_out_prompts(scenes), steps, guidance, seed=1000))
    return score(pictures, scenes, among=subjects)


def decibels(vae: Any, basis: Any, count: int = 24, seed: int = 99, side: int = 512) -> dict[str, float]:
    """Signal to noise of the VAE: decoder on exact latents, and encode-decode, over all kinds of scene."""
    rng = random.Random(seed)
    mix = Mix()
    decoded, cycled = [], []
    for _ in range(count):
        full = render(random_scene(rng, mix), side, side).astype(np.float32) / 127.5 - 1
        small = full.reshape(1, side // 8, 8, side // 8, 8, 3).mean(axis=(2, 4))
        target = torch.from_numpy(full.transpose(2, 0, 1)[None].copy())
        with torch.no_grad():
            exact = vae.decode(torch.from_numpy(basis.encode(small))).sample.clamp(-1, 1)
            cycle = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
        decoded.append((exact - target).square().mean().item())
        cycled.append((cycle - target).square().mean().item())
    return {
        "decoder_db": float(10 * np.log10(4 / np.mean(decoded))),
        "encode_decode_db": float(10 * np.log10(4 / np.mean(cycled))),
    }


def seconds_per_picture(pipeline: Any, steps: int, guidance: float, side: int, repeats: int = 3) -> float:
    """The best of some runs, one picture each."""
    best = float("inf")
    for k in range(repeats):
        start = time.perf_counter()
        list(draw(pipeline, ["a red circle on green grass"], steps, guidance, seed=k, side=side))
        best = min(best, time.perf_counter() - start)
    return best


def evaluate(pipeline: Any, basis: Any, count: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure everything, yielding one named result at a time."""
    yield "judge error, shapes", judge_error(held_out_scenes(count), SHAPES)
    others = tuple(name for name in SUBJECTS if name not in SHAPES)
    yield "judge error, other subjects", judge_error(held_out_scenes(count, subjects=others), others)
    yield "vae", decibels(pipeline.vae, basis)
    for steps, guidance in MODES:
        yield f"shapes, {steps} steps, guidance {guidance:g}", adherence(pipeline, count, steps, guidance)
    yield "other subjects, 4 steps, guidance 1", adherence(pipeline, count, 4, 1.0, others)
    yield "other subjects, 25 steps, guidance 3", adherence(pipeline, count, 25, 3.0, others)
    seconds = {
        f"{side} px, {steps} steps, guidance {guidance:g}": seconds_per_picture(
            pipeline, steps, guidance, side
        )
        for steps, guidance, side in ((4, 1.0, 512), (25, 3.0, 512), (4, 1.0, 1024))
    }
    yield "seconds per picture", seconds


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
