"""The few strokes that every picture is made of, and the shades of its colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import skia

from tools.small_sdxl.scenes import Rgb

Canvas = Any  # skia ships no types
Point = tuple[float, float]

DARK: Final[Rgb] = (38, 38, 46)
WHITE: Final[Rgb] = (252, 252, 252)
OUTLINE: Final = 0.07


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


def paint(colour: Rgb, stroke: float | None = None) -> Any:
    """A filling paint, or a stroke of the given width."""
    made = skia.Paint(Color=skia.Color(*colour), AntiAlias=True)
    if stroke is not None:
        made.setStyle(skia.Paint.kStroke_Style)
        made.setStrokeWidth(stroke)
        made.setStrokeJoin(skia.Paint.kRound_Join)
        made.setStrokeCap(skia.Paint.kRound_Cap)
    return made


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
    canvas.drawPath(path, paint(colour))
    if outlined:
        canvas.drawPath(path, paint(darker(colour), OUTLINE))


def oval(
    canvas: Canvas, x: float, y: float, rx: float, ry: float, colour: Rgb, outlined: bool = False
) -> None:
    """An ellipse by its centre and radii."""
    bounds = skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry)
    canvas.drawOval(bounds, paint(colour))
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
    canvas.drawRoundRect(bounds, round_by, round_by, paint(colour))
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
