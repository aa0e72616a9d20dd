"""Measures an exported model: what its pictures show of what was asked, the VAE, and the time of a picture.

Each measurement yields a name and its numbers; shares are of pictures, from 0 to 1, by ``judge``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from tools.small_sdxl import questions
from tools.small_sdxl.drawing import render
from tools.small_sdxl.export import load_pipeline
from tools.small_sdxl.judge import (
    ASPECTS,
    Picture,
    behind,
    count_figures,
    judge,
    score,
    score_air,
    score_pairs,
    shrink,
)
from tools.small_sdxl.latents import fit_basis
from tools.small_sdxl.scenes import OWN_COLOUR, SHAPES, Scene, random_scene
from tools.small_sdxl.sheets import draw
from tools.small_sdxl.through_engine import draw_through_engine

Numbers = dict[str, float]
Result = tuple[str, Numbers]

WORN: Final = ("subject", "accessory", "background")
SIZED: Final = ("subject", "size", "background")
#: The first seed of an evaluation's pictures.
SEED: Final = 1000


class Evaluation:
    """One model under measurement.

    Args:
        model: The exported pipeline's folder.
        each: Pictures of each subject; other counts follow from it.
    """

    def __init__(self, model: Path, each: int) -> None:
        self.model, self.each = model, each
        self.pipeline: Any = load_pipeline(model)
        self.scenes = questions.every_subject(each)
        #: A part of the scenes that holds every subject, for what is measured again in another way.
        self.few = self.scenes[::each]

    def draw(
        self, prompts: Sequence[str], steps: int = 4, guidance: float = 1.0, **options: Any
    ) -> list[Picture]:
        """Draw prompts with stock diffusers."""
        return list(draw(self.pipeline, list(prompts), steps, guidance, seed=SEED, **options))

    def run(self) -> Iterator[Result]:
        """Measure everything, yielding one named result at a time."""
        yield from self.judge_errors()
        yield "VAE", decibels(self.pipeline.vae, fit_basis())
        yield from self.subjects()
        yield from self.attributes()
        yield from self.wordings()
        yield from self.guided()
        yield from self.sizes()
        yield from self.ways()
        yield "seconds per picture", self.seconds()

    def judge_errors(self) -> Iterator[Result]:
        """How often the judge is right on true drawings: the ceiling of all that follows."""

        def true(scenes: Sequence[Scene]) -> list[Picture]:
            return [render(scene) for scene in scenes]

        yield "judge on true drawings", score(true(self.scenes), self.scenes)
        worn, two, air = questions.accessories(), questions.pairs(50 * self.each), questions.airs()
        yield "judge on true drawings, accessories", score(true(worn), worn, aspects=WORN)
        yield "judge on true drawings, two subjects", score_pairs(true(two), two)
        yield "judge on true drawings, light, weather, style", score_air(true(air), air)

    def subjects(self) -> Iterator[Result]:
        """Every subject in combinations that were never trained on; 4 steps against 25 with guidance."""
        pictures = self.draw(questions.plainly(self.scenes))
        yield "4 steps, no guidance", score(pictures, self.scenes)
        yield "4 steps, no guidance, by subject where one is missed", missed(pictures, self.scenes)
        prompts = questions.plainly(self.few)
        for steps, guidance in ((4, 1.0), (4, 2.0), (8, 1.0), (25, 1.0), (25, 3.0)):
            name = f"one of each subject, {steps} steps, guidance {guidance:g}"
            yield name, score(self.draw(prompts, steps, guidance), self.few)

    def attributes(self) -> Iterator[Result]:
        """Accessories, two subjects, sizes, light, weather and styles."""
        worn = questions.accessories()
        yield "accessories, 4 steps", score(self.draw(questions.plainly(worn)), worn, aspects=WORN)
        two = questions.pairs(50 * self.each)
        yield "two subjects, 4 steps", score_pairs(self.draw(questions.plainly(two)), two)
        sized = questions.sizes(3 * self.each)
        yield "sizes, 4 steps", score(self.draw(questions.plainly(sized)), sized, aspects=SIZED)
        air = questions.airs()
        yield "light, weather, style, 4 steps", score_air(self.draw(questions.plainly(air)), air)

    def wordings(self) -> Iterator[Result]:
        """The same scenes in free wording and with trimmings; words that name nothing known."""
        yield "free wording, 4 steps", score(self.draw(questions.freely(self.few)), self.few)
        yield "usual trimmings, 4 steps", score(self.draw(questions.dressed(self.few)), self.few)
        prompts, backgrounds = questions.strangers()
        seen = [behind(shrink(picture)).background for picture in self.draw(prompts)]
        right = float(np.mean([a == b for a, b in zip(seen, backgrounds, strict=True)]))
        yield "unknown word on each scenery, 4 steps", {"background": right}

    def guided(self) -> Iterator[Result]:
        """What guidance does for what is hard to draw, and a negative prompt for a colour that is unwanted."""
        worn = questions.accessories()
        for guidance in (2.0, 3.0, 7.0):
            pictures = self.draw(questions.plainly(worn), 4, guidance)
            yield f"accessories, 4 steps, guidance {guidance:g}", score(pictures, worn, aspects=WORN)
        prompts = [f"a {shape}" for shape in SHAPES for _ in range(3)]
        own = [OWN_COLOUR[shape] for shape in SHAPES for _ in range(3)]
        for name, negative in (("no negative prompt", None), ("own colour as the negative prompt", own)):
            pictures = self.draw(prompts, 8, 7.0, negative=negative)
            seen = [judge(picture, SHAPES) for picture in pictures]
            yield (
                f"shapes without a colour, 8 steps, guidance 7, {name}",
                {
                    "own colour": float(np.mean([a.colour == b for a, b in zip(seen, own, strict=True)])),
                    "subject": float(
                        np.mean([f"a {a.subject}" == b for a, b in zip(seen, prompts, strict=True)])
                    ),
                },
            )

    def sizes(self) -> Iterator[Result]:
        """Other sizes: what the pictures show, whether anything repeats, and seams."""
        for width, height in ((512, 512), (768, 512), (512, 768), (1024, 1024)):
            scenes = self.few[:: 1 if width * height < 1_000_000 else 2]
            pictures = self.draw(questions.plainly(scenes), width=width, height=height)
            numbers = score(pictures, scenes)
            # Thin parts may come loose in a small picture: true drawings of the same scenes say how often.
            true = [count_figures(render(scene, width, height)) for scene in scenes]
            more = [count_figures(picture) > most for picture, most in zip(pictures, true, strict=True)]
            plain = [Scene((), f"plain {colour}") for colour in ("yellow", "blue", "green")]
            walls = self.draw(questions.plainly(plain), width=width, height=height)
            numbers["repeats"] = float(np.mean(more))
            seams = [seam(a, render(b, width, height)) for a, b in zip(walls, plain, strict=True)]
            numbers["seam"], numbers["edge"] = (float(worst) for worst in np.max(seams, axis=0))
            yield f"{width}x{height}, 4 steps", numbers

    def ways(self) -> Iterator[Result]:
        """The service's engine against stock diffusers, and bfloat16 against float32."""
        prompts = questions.plainly(self.few)
        stock = self.draw(prompts)
        for dtype in ("float32", "bfloat16"):
            drawn = draw_through_engine(self.model, prompts, 4, dtype, SEED)
            yield (
                f"engine, {dtype}, against stock diffusers in float32, 4 steps",
                {
                    **{
                        aspect: share for aspect, share in score(drawn, self.few).items() if aspect in ASPECTS
                    },
                    "mean difference of 255": difference(drawn, stock),
                },
            )

    def seconds(self) -> Numbers:
        """The best of three pictures each."""
        return {
            f"{side} px, {steps} steps, guidance {guidance:g}": min(
                self._seconds(steps, guidance, side) for _ in range(3)
            )
            for steps, guidance, side in ((4, 1.0, 512), (25, 3.0, 512), (4, 1.0, 1024))
        }

    def _seconds(self, steps: int, guidance: float, side: int) -> float:
        start = time.perf_counter()
        self.draw(["a red circle on green grass"], steps, guidance, width=side, height=side)
        return time.perf_counter() - start


