"""Draws a scene as a flat illustration (skia), at any size, the same for the same scene.

The short side of a picture is 1 unit long. A subject is drawn in its own frame, about [-1, 1] wide, and
placed by translation and scale; a background fills the whole picture, whatever its aspect.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import skia

from tools.small_sdxl.scenes import COLOURS, Figure, Rgb, Scene

Canvas = Any  # skia ships no types
Point = tuple[float, float]
Painter = Callable[[Canvas, Rgb], None]
Backdrop = Callable[[Canvas, float, float], None]

CREAM: Final[Rgb] = (245, 240, 228)
DARK: Final[Rgb] = (38, 38, 46)
WHITE: Final[Rgb] = (252, 252, 252)
OUTLINE: Final = 0.07

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


def mix(colour: Rgb, other: Rgb, share: float) -> Rgb:
    """Blend ``share`` of another colour into this one."""
    return (
        round(colour[0] + (other[0] - colour[0]) * share),
        round(colour[1] + (other[1] - colour[1]) * share),
        round(colour[2] + (other[2] - colour[2]) * share),
    )


def darker(colour: Rgb) -> Rgb:
    """The shade that outlines a colour (a lighter one for black, so that it shows at night)."""
    return mix(colour, WHITE, 0.3) if sum(colour) < 150 else mix(colour, (0, 0, 0), 0.32)


def lighter(colour: Rgb) -> Rgb:
    """The tint of muzzles, bellies and highlights."""
    return mix(colour, WHITE, 0.55)


def plain_colour(name: str) -> Rgb:
    """The colour of a plain background: softer than the subject's colour of the same name."""
    colour = COLOURS[name]
    return colour if name in ("black", "white", "gray", "pink", "brown") else mix(colour, WHITE, 0.35)


def _paint(colour: Rgb, stroke: float | None = None) -> Any:
    paint = skia.Paint(Color=skia.Color(*colour), AntiAlias=True)
    if stroke is not None:
        paint.setStyle(skia.Paint.kStroke_Style)
        paint.setStrokeWidth(stroke)
        paint.setStrokeJoin(skia.Paint.kRound_Join)
        paint.setStrokeCap(skia.Paint.kRound_Cap)
    return paint


def _polygon(points: Sequence[Point]) -> Any:
    path = skia.Path()
    path.moveTo(*points[0])
    for point in points[1:]:
        path.lineTo(*point)
    path.close()
    return path


def _fill(canvas: Canvas, path: Any, colour: Rgb, outlined: bool = True) -> None:
    canvas.drawPath(path, _paint(colour))
    if outlined:
        canvas.drawPath(path, _paint(darker(colour), OUTLINE))


def _oval(
    canvas: Canvas, x: float, y: float, rx: float, ry: float, colour: Rgb, outlined: bool = False
) -> None:
    box = skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry)
    canvas.drawOval(box, _paint(colour))
    if outlined:
        canvas.drawOval(box, _paint(darker(colour), OUTLINE))


def _box(
    canvas: Canvas,
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    colour: Rgb,
    round_by: float = 0.0,
    outlined: bool = False,
) -> None:
    box = skia.Rect.MakeLTRB(x0, y0, x1, y1)
    canvas.drawRoundRect(box, round_by, round_by, _paint(colour))
    if outlined:
        canvas.drawRoundRect(box, round_by, round_by, _paint(darker(colour), OUTLINE))


def _line(canvas: Canvas, points: Sequence[Point], colour: Rgb, width: float) -> None:
    path = skia.Path()
    path.moveTo(*points[0])
    for point in points[1:]:
        path.lineTo(*point)
    canvas.drawPath(path, _paint(colour, width))


def _arc(
    canvas: Canvas,
    x: float,
    y: float,
    rx: float,
    ry: float,
    start: float,
    sweep: float,
    colour: Rgb,
    width: float,
) -> None:
    canvas.drawArc(
        skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry), start, sweep, False, _paint(colour, width)
    )


def _eyes(canvas: Canvas, y: float, dx: float, radius: float = 0.13) -> None:
    for x in (-dx, dx):
        _oval(canvas, x, y, radius, radius * 1.15, DARK)
        _oval(canvas, x + radius * 0.3, y - radius * 0.4, radius * 0.36, radius * 0.36, WHITE)


# --- subjects -----------------------------------------------------------------------------------------------


