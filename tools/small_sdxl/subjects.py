"""The subjects: each painter draws one in its own frame, about [-1, 1] wide, in a given colour."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final

import skia

from tools.small_sdxl.accessories import wear
from tools.small_sdxl.brush import Canvas, box, fill, ink, oval, polygon
from tools.small_sdxl.creatures import CREATURES
from tools.small_sdxl.scenes import COLOURS, Rgb
from tools.small_sdxl.things import THINGS

Painter = Callable[[Canvas, Rgb], None]


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


PAINTERS: Final[dict[str, Painter]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
    **CREATURES,
    **THINGS,
}


@functools.cache
def strokes(subject: str, colour: str, accessory: str | None, inked: bool) -> Any:
    """A subject's strokes as one recording: played back far faster than drawn anew."""
    recorder = skia.PictureRecorder()
    canvas = recorder.beginRecording(skia.Rect.MakeLTRB(-1.6, -1.6, 1.6, 1.6))
    with ink(inked):
        PAINTERS[subject](canvas, COLOURS[colour])
        if accessory is not None:
            wear(canvas, subject, accessory)
    return recorder.finishRecordingAsPicture()
