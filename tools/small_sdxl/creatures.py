"""Painters of animals and people, each in its own frame, about [-1, 1] wide."""

from __future__ import annotations

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
    mix,
    oval,
    polygon,
)
from tools.small_sdxl.scenes import Rgb

SKIN: Final[Rgb] = (246, 205, 172)


def _eyes(canvas: Canvas, y: float, dx: float, radius: float = 0.13) -> None:
    for x in (-dx, dx):
        oval(canvas, x, y, radius, radius * 1.15, DARK)
        oval(canvas, x + radius * 0.3, y - radius * 0.4, radius * 0.36, radius * 0.36, WHITE)


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


def _bird(canvas: Canvas, colour: Rgb) -> None:
    beak = (245, 165, 50)
    for x in (-0.12, 0.16):
        line(canvas, [(x, 0.6), (x, 0.95)], beak, 0.08)
    fill(canvas, polygon([(0.5, 0.05), (1.05, -0.2), (1.0, 0.25), (0.55, 0.4)]), darker(colour), False)
    oval(canvas, 0.1, 0.2, 0.68, 0.5, colour, outlined=True)
    fill(canvas, polygon([(-0.75, -0.42), (-1.1, -0.25), (-0.72, -0.16)]), beak, False)
    oval(canvas, -0.42, -0.32, 0.42, 0.4, colour, outlined=True)
    oval(canvas, -0.1, 0.38, 0.36, 0.24, lighter(colour))
    oval(canvas, 0.26, 0.16, 0.38, 0.22, darker(colour))
    oval(canvas, -0.52, -0.38, 0.1, 0.11, DARK)
    oval(canvas, -0.49, -0.42, 0.035, 0.035, WHITE)


def _butterfly(canvas: Canvas, colour: Rgb) -> None:
    for side in (-1, 1):
        line(canvas, [(0, -0.4), (side * 0.16, -0.7), (side * 0.34, -0.86)], DARK, 0.05)
        canvas.save()
        canvas.translate(side * 0.52, -0.25)
        canvas.rotate(side * 35)
        oval(canvas, 0, 0, 0.46, 0.58, colour, outlined=True)
        oval(canvas, 0, -0.04, 0.2, 0.28, lighter(colour))
        canvas.restore()
        oval(canvas, side * 0.42, 0.5, 0.36, 0.4, colour, outlined=True)
        oval(canvas, side * 0.44, 0.52, 0.15, 0.17, lighter(colour))
    box(canvas, -0.09, -0.45, 0.09, 0.75, DARK, 0.09)


def _bust(canvas: Canvas, colour: Rgb) -> None:
    """Shoulders in a shirt of the colour, and a neck."""
    path = skia.Path()
    path.moveTo(-0.9, 1.02)
    path.cubicTo(-0.85, 0.5, -0.4, 0.48, 0, 0.48)
    path.cubicTo(0.4, 0.48, 0.85, 0.5, 0.9, 1.02)
    path.close()
    fill(canvas, path, colour)
    box(canvas, -0.17, 0.25, 0.17, 0.62, mix(SKIN, (150, 80, 60), 0.25), 0.12)


def _face(canvas: Canvas) -> None:
    oval(canvas, 0, -0.18, 0.46, 0.54, SKIN)
    for side in (-1, 1):
        oval(canvas, side * 0.19, -0.2, 0.065, 0.085, DARK)
        oval(canvas, side * 0.28, 0.02, 0.09, 0.06, (245, 165, 150))
    arc(canvas, 0, 0.04, 0.15, 0.12, 20, 140, (190, 70, 70), 0.055)


def _woman(canvas: Canvas, colour: Rgb) -> None:
    hair = (112, 62, 38)
    box(canvas, -0.68, -0.7, 0.68, 0.62, hair, 0.5)
    oval(canvas, 0, -0.42, 0.66, 0.56, hair)
    _bust(canvas, colour)
    _face(canvas)
    fill(
        canvas,
        polygon([(-0.46, -0.28), (-0.4, -0.68), (0.42, -0.68), (0.47, -0.28), (0.1, -0.56)]),
        hair,
        False,
    )


def _man(canvas: Canvas, colour: Rgb) -> None:
    hair = (72, 48, 36)
    _bust(canvas, colour)
    for side in (-1, 1):
        oval(canvas, side * 0.47, -0.14, 0.1, 0.13, SKIN)
    _face(canvas)
    path = skia.Path()
    path.moveTo(-0.5, -0.28)
    path.cubicTo(-0.6, -1.02, 0.6, -1.02, 0.5, -0.28)
    path.cubicTo(0.35, -0.52, -0.35, -0.52, -0.5, -0.28)
    path.close()
    fill(canvas, path, hair, False)
    for side in (-1, 1):
        line(canvas, [(side * 0.12, -0.35), (side * 0.27, -0.37)], hair, 0.055)


CREATURES: Final[dict[str, Callable[[Canvas, Rgb], None]]] = {
    "cat": _cat,
    "dog": _dog,
    "panda": _panda,
    "bear": _bear,
    "rabbit": _rabbit,
    "frog": _frog,
    "fish": _fish,
    "bird": _bird,
    "butterfly": _butterfly,
    "astronaut": _astronaut,
    "robot": _robot,
    "woman": _woman,
    "man": _man,
}
