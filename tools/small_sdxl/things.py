"""Painters of things, each in its own frame, about [-1, 1] wide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import skia

from tools.small_sdxl.brush import DARK, WHITE, Canvas, arc, box, darker, fill, lighter, line, oval, polygon
from tools.small_sdxl.scenes import COLOURS, Rgb


def _house(canvas: Canvas, colour: Rgb) -> None:
    box(canvas, 0.4, -0.9, 0.62, -0.3, (150, 95, 80))
    box(canvas, -0.75, -0.2, 0.75, 0.9, colour, outlined=True)
    fill(canvas, polygon([(0, -1.0), (1.02, -0.12), (-1.02, -0.12)]), (160, 65, 50))
    box(canvas, -0.18, 0.3, 0.18, 0.9, (105, 65, 45), 0.03)
    for x in (-0.47, 0.47):
        box(canvas, x - 0.17, 0.12, x + 0.17, 0.42, (175, 220, 245))


def _tree(canvas: Canvas, colour: Rgb) -> None:
    box(canvas, -0.16, 0.2, 0.16, 1.0, (125, 80, 50))
    for x, y, radius in ((-0.42, -0.02, 0.44), (0.42, -0.02, 0.44), (0, -0.48, 0.52)):
        oval(canvas, x, y, radius, radius, colour, outlined=True)
    for x, y, radius in ((-0.42, -0.02, 0.4), (0.42, -0.02, 0.4), (0, -0.4, 0.46)):
        oval(canvas, x, y, radius, radius, colour)


def _flower(canvas: Canvas, colour: Rgb) -> None:
    stem = (60, 140, 70)
    line(canvas, [(0, 0.0), (0, 1.0)], stem, 0.12)
    for side in (-1, 1):
        canvas.save()
        canvas.translate(side * 0.28, 0.7)
        canvas.rotate(-side * 35)
        oval(canvas, 0, 0, 0.3, 0.13, stem)
        canvas.restore()
    for k in range(6):
        angle = math.pi * k / 3
        oval(canvas, 0.42 * math.sin(angle), -0.3 - 0.42 * math.cos(angle), 0.27, 0.27, colour, outlined=True)
    oval(
        canvas,
        0,
        -0.3,
        0.25,
        0.25,
        (250, 190, 50) if sum(colour) > 0 and colour != COLOURS["yellow"] else (150, 90, 50),
    )


def _boat(canvas: Canvas, colour: Rgb) -> None:
    line(canvas, [(0.0, -0.95), (0.0, 0.4)], (110, 75, 50), 0.09)
    fill(canvas, polygon([(0.1, -0.88), (0.85, 0.25), (0.1, 0.25)]), WHITE)
    fill(canvas, polygon([(-0.1, -0.6), (-0.65, 0.25), (-0.1, 0.25)]), WHITE)
    fill(canvas, polygon([(-1.0, 0.38), (1.0, 0.38), (0.65, 0.9), (-0.65, 0.9)]), colour)


def _car(canvas: Canvas, colour: Rgb) -> None:
    fill(canvas, polygon([(-0.6, 0.0), (-0.4, -0.5), (0.35, -0.5), (0.65, 0.0)]), colour)
    fill(
        canvas,
        polygon([(-0.46, -0.02), (-0.32, -0.4), (-0.04, -0.4), (-0.04, -0.02)]),
        (185, 225, 245),
        False,
    )
    fill(canvas, polygon([(0.06, -0.02), (0.06, -0.4), (0.3, -0.4), (0.5, -0.02)]), (185, 225, 245), False)
    box(canvas, -1.0, -0.02, 1.0, 0.42, colour, 0.14, outlined=True)
    oval(canvas, 0.9, 0.12, 0.08, 0.08, (255, 240, 160))
    for x in (-0.52, 0.52):
        oval(canvas, x, 0.44, 0.25, 0.25, DARK)
        oval(canvas, x, 0.44, 0.11, 0.11, (200, 205, 210))


def _mushroom(canvas: Canvas, colour: Rgb) -> None:
    box(canvas, -0.3, -0.1, 0.3, 0.95, (245, 232, 205), 0.18, outlined=True)
    path = skia.Path()
    path.moveTo(-1.0, 0.15)
    path.cubicTo(-1.0, -1.2, 1.0, -1.2, 1.0, 0.15)
    path.close()
    fill(canvas, path, colour)
    spots = WHITE if colour != COLOURS["white"] else (220, 90, 80)
    for x, y, radius in ((0, -0.5, 0.19), (-0.52, -0.15, 0.15), (0.52, -0.15, 0.15)):
        oval(canvas, x, y, radius, radius, spots)


def _umbrella(canvas: Canvas, colour: Rgb) -> None:
    wood = (110, 75, 50)
    line(canvas, [(0, -0.1), (0, 0.82)], wood, 0.09)
    arc(canvas, 0.17, 0.82, 0.17, 0.17, 0, 180, wood, 0.09)
    path = skia.Path()
    path.moveTo(-1.0, 0.1)
    path.cubicTo(-0.95, -1.2, 0.95, -1.2, 1.0, 0.1)
    for x in (0.67, 0.0, -0.67):
        path.quadTo(x, -0.14, x - 0.335, 0.1)
    path.close()
    fill(canvas, path, colour)
    line(canvas, [(0, -0.86), (0, -0.02)], darker(colour), 0.05)


def _moon(canvas: Canvas, colour: Rgb) -> None:
    path = skia.Path()
    path.moveTo(0.3, -0.95)
    path.cubicTo(-1.25, -0.75, -1.25, 0.75, 0.3, 0.95)
    path.cubicTo(-0.4, 0.5, -0.4, -0.5, 0.3, -0.95)
    path.close()
    fill(canvas, path, colour)


def _sun(canvas: Canvas, colour: Rgb) -> None:
    for k in range(12):
        angle = math.pi * k / 6
        x, y = math.sin(angle), math.cos(angle)
        line(canvas, [(0.7 * x, 0.7 * y), (0.98 * x, 0.98 * y)], (245, 165, 40), 0.13)
    oval(canvas, 0, 0, 0.6, 0.6, colour, outlined=True)


def _rocket(canvas: Canvas, colour: Rgb) -> None:
    fill(canvas, polygon([(-0.2, 0.62), (0.2, 0.62), (0, 1.08)]), (250, 190, 60), False)
    for side in (-1, 1):
        fill(
            canvas,
            polygon([(side * 0.3, 0.1), (side * 0.72, 0.75), (side * 0.28, 0.62)]),
            darker(colour),
            False,
        )
    path = skia.Path()
    path.moveTo(0, -1.05)
    path.cubicTo(0.55, -0.6, 0.46, 0.3, 0.28, 0.68)
    path.lineTo(-0.28, 0.68)
    path.cubicTo(-0.46, 0.3, -0.55, -0.6, 0, -1.05)
    path.close()
    fill(canvas, path, colour)
    oval(canvas, 0, -0.3, 0.2, 0.2, WHITE)
    oval(canvas, 0, -0.3, 0.14, 0.14, (90, 160, 220))


def _castle(canvas: Canvas, colour: Rgb) -> None:
    for x in (-0.72, 0.72):
        fill(canvas, polygon([(x, -1.0), (x + 0.3, -0.45), (x - 0.3, -0.45)]), (170, 75, 85), False)
        box(canvas, x - 0.22, -0.45, x + 0.22, 0.9, colour, outlined=True)
        box(canvas, x - 0.07, -0.2, x + 0.07, 0.06, DARK, 0.06)
    for x in (-0.32, 0.0, 0.32):
        box(canvas, x - 0.11, -0.32, x + 0.11, 0.0, colour, outlined=True)
    box(canvas, -0.48, -0.1, 0.48, 0.9, colour, outlined=True)
    box(canvas, -0.2, 0.32, 0.2, 0.9, (100, 65, 50), 0.16)


def _apple(canvas: Canvas, colour: Rgb) -> None:
    line(canvas, [(0.02, -0.5), (0.1, -0.95)], (110, 75, 50), 0.1)
    for x in (-0.3, 0.3):
        oval(canvas, x, 0.14, 0.56, 0.72, colour, outlined=True)
    oval(canvas, 0, 0.18, 0.6, 0.64, colour)
    canvas.save()
    canvas.translate(0.38, -0.74)
    canvas.rotate(-25)
    oval(canvas, 0, 0, 0.27, 0.13, (90, 175, 80))
    canvas.restore()
    oval(canvas, -0.42, -0.12, 0.12, 0.2, lighter(colour))


THINGS: Final[dict[str, Callable[[Canvas, Rgb], None]]] = {
    "house": _house,
    "tree": _tree,
    "flower": _flower,
    "boat": _boat,
    "car": _car,
    "mushroom": _mushroom,
    "umbrella": _umbrella,
    "moon": _moon,
    "sun": _sun,
    "rocket": _rocket,
    "castle": _castle,
    "apple": _apple,
}