def _circle(canvas: Canvas, colour: Rgb) -> None:
    _oval(canvas, 0, 0, 0.92, 0.92, colour, outlined=True)


def _square(canvas: Canvas, colour: Rgb) -> None:
    _box(canvas, -0.82, -0.82, 0.82, 0.82, colour, outlined=True)


def _triangle(canvas: Canvas, colour: Rgb) -> None:
    _fill(canvas, _polygon([(0, -0.95), (1.0, 0.8), (-1.0, 0.8)]), colour)


def _star(canvas: Canvas, colour: Rgb) -> None:
    points = []
    for k in range(10):
        radius, angle = (1.05 if k % 2 == 0 else 0.45), math.pi * k / 5
        points.append((radius * math.sin(angle), 0.06 - radius * math.cos(angle)))
    _fill(canvas, _polygon(points), colour)


def _heart(canvas: Canvas, colour: Rgb) -> None:
    path = skia.Path()
    path.moveTo(0, 0.95)
    path.cubicTo(-1.25, 0.1, -1.05, -0.85, -0.5, -0.85)
    path.cubicTo(-0.2, -0.85, 0, -0.62, 0, -0.42)
    path.cubicTo(0, -0.62, 0.2, -0.85, 0.5, -0.85)
    path.cubicTo(1.05, -0.85, 1.25, 0.1, 0, 0.95)
    path.close()
    _fill(canvas, path, colour)


def _diamond(canvas: Canvas, colour: Rgb) -> None:
    _fill(canvas, _polygon([(0, -1.05), (0.72, 0), (0, 1.05), (-0.72, 0)]), colour)


def _cat(canvas: Canvas, colour: Rgb) -> None:
    for side in (-1, 1):
        _fill(canvas, _polygon([(side * 0.88, -0.95), (side * 0.82, 0.05), (side * 0.2, -0.5)]), colour)
        _fill(
            canvas,
            _polygon([(side * 0.76, -0.68), (side * 0.72, -0.2), (side * 0.42, -0.45)]),
            (245, 170, 175),
            False,
        )
    _oval(canvas, 0, 0.15, 0.92, 0.75, colour, outlined=True)
    _eyes(canvas, 0.05, 0.38, 0.15)
    _fill(canvas, _polygon([(-0.12, 0.3), (0.12, 0.3), (0, 0.43)]), (240, 120, 140), False)
    ink = darker(colour)
    for side in (-1, 1):
        _arc(canvas, side * 0.13, 0.45, 0.13, 0.12, 0, 180, DARK if sum(colour) > 150 else ink, 0.05)
        _line(canvas, [(side * 0.5, 0.36), (side * 1.02, 0.27)], ink, 0.045)
        _line(canvas, [(side * 0.5, 0.46), (side * 1.0, 0.52)], ink, 0.045)


def _dog(canvas: Canvas, colour: Rgb) -> None:
    _oval(canvas, 0, 0.0, 0.75, 0.85, colour, outlined=True)
    for side in (-1, 1):
        canvas.save()
        canvas.translate(side * 0.78, -0.1)
        canvas.rotate(-side * 12)
        _oval(canvas, 0, 0, 0.24, 0.6, darker(colour))
        canvas.restore()
    _oval(canvas, 0, 0.38, 0.42, 0.36, lighter(colour))
    _eyes(canvas, -0.18, 0.3)
    _oval(canvas, 0, 0.22, 0.16, 0.12, DARK)
    _oval(canvas, 0, 0.62, 0.14, 0.2, (240, 110, 130))


def _bear_head(canvas: Canvas, colour: Rgb, ears: Rgb, inner: Rgb) -> None:
    for side in (-1, 1):
        _oval(canvas, side * 0.65, -0.62, 0.3, 0.3, ears, outlined=True)
        _oval(canvas, side * 0.65, -0.62, 0.15, 0.15, inner)
    _oval(canvas, 0, 0.08, 0.9, 0.82, colour, outlined=True)


def _bear(canvas: Canvas, colour: Rgb) -> None:
    _bear_head(canvas, colour, colour, lighter(colour))
    _oval(canvas, 0, 0.36, 0.38, 0.3, lighter(colour))
    _eyes(canvas, -0.08, 0.34)
    _oval(canvas, 0, 0.26, 0.15, 0.11, DARK)
    _arc(canvas, 0, 0.4, 0.15, 0.12, 20, 140, DARK, 0.05)


