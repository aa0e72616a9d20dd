"""The few strokes that every picture is made of, and the shades of its colours."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import skia

from tools.small_sdxl.scenes import Rgb

Canvas = Any  # skia ships no types
Point = tuple[float, float]

DARK: Final[Rgb] = (38, 38, 46)
WHITE: Final[Rgb] = (252, 252, 252)
OUTLINE: Final = 0.07
INK: Final[Rgb] = (62, 60, 66)

_inked = False


@contextlib.contextmanager
def ink(wanted: bool) -> Iterator[None]:
    """Within, every fill is nearly paper and every line is ink: the look of a pencil sketch."""
    global _inked
    before, _inked = _inked, wanted
    try:
        yield
    finally:
        _inked = before


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


def sketched(colour: Rgb) -> Rgb:
    """What a sketch leaves of a fill: dark stays dark, everything else is nearly paper."""
    light = round(0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2])
    if light < 60:
        return INK
    gray = 205 + round(light * 0.18)
    return (gray, gray, min(255, gray + 1))


@functools.cache
def _paint(colour: Rgb, stroke: float | None, shaded: bool, inked: bool) -> Any:
    shown = colour
    if inked:
        shown = INK if stroke is not None else sketched(colour)
    made = skia.Paint(Color=skia.Color(*shown), AntiAlias=True)
    if stroke is not None:
        made.setStyle(skia.Paint.kStroke_Style)
        made.setStrokeWidth(stroke)
        made.setStrokeJoin(skia.Paint.kRound_Join)
        made.setStrokeCap(skia.Paint.kRound_Cap)
    elif shaded and not inked:
        made.setShader(vertical(-1, 1, mix(colour, (255, 255, 255), 0.2), mix(colour, (0, 0, 0), 0.14)))
    return made


def vertical(top: float, bottom: float, *colours: Rgb) -> Any:
    """A shader that runs through colours from one height to another."""
    ends = [skia.Point(0, top), skia.Point(0, bottom)]
    shades = [sketched(colour) for colour in colours] if _inked else colours
    return skia.GradientShader.MakeLinear(ends, [skia.Color(*colour) for colour in shades])


def paint(colour: Rgb, stroke: float | None = None, shaded: bool = False) -> Any:
    """A filling paint, a little lighter above than below when shaded, or a stroke of the given width."""
    return _paint(colour, stroke, shaded, _inked)


def polygon(points: Sequence[Point]) -> Any:
    """A closed path."""
    path = skia.Path()
    path.moveTo(*points[0])
    for point in points[1:]:
        path.lineTo(*point)
    path.close()
    return path


def fill(canvas: Canvas, path: Any, colour: Rgb, outlined: bool = True) -> None:
    """Fill a path, by default with an outline in a darker shade."""
    canvas.drawPath(path, paint(colour, shaded=outlined))
    if outlined:
        canvas.drawPath(path, paint(darker(colour), OUTLINE))


def oval(
    canvas: Canvas, x: float, y: float, rx: float, ry: float, colour: Rgb, outlined: bool = False
) -> None:
    """An ellipse by its centre and radii."""
    bounds = skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry)
    canvas.drawOval(bounds, paint(colour, shaded=outlined))
    if outlined:
        canvas.drawOval(bounds, paint(darker(colour), OUTLINE))


def box(
    canvas: Canvas,
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    colour: Rgb,
    round_by: float = 0.0,
    outlined: bool = False,
) -> None:
    """A rectangle, its corners rounded at will."""
    bounds = skia.Rect.MakeLTRB(x0, y0, x1, y1)
    canvas.drawRoundRect(bounds, round_by, round_by, paint(colour, shaded=outlined))
    if outlined:
        canvas.drawRoundRect(bounds, round_by, round_by, paint(darker(colour), OUTLINE))


def line(canvas: Canvas, points: Sequence[Point], colour: Rgb, width: float) -> None:
    """An open line with round ends."""
    path = skia.Path()
    path.moveTo(*points[0])
    for point in points[1:]:
        path.lineTo(*point)
    canvas.drawPath(path, paint(colour, width))


def arc(
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
    """Part of an ellipse's outline, in degrees from the right, clockwise."""
    canvas.drawArc(
        skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry), start, sweep, False, paint(colour, width)
    )
