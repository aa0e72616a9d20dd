"""Draws a scene as a flat illustration (skia), at any size, the same for the same scene.

The short side of a picture is 1 unit long. A subject is drawn in its own frame, about [-1, 1] wide, and
placed by translation and scale; a background fills the whole picture, whatever its aspect.
"""

from __future__ import annotations

import random
from typing import Final

import numpy as np
import numpy.typing as npt
import skia

from tools.small_sdxl.backdrops import paint_background
from tools.small_sdxl.brush import Point
from tools.small_sdxl.scenes import COLOURS, Figure, Scene
from tools.small_sdxl.subjects import PAINTERS, wear

RADIUS: Final = {None: 0.26, "medium": 0.26, "small": 0.15, "large": 0.36}
OFFSET: Final = {None: 0.22, "medium": 0.22, "small": 0.28, "large": 0.14}
DIRECTION: Final[dict[str | None, Point]] = {
    None: (0, 0),
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
}


def place(
    figure: Figure, alone: bool, rng: random.Random, width: float, height: float
) -> tuple[float, float, float]:
    """Where a figure goes: centre and radius, with the small variations of its scene."""

    def jitter(spread: float) -> float:
        return rng.uniform(-spread, spread)

    radius = (RADIUS[figure.size] if alone else 0.2) * (1 + jitter(0.05))
    offset = OFFSET[figure.size] if alone else 0.24
    dx, dy = DIRECTION[figure.position]
    # The offset grows with the picture's own side, so that "left" is left of a wide picture too.
    x = width / 2 + dx * offset * width + jitter(0.012)
    y = height / 2 + dy * offset * height + jitter(0.012) + 0.02
    return x, y, radius


def render(scene: Scene, width: int = 512, height: int = 512) -> npt.NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: What to draw.
        width: Pixels across.
        height: Pixels down.

    Returns:
        The picture, (height, width, 3), RGB.
    """
    surface = skia.Surface(width, height)
    canvas = surface.getCanvas()
    unit = min(width, height)
    canvas.scale(unit, unit)
    wide, high = width / unit, height / unit
    paint_background(canvas, scene.background, wide, high)
    rng = random.Random(scene.seed)
    for figure in scene.figures:
        x, y, radius = place(figure, len(scene.figures) == 1, rng, wide, high)
        canvas.save()
        canvas.translate(x, y)
        canvas.scale(radius, radius)
        PAINTERS[figure.subject](canvas, COLOURS[figure.shown_colour])
        if figure.accessory is not None:
            wear(canvas, figure.subject, figure.accessory)
        canvas.restore()
    pixels: npt.NDArray[np.uint8] = surface.toarray(colorType=skia.kRGBA_8888_ColorType)
    return np.ascontiguousarray(pixels[:, :, :3])


def render_small(scene: Scene, width: int = 64, height: int = 64) -> npt.NDArray[np.float32]:
    """The picture at an eighth of its size: drawn at twice that and averaged; values in [-1, 1]."""
    big = render(scene, width * 2, height * 2).astype(np.float32)
    small = big.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    return np.asarray(small / 127.5 - 1, dtype=np.float32)