def _panda(canvas: Canvas, colour: Rgb) -> None:
    _bear_head(canvas, colour, DARK, DARK)
    for side in (-1, 1):
        canvas.save()
        canvas.translate(side * 0.38, 0.0)
        canvas.rotate(side * 25)
        _oval(canvas, 0, 0, 0.21, 0.29, DARK)
        canvas.restore()
        _oval(canvas, side * 0.35, -0.03, 0.08, 0.09, WHITE)
    _oval(canvas, 0, 0.34, 0.15, 0.11, DARK)
    _arc(canvas, 0, 0.44, 0.17, 0.14, 20, 140, DARK, 0.05)


def _rabbit(canvas: Canvas, colour: Rgb) -> None:
    for side in (-1, 1):
        canvas.save()
        canvas.translate(side * 0.33, -0.62)
        canvas.rotate(side * 8)
        _oval(canvas, 0, 0, 0.22, 0.55, colour, outlined=True)
        _oval(canvas, 0, 0.05, 0.1, 0.38, (246, 175, 185))
        canvas.restore()
    _oval(canvas, 0, 0.35, 0.72, 0.65, colour, outlined=True)
    _eyes(canvas, 0.25, 0.3)
    _oval(canvas, 0, 0.46, 0.1, 0.07, (240, 120, 140))
    _box(canvas, -0.1, 0.6, 0.1, 0.78, WHITE, 0.04)


def _frog(canvas: Canvas, colour: Rgb) -> None:
    for side in (-1, 1):
        _oval(canvas, side * 0.5, -0.45, 0.32, 0.34, colour, outlined=True)
    _oval(canvas, 0, 0.18, 0.98, 0.68, colour, outlined=True)
    for side in (-1, 1):
        _oval(canvas, side * 0.5, -0.45, 0.2, 0.22, WHITE)
        _oval(canvas, side * 0.5, -0.43, 0.1, 0.12, DARK)
    _arc(canvas, 0, 0.12, 0.55, 0.38, 15, 150, DARK if sum(colour) > 150 else WHITE, 0.07)


def _fish(canvas: Canvas, colour: Rgb) -> None:
    _fill(canvas, _polygon([(0.4, 0), (1.0, -0.5), (0.88, 0), (1.0, 0.5)]), colour)
    _fill(canvas, _polygon([(-0.25, -0.4), (0.25, -0.75), (0.35, -0.3)]), colour)
    _oval(canvas, -0.2, 0, 0.78, 0.52, colour, outlined=True)
    _arc(canvas, -0.42, 0, 0.24, 0.42, -60, 120, lighter(colour), 0.07)
    _oval(canvas, -0.62, -0.1, 0.13, 0.13, WHITE)
    _oval(canvas, -0.64, -0.1, 0.075, 0.075, DARK)


def _astronaut(canvas: Canvas, colour: Rgb) -> None:
    grey = (120, 128, 140)
    _box(canvas, -0.58, -0.0, 0.58, 0.68, grey, 0.12)
    for side in (-1, 1):
        _line(canvas, [(side * 0.38, 0.2), (side * 0.72, 0.0), (side * 0.84, -0.3)], darker(colour), 0.32)
        _line(canvas, [(side * 0.38, 0.2), (side * 0.72, 0.0), (side * 0.84, -0.3)], colour, 0.22)
        _box(canvas, side * 0.25 - 0.19, 0.55, side * 0.25 + 0.19, 1.02, colour, 0.1, outlined=True)
    _box(canvas, -0.42, -0.02, 0.42, 0.75, colour, 0.16, outlined=True)
    _box(canvas, -0.2, 0.3, 0.2, 0.52, (225, 70, 70), 0.04)
    _oval(canvas, 0, -0.45, 0.52, 0.5, colour, outlined=True)
    _box(canvas, -0.36, -0.66, 0.36, -0.2, (40, 60, 110), 0.2)
    _box(canvas, -0.26, -0.58, -0.04, -0.48, (150, 190, 240), 0.05)