def missed(pictures: Sequence[Picture], scenes: Sequence[Scene]) -> Numbers:
    """The share of each subject that is recognised, where it is not all of them."""
    right: dict[str, list[bool]] = {}
    for picture, scene in zip(pictures, scenes, strict=True):
        subject = scene.figures[0].subject
        right.setdefault(subject, []).append(judge(picture).subject == subject)
    return {subject: float(np.mean(each)) for subject, each in right.items() if not all(each)}


def difference(ones: Sequence[Picture], others: Sequence[Picture]) -> float:
    """The mean absolute difference of pixels."""
    return float(
        np.mean([np.abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(ones, others, strict=True)])
    )


def seam(picture: Picture, true: Picture, edge: int = 8) -> tuple[float, float]:
    """The largest mean step between neighbouring rows or columns that the true drawing does not have.

    A step goes one way all along a seam, while noise and texture average out.

    Returns:
        The largest inside the picture, and the largest in its outermost pixels.
    """
    inside, outside = 0.0, 0.0
    for axis in (0, 1):
        steps = np.diff(picture.astype(np.float32), axis=axis) - np.diff(true.astype(np.float32), axis=axis)
        means = np.abs(steps.mean(axis=1 - axis)).max(axis=1)
        inside = max(inside, float(means[edge:-edge].max()))
        outside = max(outside, float(means[:edge].max()), float(means[-edge:].max()))
    return inside, outside


def decibels(vae: Any, basis: Any, count: int = 64, seed: int = 99, side: int = 512) -> Numbers:
    """Signal to noise of the VAE: decoder on exact latents, and encode-decode, over all kinds of scene."""
    rng = random.Random(seed)
    decoded, cycled = [], []
    for _ in range(count):
        full = render(random_scene(rng), side, side).astype(np.float32) / 127.5 - 1
        small = full.reshape(1, side // 8, 8, side // 8, 8, 3).mean(axis=(2, 4))
        target = torch.from_numpy(full.transpose(2, 0, 1)[None].copy())
        with torch.no_grad():
            exact = vae.decode(torch.from_numpy(basis.encode(small))).sample.clamp(-1, 1)
            cycle = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
        decoded.append((exact - target).square().mean().item())
        cycled.append((cycle - target).square().mean().item())
    db = {"decoder": decoded, "encode_decode": cycled}
    pooled = {f"{name}_db": float(10 * np.log10(4 / np.mean(errors))) for name, errors in db.items()}
    each = {f"{name}_db_median": float(10 * np.log10(4 / np.median(errors))) for name, errors in db.items()}
    return {**pooled, **each}
