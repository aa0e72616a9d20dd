"""The subjects: each painter draws one in its own frame, about [-1, 1] wide, in a given colour."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import skia

from tools.small_sdxl.brush import (
    DARK,
    WHITE,
    Canvas,
    arc,
    box,
    darker,
    fill,
    lighter,
    line,
    oval,
    polygon,
)
from tools.small_sdxl.scenes import COLOURS, Rgb

Painter = Callable[[Canvas, Rgb], None]


def _eyes(canvas: Canvas, y: float, dx: float, radius: float = 0.13) -> None:
    for x in (-dx, dx):
        oval(canvas, x, y, radius, radius * 1.15, DARK)
        oval(canvas, x + radius * 0.3, y - radius * 0.4, radius * 0.36, radius * 0.36, WHITE)


def _circle(canvas: Canvas, colour: Rgb) -> None:
    oval(canvas, 0, 0, 0.92, 0.92, colour, outlined=True)


def _square(canvas: Canvas, colour: Rgb) -> None:
    box(canvas, -0.82, -0.82, 0.82, 0.82, colour, outlined=True)


def _triangle(canvas: Canvas, colour: Rgb) -> None:
    fill(canvas, polygon([(0, -0.95), (1.0, 0.8), (-1.0, 0.8)]), colour)


def _star(canvas: Canvas, colour: Rgb) -> None:
    points = []
    for k in range(10):
        radius, angle = (1.05 if k % 2 == 0 else 0.45), math.pi * k / 5
        points.append((radius * math.sin(angle), 0.06 - radius * math.cos(angle)))
    fill(canvas, polygon(points), colour)


def _heart(canvas: Canvas, colour: Rgb) -> None:
    path = skia.Path()
    path.moveTo(0, 0.95)
    path.cubicTo(-1.25, 0.1, -1.05, -0.85, -0.5, -0.85)
    path.cubicTo(-0.2, -0.85, 0, -0.62, 0, -0.42)
    path.cubicTo(0, -0.62, 0.2, -0.85, 0.5, -0.85)
    path.cubicTo(1.05, -0.85, 1.25, 0.1, 0, 0.95)
    path.close()
    fill(canvas, path, colour)


def _diamond(canvas: Canvas, colour: Rgb) -> None:
    fill(canvas, polygon([(0, -1.05), (0.72, 0), (0, 1.05), (-0.72, 0)]), colour)


def _cat(canvas: Canvas, colour: Rgb) -> None:
    for side in (-1, 1):
        fill(canvas, polygon([(side * 0.88, -0.95), (side * 0.82, 0.05), (side * 0.2, -0.5)]), colour)
        fill(
            canvas,
            polygon([(side * 0.76, -0.68), (side * 0.72, -0.2), (side * 0.42, -0.45)]),
            (245, 170, 175),
            False,
        )
    oval(canvas, 0, 0.15, 0.92, 0.75, colour, outlined=True)
    _eyes(canvas, 0.05, 0.38, 0.15)
    fill(canvas, polygon([(-0.12, 0.3), (0.12, 0.3), (0, 0.43)]), (240, 120, 140), False)
    ink = darker(colour)
    for side in (-1, 1):
        arc(canvas, side * 0.13, 0.45, 0.13, 0.12, 0, 180, DARK if sum(colour) > 150 else ink, 0.05)
        line(canvas, [(side * 0.5, 0.36), (side * 1.02, 0.27)], ink, 0.045)
        line(canvas, [(side * 0.5, 0.46), (side * 1.0, 0.52)], ink, 0.045)


def _dog(canvas: Canvas, colour: Rgb) -> None:
    oval(canvas, 0, 0.0, 0.75, 0.85, colour, outlined=True)
    for side in (-1, 1):
        canvas.save()
        canvas.translate(side * 0.78, -0.1)
        canvas.rotate(-side * 12)
        oval(canvas, 0, 0, 0.24, 0.6, darker(colour))
        canvas.restore()
    oval(canvas, 0, 0.38, 0.42, 0.36, lighter(colour))
    _eyes(canvas, -0.18, 0.3)
    oval(canvas, 0, 0.22, 0.16, 0.12, DARK)
    oval(canvas, 0, 0.62, 0.14, 0.2, (240, 110, 130))


def _bear_head(canvas: Canvas, colour: Rgb, ears: Rgb, inner: Rgb) -> None:
    for side in (-1, 1):
        oval(canvas, side * 0.65, -0.62, 0.3, 0.3, ears, outlined=True)
        oval(canvas, side * 0.65, -0.62, 0.15, 0.15, inner)
    oval(canvas, 0, 0.08, 0.9, 0.82, colour, outlined=True)


def _bear(canvas: Canvas, colour: Rgb) -> None:
    _bear_head(canvas, colour, colour, lighter(colour))
    oval(canvas, 0, 0.36, 0.38, 0.3, lighter(colour))
    _eyes(canvas, -0.08, 0.34)
    oval(canvas, 0, 0.26, 0.15, 0.11, DARK)
    arc(canvas, 0, 0.4, 0.15, 0.12, 20, 140, DARK, 0.05)


def _panda(canvas: Canvas, colour: Rgb) -> None:
    _bear_head(canvas, colour, DARK, DARK)
    for side in (-1, 1):
        canvas.save()
        canvas.translate(side * 0.38, 0.0)
        canvas.rotate(side * 25)
        oval(canvas, 0, 0, 0.21, 0.29, DARK)
        canvas.restore()
        oval(canvas, side * 0.35, -0.03, 0.08, 0.09, WHITE)
    oval(canvas, 0, 0.34, 0.15, 0.11, DARK)
    arc(canvas, 0, 0.44, 0.17, 0.14, 20, 140, DARK, 0.05)


def _rabbit(canvas: Canvas, colour: Rgb) -> None:
    for side in (-1, 1):
        canvas.save()
        canvas.translate(side * 0.33, -0.62)
        canvas.rotate(side * 8)
        oval(canvas, 0, 0, 0.22, 0.55, colour, outlined=True)
        oval(canvas, 0, 0.05, 0.1, 0.38, (246, 175, 185))
        canvas.restore()
    oval(canvas, 0, 0.35, 0.72, 0.65, colour, outlined=True)
    _eyes(canvas, 0.25, 0.3)
    oval(canvas, 0, 0.46, 0.1, 0.07, (240, 120, 140))
    box(canvas, -0.1, 0.6, 0.1, 0.78, WHITE, 0.04)


def _frog(canvas: Canvas, colour: Rgb) -> None:
    for side in (-1, 1):
        oval(canvas, side * 0.5, -0.45, 0.32, 0.34, colour, outlined=True)
    oval(canvas, 0, 0.18, 0.98, 0.68, colour, outlined=True)
    for side in (-1, 1):
        oval(canvas, side * 0.5, -0.45, 0.2, 0.22, WHITE)
        oval(canvas, side * 0.5, -0.43, 0.1, 0.12, DARK)
    arc(canvas, 0, 0.12, 0.55, 0.38, 15, 150, DARK if sum(colour) > 150 else WHITE, 0.07)


def _fish(canvas: Canvas, colour: Rgb) -> None:
    fill(canvas, polygon([(0.4, 0), (1.0, -0.5), (0.88, 0), (1.0, 0.5)]), colour)
    fill(canvas, polygon([(-0.25, -0.4), (0.25, -0.75), (0.35, -0.3)]), colour)
    oval(canvas, -0.2, 0, 0.78, 0.52, colour, outlined=True)
    arc(canvas, -0.42, 0, 0.24, 0.42, -60, 120, lighter(colour), 0.07)
    oval(canvas, -0.62, -0.1, 0.13, 0.13, WHITE)
    oval(canvas, -0.64, -0.1, 0.075, 0.075, DARK)


def _astronaut(canvas: Canvas, colour: Rgb) -> None:
    grey = (120, 128, 140)
    box(canvas, -0.58, -0.0, 0.58, 0.68, grey, 0.12)
    for side in (-1, 1):
        line(canvas, [(side * 0.38, 0.2), (side * 0.72, 0.0), (side * 0.84, -0.3)], darker(colour), 0.32)
        line(canvas, [(side * 0.38, 0.2), (side * 0.72, 0.0), (side * 0.84, -0.3)], colour, 0.22)
        box(canvas, side * 0.25 - 0.19, 0.55, side * 0.25 + 0.19, 1.02, colour, 0.1, outlined=True)
    box(canvas, -0.42, -0.02, 0.42, 0.75, colour, 0.16, outlined=True)
    box(canvas, -0.2, 0.3, 0.2, 0.52, (225, 70, 70), 0.04)
    oval(canvas, 0, -0.45, 0.52, 0.5, colour, outlined=True)
    box(canvas, -0.36, -0.66, 0.36, -0.2, (40, 60, 110), 0.2)
    box(canvas, -0.26, -0.58, -0.04, -0.48, (150, 190, 240), 0.05)


def _robot(canvas: Canvas, colour: Rgb) -> None:
    line(canvas, [(0, -0.7), (0, -0.95)], darker(colour), 0.08)
    oval(canvas, 0, -0.98, 0.11, 0.11, (235, 80, 70))
    for side in (-1, 1):
        box(canvas, side * 0.67 - 0.12, 0.3, side * 0.67 + 0.12, 0.85, darker(colour), 0.08)
    box(canvas, -0.5, 0.22, 0.5, 1.0, colour, 0.08, outlined=True)
    box(canvas, -0.68, -0.72, 0.68, 0.16, colour, 0.14, outlined=True)
    for side in (-1, 1):
        oval(canvas, side * 0.32, -0.38, 0.19, 0.19, DARK)
        oval(canvas, side * 0.32, -0.38, 0.12, 0.12, (120, 235, 245))
    box(canvas, -0.35, -0.1, 0.35, 0.02, DARK, 0.04)
    oval(canvas, 0, 0.6, 0.17, 0.17, (250, 205, 70))


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


def wear(canvas: Canvas, subject: str, accessory: str) -> None:
    """Put an accessory on a wearer's head, in the wearer's frame."""
    y, half, top = HEADS[subject]
    if accessory == "headphones":
        band, cup = (60, 62, 75), (230, 60, 90)
        arc(canvas, 0, y, half, y - top + 0.1, 180, 180, band, 0.13)
        for side in (-1, 1):
            box(canvas, side * half - 0.15, y - 0.22, side * half + 0.15, y + 0.3, cup, 0.12)
    else:
        felt = (75, 60, 120)
        box(canvas, -half * 0.8, top - 0.02, half * 0.8, top + 0.14, felt, 0.07)
        box(canvas, -half * 0.5, top - 0.48, half * 0.5, top + 0.06, felt, 0.06)
        box(canvas, -half * 0.5, top - 0.1, half * 0.5, top, (240, 190, 60))