def _robot(canvas: Canvas, colour: Rgb) -> None:
    _line(canvas, [(0, -0.7), (0, -0.95)], darker(colour), 0.08)
    _oval(canvas, 0, -0.98, 0.11, 0.11, (235, 80, 70))
    for side in (-1, 1):
        _box(canvas, side * 0.67 - 0.12, 0.3, side * 0.67 + 0.12, 0.85, darker(colour), 0.08)
    _box(canvas, -0.5, 0.22, 0.5, 1.0, colour, 0.08, outlined=True)
    _box(canvas, -0.68, -0.72, 0.68, 0.16, colour, 0.14, outlined=True)
    for side in (-1, 1):
        _oval(canvas, side * 0.32, -0.38, 0.19, 0.19, DARK)
        _oval(canvas, side * 0.32, -0.38, 0.12, 0.12, (120, 235, 245))
    _box(canvas, -0.35, -0.1, 0.35, 0.02, DARK, 0.04)
    _oval(canvas, 0, 0.6, 0.17, 0.17, (250, 205, 70))


def _house(canvas: Canvas, colour: Rgb) -> None:
    _box(canvas, 0.4, -0.9, 0.62, -0.3, (150, 95, 80))
    _box(canvas, -0.75, -0.2, 0.75, 0.9, colour, outlined=True)
    _fill(canvas, _polygon([(0, -1.0), (1.02, -0.12), (-1.02, -0.12)]), (160, 65, 50))
    _box(canvas, -0.18, 0.3, 0.18, 0.9, (105, 65, 45), 0.03)
    for x in (-0.47, 0.47):
        _box(canvas, x - 0.17, 0.12, x + 0.17, 0.42, (175, 220, 245))


def _tree(canvas: Canvas, colour: Rgb) -> None:
    _box(canvas, -0.16, 0.2, 0.16, 1.0, (125, 80, 50))
    for x, y, radius in ((-0.42, -0.02, 0.44), (0.42, -0.02, 0.44), (0, -0.48, 0.52)):
        _oval(canvas, x, y, radius, radius, colour, outlined=True)
    for x, y, radius in ((-0.42, -0.02, 0.4), (0.42, -0.02, 0.4), (0, -0.4, 0.46)):
        _oval(canvas, x, y, radius, radius, colour)


def _flower(canvas: Canvas, colour: Rgb) -> None:
    stem = (60, 140, 70)
    _line(canvas, [(0, 0.0), (0, 1.0)], stem, 0.12)
    for side in (-1, 1):
        canvas.save()
        canvas.translate(side * 0.28, 0.7)
        canvas.rotate(-side * 35)
        _oval(canvas, 0, 0, 0.3, 0.13, stem)
        canvas.restore()
    for k in range(6):
        angle = math.pi * k / 3
        _oval(
            canvas, 0.42 * math.sin(angle), -0.3 - 0.42 * math.cos(angle), 0.27, 0.27, colour, outlined=True
        )
    _oval(
        canvas,
        0,
        -0.3,
        0.25,
        0.25,
        (250, 190, 50) if sum(colour) > 0 and colour != COLOURS["yellow"] else (150, 90, 50),
    )


def _boat(canvas: Canvas, colour: Rgb) -> None:
    _line(canvas, [(0.0, -0.95), (0.0, 0.4)], (110, 75, 50), 0.09)
    _fill(canvas, _polygon([(0.1, -0.88), (0.85, 0.25), (0.1, 0.25)]), WHITE)
    _fill(canvas, _polygon([(-0.1, -0.6), (-0.65, 0.25), (-0.1, 0.25)]), WHITE)
    _fill(canvas, _polygon([(-1.0, 0.38), (1.0, 0.38), (0.65, 0.9), (-0.65, 0.9)]), colour)


def _car(canvas: Canvas, colour: Rgb) -> None:
    _fill(canvas, _polygon([(-0.6, 0.0), (-0.4, -0.5), (0.35, -0.5), (0.65, 0.0)]), colour)
    _fill(
        canvas,
        _polygon([(-0.46, -0.02), (-0.32, -0.4), (-0.04, -0.4), (-0.04, -0.02)]),
        (185, 225, 245),
        False,
    )
    _fill(canvas, _polygon([(0.06, -0.02), (0.06, -0.4), (0.3, -0.4), (0.5, -0.02)]), (185, 225, 245), False)
    _box(canvas, -1.0, -0.02, 1.0, 0.42, colour, 0.14, outlined=True)
    _oval(canvas, 0.9, 0.12, 0.08, 0.08, (255, 240, 160))
    for x in (-0.52, 0.52):
        _oval(canvas, x, 0.44, 0.25, 0.25, DARK)
        _oval(canvas, x, 0.44, 0.11, 0.11, (200, 205, 210))


