"""Light and weather: what lies over a background, and over the whole picture."""

from __future__ import annotations

from typing import Any, Final

import skia

from tools.small_sdxl.brush import WHITE, Canvas, arc, line, oval
from tools.small_sdxl.scenes import Rgb

#: The sky's light by time of day: colours from top to bottom, each with its cover (0 to 255).
LIGHT: Final[dict[str, tuple[tuple[int, int, int, int], ...]]] = {
    "sunset": ((120, 60, 130, 165), (250, 120, 70, 185), (255, 190, 90, 120), (120, 50, 60, 120)),
    "dawn": ((250, 190, 215, 150), (255, 225, 190, 165), (255, 240, 205, 110), (220, 170, 190, 60)),
    "night": ((8, 12, 52, 235), (22, 28, 84, 215), (16, 22, 66, 190), (8, 12, 40, 190)),
}
#: How the light tints what stands in it.
TINT: Final[dict[str, Rgb]] = {
    "sunset": (255, 226, 206),
    "dawn": (255, 242, 240),
    "night": (206, 212, 242),
}
RAINBOW: Final[tuple[Rgb, ...]] = (
    (232, 80, 80),
    (245, 160, 60),
    (250, 220, 80),
    (95, 190, 100),
    (80, 140, 225),
    (150, 95, 200),
)


def paint_light(canvas: Canvas, time: str, width: float, height: float) -> None:
    """Bathe a background in the light of a time of day."""
    colours = [skia.ColorSetARGB(a, r, g, b) for r, g, b, a in LIGHT[time]]
    shader = skia.GradientShader.MakeLinear([skia.Point(0, 0), skia.Point(0, height)], colours)
    canvas.drawRect(skia.Rect.MakeLTRB(0, 0, width, height), skia.Paint(Shader=shader))
    if time == "night":
        oval(canvas, width * 0.84, height * 0.15, 0.07, 0.07, (250, 240, 190))
        for x, y in ((0.1, 0.12), (0.3, 0.06), (0.55, 0.1), (0.2, 0.26), (0.42, 0.2)):
            oval(canvas, width * x, height * y, 0.012, 0.012, (245, 242, 222))
    elif time == "sunset":
        oval(canvas, width * 0.2, height * 0.4, 0.085, 0.085, (255, 236, 150))


def _cloud(canvas: Canvas, x: float, y: float, size: float) -> None:
    for dx, dy, radius in ((-0.8, 0.12, 0.45), (0, -0.12, 0.62), (0.8, 0.12, 0.48), (0.35, 0.2, 0.5)):
        oval(canvas, x + dx * size, y + dy * size, radius * size, radius * 0.72 * size, WHITE)


def paint_sky(canvas: Canvas, weather: str, width: float, height: float) -> None:
    """What the weather puts behind the figures."""
    if weather == "clouds":
        for x, y, size in ((0.2, 0.14, 0.1), (0.76, 0.11, 0.12), (0.5, 0.27, 0.075)):
            _cloud(canvas, width * x, height * y, size)
    elif weather == "rainbow":
        for k, colour in enumerate(RAINBOW):
            radius = 0.46 - 0.026 * k
            arc(
                canvas,
                width / 2,
                height * 0.62,
                radius * width,
                radius * height * 1.15,
                180,
                180,
                colour,
                0.028,
            )
    elif weather == "rain":
        veil = skia.Paint(Color=skia.ColorSetARGB(95, 84, 96, 118))
        canvas.drawRect(skia.Rect.MakeLTRB(0, 0, width, height), veil)
        for x, y, size in ((0.22, 0.07, 0.13), (0.6, 0.05, 0.15), (0.92, 0.09, 0.12)):
            _cloud(canvas, width * x, height * y, size)


def _scatter(count: int) -> list[tuple[float, float]]:
    """Points spread evenly without rows: the additive sequence of the plastic number."""
    return [((0.5 + k * 0.7548777) % 1.0, (0.5 + k * 0.5698403) % 1.0) for k in range(1, count + 1)]


def paint_fall(canvas: Canvas, weather: str, width: float, height: float) -> None:
    """What falls before the figures; a fixed pattern, so that it can be learned."""
    if weather == "rain":
        for x, y in _scatter(26):
            top = (0.17 + 0.8 * y) * height
            line(canvas, [(x * width, top), (x * width - 0.02, top + 0.07)], (178, 208, 240), 0.013)
    elif weather == "snowfall":
        for k, (x, y) in enumerate(_scatter(28)):
            radius = 0.018 if k % 2 else 0.013
            oval(canvas, x * width, y * height, radius, radius, WHITE)


def tint(canvas: Canvas, time: str) -> None:
    """Let the light of the time of day fall on everything."""
    canvas.drawColor(skia.Color(*TINT[time]), skia.BlendMode.kMultiply)


def filter_of(style: str | None) -> Any | None:
    """The colour filter of a style, if it has one."""
    rows = {
        "black and white": [0.3, 0.59, 0.11, 0, 0] * 3,
        "sepia": [0.36, 0.66, 0.13, 0, 0.04, 0.31, 0.58, 0.12, 0, 0.0, 0.23, 0.44, 0.09, 0, 0.0],
        "pastel": [0.48, 0.04, 0.02, 0, 0.46, 0.03, 0.48, 0.02, 0, 0.44, 0.03, 0.04, 0.46, 0, 0.45],
    }.get(style or "")
    return None if rows is None else skia.ColorFilters.Matrix([*rows, 0, 0, 0, 1, 0])
