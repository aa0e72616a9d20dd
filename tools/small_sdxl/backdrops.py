"""The backgrounds: each fills a picture of any aspect, whose short side is 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import skia

from tools.small_sdxl.brush import (
    WHITE,
    Canvas,
    box,
    fill,
    mix,
    oval,
    polygon,
)
from tools.small_sdxl.scenes import COLOURS, Rgb

Backdrop = Callable[[Canvas, float, float], None]

CREAM: Final[Rgb] = (245, 240, 228)


def plain_colour(name: str) -> Rgb:
    """The colour of a plain background: softer than the subject's colour of the same name."""
    colour = COLOURS[name]
    return colour if name in ("black", "white", "gray", "pink", "brown") else mix(colour, WHITE, 0.35)


def _meadow(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(165, 215, 245))
    oval(canvas, width * 0.25, height * 1.02, width * 0.6, height * 0.42, (120, 195, 95))
    box(canvas, 0, height * 0.72, width, height, (95, 180, 80))
    oval(canvas, width * 0.9, height * 0.88, width * 0.45, height * 0.22, (80, 165, 72))


def _beach(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(150, 215, 240))
    box(canvas, 0, height * 0.45, width, height, (60, 160, 200))
    oval(canvas, width * 0.5, height * 0.98, width * 0.8, height * 0.3, (250, 245, 230))
    oval(canvas, width * 0.5, height * 1.02, width * 0.85, height * 0.3, (240, 215, 160))


def _night(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(25, 30, 75))
    oval(canvas, width * 0.84, height * 0.15, 0.09, 0.09, (250, 240, 190))
    for x, y in (
        (0.1, 0.12),
        (0.3, 0.06),
        (0.55, 0.1),
        (0.2, 0.34),
        (0.07, 0.6),
        (0.93, 0.45),
        (0.7, 0.3),
        (0.4, 0.22),
    ):
        oval(canvas, width * x, height * y, 0.011, 0.011, (240, 240, 220))
    oval(canvas, width * 0.5, height * 1.12, width * 0.8, height * 0.3, (16, 20, 48))


def _snow(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(190, 210, 230))
    fill(
        canvas,
        polygon([(0, height * 0.75), (width * 0.28, height * 0.3), (width * 0.56, height * 0.75)]),
        (135, 155, 185),
        False,
    )
    fill(
        canvas,
        polygon(
            [(width * 0.45, height * 0.75), (width * 0.76, height * 0.38), (width * 1.08, height * 0.75)]
        ),
        (155, 172, 200),
        False,
    )
    box(canvas, 0, height * 0.68, width, height, (240, 245, 252))


def _city(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(250, 205, 165))
    blocks = (
        (0.0, 0.17, 0.42),
        (0.17, 0.3, 0.2),
        (0.3, 0.46, 0.5),
        (0.46, 0.6, 0.3),
        (0.6, 0.76, 0.45),
        (0.76, 0.88, 0.15),
        (0.88, 1.0, 0.38),
    )
    for k, (x0, x1, top) in enumerate(blocks):
        box(canvas, width * x0, height * top, width * x1, height, ((125, 120, 150), (105, 100, 135))[k % 2])
    box(canvas, 0, height * 0.86, width, height, (80, 80, 90))


def _sea(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(195, 230, 248))
    box(canvas, 0, height * 0.35, width, height, (70, 145, 215))
    box(canvas, 0, height * 0.58, width, height, (48, 118, 195))
    box(canvas, 0, height * 0.8, width, height, (32, 90, 170))


def _desert(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(252, 225, 170))
    oval(canvas, width * 0.15, height * 0.18, 0.1, 0.1, (255, 250, 225))
    oval(canvas, width * 0.8, height * 0.95, width * 0.7, height * 0.4, (225, 165, 90))
    oval(canvas, width * 0.15, height * 1.02, width * 0.65, height * 0.36, (205, 140, 75))


def _room(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(240, 205, 195))
    box(canvas, width * 0.08, height * 0.1, width * 0.08 + 0.24, height * 0.1 + 0.26, WHITE)
    box(
        canvas,
        width * 0.08 + 0.02,
        height * 0.1 + 0.02,
        width * 0.08 + 0.22,
        height * 0.1 + 0.24,
        (160, 210, 240),
    )
    box(canvas, 0, height * 0.74, width, height, (170, 115, 75))
    box(canvas, 0, height * 0.71, width, height * 0.74, (250, 240, 230))


BACKDROPS: Final[dict[str, Backdrop]] = {
    "meadow": _meadow,
    "beach": _beach,
    "night": _night,
    "snow": _snow,
    "city": _city,
    "sea": _sea,
    "desert": _desert,
    "room": _room,
}


def paint_background(canvas: Canvas, background: str | None, width: float, height: float) -> None:
    """Fill the picture; cream when no background is said."""
    if background is None:
        canvas.drawColor(skia.Color(*CREAM))
    elif background.startswith("plain "):
        canvas.drawColor(skia.Color(*plain_colour(background.removeprefix("plain "))))
    else:
        BACKDROPS[background](canvas, width, height)