def _mushroom(canvas: Canvas, colour: Rgb) -> None:
    _box(canvas, -0.3, -0.1, 0.3, 0.95, (245, 232, 205), 0.18, outlined=True)
    path = skia.Path()
    path.moveTo(-1.0, 0.15)
    path.cubicTo(-1.0, -1.2, 1.0, -1.2, 1.0, 0.15)
    path.close()
    _fill(canvas, path, colour)
    spots = WHITE if colour != COLOURS["white"] else (220, 90, 80)
    for x, y, radius in ((0, -0.5, 0.19), (-0.52, -0.15, 0.15), (0.52, -0.15, 0.15)):
        _oval(canvas, x, y, radius, radius, spots)


def _umbrella(canvas: Canvas, colour: Rgb) -> None:
    wood = (110, 75, 50)
    _line(canvas, [(0, -0.1), (0, 0.82)], wood, 0.09)
    _arc(canvas, 0.17, 0.82, 0.17, 0.17, 0, 180, wood, 0.09)
    path = skia.Path()
    path.moveTo(-1.0, 0.1)
    path.cubicTo(-0.95, -1.2, 0.95, -1.2, 1.0, 0.1)
    for x in (0.67, 0.0, -0.67):
        path.quadTo(x, -0.14, x - 0.335, 0.1)
    path.close()
    _fill(canvas, path, colour)
    _line(canvas, [(0, -0.86), (0, -0.02)], darker(colour), 0.05)


def _moon(canvas: Canvas, colour: Rgb) -> None:
    path = skia.Path()
    path.moveTo(0.3, -0.95)
    path.cubicTo(-1.25, -0.75, -1.25, 0.75, 0.3, 0.95)
    path.cubicTo(-0.4, 0.5, -0.4, -0.5, 0.3, -0.95)
    path.close()
    _fill(canvas, path, colour)


def _sun(canvas: Canvas, colour: Rgb) -> None:
    for k in range(12):
        angle = math.pi * k / 6
        x, y = math.sin(angle), math.cos(angle)
        _line(canvas, [(0.7 * x, 0.7 * y), (0.98 * x, 0.98 * y)], (245, 165, 40), 0.13)
    _oval(canvas, 0, 0, 0.6, 0.6, colour, outlined=True)


PAINTERS: Final[dict[str, Painter]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
    "cat": _cat,
    "dog": _dog,
    "panda": _panda,
    "bear": _bear,
    "rabbit": _rabbit,
    "frog": _frog,
    "fish": _fish,
    "astronaut": _astronaut,
    "robot": _robot,
    "house": _house,
    "tree": _tree,
    "flower": _flower,
    "boat": _boat,
    "car": _car,
    "mushroom": _mushroom,
    "umbrella": _umbrella,
    "moon": _moon,
    "sun": _sun,
}

#: Where the head of a wearer is: centre, half width, top.
HEADS: Final[dict[str, tuple[float, float, float]]] = {
    "cat": (0.1, 0.9, -0.55),
    "dog": (-0.05, 0.92, -0.82),
    "panda": (0.05, 0.88, -0.72),
    "bear": (0.05, 0.88, -0.72),
    "rabbit": (0.3, 0.72, -0.25),
    "frog": (0.1, 0.95, -0.6),
    "astronaut": (-0.45, 0.52, -0.9),
    "robot": (-0.3, 0.68, -0.7),
}


def _wear(canvas: Canvas, subject: str, accessory: str) -> None:
    y, half, top = HEADS[subject]
    if accessory == "headphones":
        band, cup = (60, 62, 75), (230, 60, 90)
        _arc(canvas, 0, y, half, y - top + 0.1, 180, 180, band, 0.13)
        for side in (-1, 1):
            _box(canvas, side * half - 0.15, y - 0.22, side * half + 0.15, y + 0.3, cup, 0.12)
    else:
        felt = (75, 60, 120)
        _box(canvas, -half * 0.8, top - 0.02, half * 0.8, top + 0.14, felt, 0.07)
        _box(canvas, -half * 0.5, top - 0.48, half * 0.5, top + 0.06, felt, 0.06)
        _box(canvas, -half * 0.5, top - 0.1, half * 0.5, top, (240, 190, 60))


# --- backgrounds --------------------------------------------------------------------------------------------


def _meadow(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(165, 215, 245))
    _oval(canvas, width * 0.25, height * 1.02, width * 0.6, height * 0.42, (120, 195, 95))
    _box(canvas, 0, height * 0.72, width, height, (95, 180, 80))
    _oval(canvas, width * 0.9, height * 0.88, width * 0.45, height * 0.22, (80, 165, 72))


def _beach(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(150, 215, 240))
    _box(canvas, 0, height * 0.45, width, height, (60, 160, 200))
    _oval(canvas, width * 0.5, height * 0.98, width * 0.8, height * 0.3, (250, 245, 230))
    _oval(canvas, width * 0.5, height * 1.02, width * 0.85, height * 0.3, (240, 215, 160))


def _night(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(25, 30, 75))
    _oval(canvas, width * 0.84, height * 0.15, 0.09, 0.09, (250, 240, 190))
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
        _oval(canvas, width * x, height * y, 0.011, 0.011, (240, 240, 220))
    _oval(canvas, width * 0.5, height * 1.12, width * 0.8, height * 0.3, (16, 20, 48))


def _snow(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(190, 210, 230))
    _fill(
        canvas,
        _polygon([(0, height * 0.75), (width * 0.28, height * 0.3), (width * 0.56, height * 0.75)]),
        (135, 155, 185),
        False,
    )
    _fill(
        canvas,
        _polygon(
            [(width * 0.45, height * 0.75), (width * 0.76, height * 0.38), (width * 1.08, height * 0.75)]
        ),
        (155, 172, 200),
        False,
    )
    _box(canvas, 0, height * 0.68, width, height, (240, 245, 252))


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
        _box(canvas, width * x0, height * top, width * x1, height, ((125, 120, 150), (105, 100, 135))[k % 2])
    _box(canvas, 0, height * 0.86, width, height, (80, 80, 90))


def _sea(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(195, 230, 248))
    _box(canvas, 0, height * 0.35, width, height, (70, 145, 215))
    _box(canvas, 0, height * 0.58, width, height, (48, 118, 195))
    _box(canvas, 0, height * 0.8, width, height, (32, 90, 170))


def _desert(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(252, 225, 170))
    _oval(canvas, width * 0.15, height * 0.18, 0.1, 0.1, (255, 250, 225))
    _oval(canvas, width * 0.8, height * 0.95, width * 0.7, height * 0.4, (225, 165, 90))
    _oval(canvas, width * 0.15, height * 1.02, width * 0.65, height * 0.36, (205, 140, 75))


def _room(canvas: Canvas, width: float, height: float) -> None:
    canvas.drawColor(skia.Color(240, 205, 195))
    _box(canvas, width * 0.08, height * 0.1, width * 0.08 + 0.24, height * 0.1 + 0.26, WHITE)
    _box(
        canvas,
        width * 0.08 + 0.02,
        height * 0.1 + 0.02,
        width * 0.08 + 0.22,
        height * 0.1 + 0.24,
        (160, 210, 240),
    )
    _box(canvas, 0, height * 0.74, width, height, (170, 115, 75))
    _box(canvas, 0, height * 0.71, width, height * 0.74, (250, 240, 230))


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
    background = scene.background
    if background is None:
        canvas.drawColor(skia.Color(*CREAM))
    elif background.startswith("plain "):
        canvas.drawColor(skia.Color(*plain_colour(background.removeprefix("plain "))))
    else:
        BACKDROPS[background](canvas, wide, high)
    rng = random.Random(scene.seed)
    for figure in scene.figures:
        x, y, radius = place(figure, len(scene.figures) == 1, rng, wide, high)
        canvas.save()
        canvas.translate(x, y)
        canvas.scale(radius, radius)
        PAINTERS[figure.subject](canvas, COLOURS[figure.shown_colour])
        if figure.accessory is not None:
            _wear(canvas, figure.subject, figure.accessory)
        canvas.restore()
    pixels: npt.NDArray[np.uint8] = surface.toarray(colorType=skia.kRGBA_8888_ColorType)
    return np.ascontiguousarray(pixels[:, :, :3])


def render_small(scene: Scene, width: int = 64, height: int = 64) -> npt.NDArray[np.float32]:
    """The picture at an eighth of its size: drawn at twice that and averaged; values in [-1, 1]."""
    big = render(scene, width * 2, height * 2).astype(np.float32)
    small = big.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    return np.asarray(small / 127.5 - 1, dtype=np.float32)
