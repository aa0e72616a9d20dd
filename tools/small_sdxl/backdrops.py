"""The backgrounds: each fills a picture of any aspect, whose short side is 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import skia

from tools.small_sdxl.brush import WHITE, Canvas, box, fill, mix, oval, paint, polygon, vertical
from tools.small_sdxl.scenes import COLOURS, Rgb

Backdrop = Callable[[Canvas, float, float], None]

CREAM: Final[Rgb] = (245, 240, 228)
SKY: Final = ((120, 190, 242), (222, 241, 250))


def plain_colour(name: str) -> Rgb:
    """The colour of a plain background: softer than the subject's colour of the same name."""
    colour = COLOURS[name]
    return colour if name in ("black", "white", "gray", "pink", "brown") else mix(colour, WHITE, 0.35)


def shade(canvas: Canvas, width: float, top: float, bottom: float, *colours: Rgb) -> None:
    """A band across the picture that runs through colours from its top to its bottom."""
    band = skia.Paint(Shader=vertical(top, bottom, *colours))
    canvas.drawRect(skia.Rect.MakeLTRB(0, top, width, bottom), band)


def hump(canvas: Canvas, x: float, y: float, rx: float, ry: float, upper: Rgb, lower: Rgb) -> None:
    """A hill: an ellipse, lighter at its top."""
    made = skia.Paint(AntiAlias=True, Shader=vertical(y - ry, y, upper, lower))
    canvas.drawOval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry), made)


def _hills(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, (176, 206, 232), (236, 240, 240))
    hump(canvas, width * 0.2, height * 1.0, width * 0.55, height * 0.3, (150, 176, 160), (120, 150, 130))
    hump(canvas, width * 0.85, height * 1.06, width * 0.7, height * 0.34, (122, 158, 124), (92, 130, 98))


def _meadow(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, *SKY)
    hump(canvas, width * 0.25, height * 1.02, width * 0.6, height * 0.42, (150, 212, 112), (108, 184, 84))
    shade(canvas, width, height * 0.72, height, (112, 196, 88), (70, 152, 64))
    hump(canvas, width * 0.9, height * 0.9, width * 0.45, height * 0.22, (98, 182, 78), (78, 162, 68))
    for x, y in ((0.08, 0.82), (0.22, 0.92), (0.78, 0.9), (0.93, 0.8), (0.62, 0.96)):
        oval(canvas, width * x, height * y, 0.017, 0.017, WHITE)
        oval(canvas, width * x, height * y, 0.007, 0.007, (250, 205, 60))


def _beach(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height * 0.45, (110, 195, 240), (215, 240, 250))
    shade(canvas, width, height * 0.45, height, (40, 135, 190), (95, 200, 215))
    oval(canvas, width * 0.5, height * 0.98, width * 0.8, height * 0.3, (250, 248, 238))
    hump(canvas, width * 0.5, height * 1.02, width * 0.85, height * 0.3, (246, 224, 172), (228, 196, 138))


def stars(canvas: Canvas, width: float, height: float) -> None:
    """A few stars, always the same."""
    for x, y in ((0.1, 0.12), (0.3, 0.06), (0.55, 0.1), (0.2, 0.34), (0.93, 0.45), (0.7, 0.3), (0.4, 0.22)):
        oval(canvas, width * x, height * y, 0.012, 0.012, (245, 242, 222))


def _night(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, (14, 18, 58), (52, 58, 122))
    oval(canvas, width * 0.84, height * 0.15, 0.09, 0.09, (250, 240, 190))
    stars(canvas, width, height)
    hump(canvas, width * 0.5, height * 1.12, width * 0.8, height * 0.3, (26, 32, 70), (12, 16, 40))


def _space(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, (16, 8, 40), (44, 18, 78), (14, 12, 44))
    stars(canvas, width, height)
    for x, y in ((0.06, 0.62), (0.28, 0.9), (0.62, 0.94), (0.95, 0.7), (0.48, 0.8)):
        oval(canvas, width * x, height * y, 0.01, 0.01, (235, 230, 250))
    hump(canvas, width * 0.16, height * 0.82, 0.12, 0.12, (240, 150, 110), (170, 80, 90))
    oval(canvas, width * 0.16, height * 0.82, 0.19, 0.035, (235, 205, 165))
    hump(canvas, width * 0.88, height * 0.14, 0.08, 0.08, (120, 215, 225), (60, 120, 180))


def _lunar(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, (10, 12, 28), (30, 34, 62))
    stars(canvas, width, height)
    x, y = width * 0.82, height * 0.18  # the earth
    hump(canvas, x, y, 0.1, 0.1, (95, 165, 235), (45, 100, 190))
    oval(canvas, x - 0.03, y - 0.02, 0.035, 0.04, (90, 180, 100))
    oval(canvas, x + 0.045, y + 0.035, 0.03, 0.025, (90, 180, 100))
    hump(canvas, width * 0.5, height * 1.1, width * 0.95, height * 0.44, (208, 208, 214), (140, 140, 152))
    for cx, cy, rx in ((0.16, 0.86, 0.09), (0.8, 0.84, 0.11), (0.5, 0.95, 0.08)):
        oval(canvas, width * cx, height * cy, rx, rx * 0.32, (150, 150, 160))
        oval(canvas, width * cx, height * cy + 0.01, rx * 0.85, rx * 0.22, (126, 126, 138))


def _snow(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, (150, 188, 226), (228, 240, 250))
    for x, top, half in ((0.22, 0.3, 0.36), (0.72, 0.22, 0.42)):
        peak = polygon(
            [(width * x, height * top), (width * (x + half), height), (width * (x - half), height)]
        )
        fill(canvas, peak, (138, 158, 196), False)
        cap = polygon(
            [
                (width * x, height * top),
                (width * (x + half * 0.3), height * (top + 0.21)),
                (width * (x - half * 0.3), height * (top + 0.21)),
            ]
        )
        fill(canvas, cap, WHITE, False)
    hump(canvas, width * 0.5, height * 1.12, width * 1.0, height * 0.45, (252, 253, 255), (214, 228, 244))


def _city(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, (170, 196, 226), (246, 222, 206))
    blocks = (
        (0.0, 0.14, 0.4),
        (0.14, 0.3, 0.2),
        (0.3, 0.42, 0.5),
        (0.42, 0.6, 0.3),
        (0.6, 0.76, 0.45),
        (0.76, 0.88, 0.15),
        (0.88, 1.0, 0.38),
    )
    for k, (x0, x1, top) in enumerate(blocks):
        tint = ((128, 124, 158), (106, 104, 140))[k % 2]
        box(canvas, width * x0, height * top, width * x1, height, tint)
        for row in range(3):
            middle, y = width * (x0 + x1) / 2, height * (top + 0.07 + 0.12 * row)
            for side in (-1, 1):
                x = middle + side * width * 0.032
                box(canvas, x - 0.016, y - 0.02, x + 0.016, y + 0.02, (250, 226, 150))
    shade(canvas, width, height * 0.86, height, (92, 92, 102), (70, 70, 80))


def _sea(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height * 0.36, (140, 205, 245), (232, 246, 250))
    shade(canvas, width, height * 0.35, height, (88, 165, 225), (40, 110, 190), (20, 70, 145))
    for x, y, half in ((0.2, 0.5, 0.12), (0.75, 0.46, 0.1), (0.85, 0.7, 0.14), (0.12, 0.8, 0.13)):
        box(
            canvas,
            width * (x - half),
            height * y,
            width * (x + half),
            height * y + 0.014,
            (150, 205, 240),
            0.007,
        )


def _underwater(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, (90, 205, 225), (30, 120, 185), (16, 66, 128))
    hump(canvas, width * 0.5, height * 1.1, width * 0.85, height * 0.25, (220, 200, 150), (170, 150, 115))
    for x, tall in ((0.08, 0.34), (0.16, 0.22), (0.9, 0.3), (0.83, 0.18)):
        oval(canvas, width * x, height * (1 - tall / 2), 0.025, height * tall / 2, (50, 150, 110))
    for x, y, radius in ((0.14, 0.3, 0.03), (0.2, 0.16, 0.02), (0.86, 0.36, 0.028), (0.8, 0.2, 0.018)):
        oval(canvas, width * x, height * y, radius, radius, (190, 235, 245))


def _desert(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, (250, 200, 140), (255, 238, 196))
    oval(canvas, width * 0.15, height * 0.18, 0.1, 0.1, (255, 251, 228))
    hump(canvas, width * 0.8, height * 0.95, width * 0.7, height * 0.4, (236, 180, 106), (206, 142, 76))
    hump(canvas, width * 0.15, height * 1.02, width * 0.65, height * 0.36, (222, 158, 90), (180, 116, 62))
    box(canvas, width * 0.88, height * 0.5, width * 0.88 + 0.05, height * 0.7, (90, 150, 90), 0.025)
    box(canvas, width * 0.88 - 0.05, height * 0.55, width * 0.88 - 0.02, height * 0.62, (90, 150, 90), 0.015)
    box(canvas, width * 0.88 - 0.05, height * 0.6, width * 0.88 + 0.02, height * 0.63, (90, 150, 90), 0.015)


def _room(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, (250, 224, 206), (232, 192, 180))
    x, y = width * 0.08, height * 0.1
    box(canvas, x, y, x + 0.26, y + 0.28, WHITE)
    box(canvas, x + 0.02, y + 0.02, x + 0.24, y + 0.26, (156, 210, 242))
    box(canvas, x + 0.12, y, x + 0.14, y + 0.28, WHITE)
    frame = width * 0.9
    box(canvas, frame - 0.2, height * 0.14, frame, height * 0.14 + 0.16, (150, 100, 70))
    box(canvas, frame - 0.18, height * 0.14 + 0.02, frame - 0.02, height * 0.14 + 0.14, (150, 200, 160))
    shade(canvas, width, height * 0.74, height, (190, 132, 90), (150, 98, 64))
    box(canvas, 0, height * 0.71, width, height * 0.74, (252, 244, 234))
    oval(canvas, width * 0.5, height * 0.9, width * 0.38, height * 0.075, (205, 95, 90))


def _forest(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, (196, 226, 196), (150, 200, 150))
    far, near = (96, 158, 112), (44, 104, 66)
    for tint, tops in (
        (far, ((0.16, 0.2), (0.4, 0.28), (0.62, 0.2), (0.86, 0.26))),
        (near, ((0.02, 0.08), (0.27, 0.3), (0.75, 0.32), (0.98, 0.06))),
    ):
        for x, top in tops:
            half = 0.15 if tint == far else 0.17
            tree = polygon(
                [
                    (width * x, height * top),
                    (width * x + half, height * 0.8),
                    (width * x - half, height * 0.8),
                ]
            )
            canvas.drawPath(tree, paint(tint))
    shade(canvas, width, height * 0.76, height, (84, 140, 72), (52, 98, 50))


def _mountains(canvas: Canvas, width: float, height: float) -> None:
    shade(canvas, width, 0, height, *SKY)
    for x, top, half, tint in ((0.75, 0.26, 0.45, (150, 150, 180)), (0.3, 0.14, 0.5, (118, 122, 158))):
        peak = polygon(
            [(width * x, height * top), (width * (x + half), height), (width * (x - half), height)]
        )
        fill(canvas, peak, tint, False)
        snow = 0.22
        cap = polygon(
            [
                (width * x, height * top),
                (width * (x + half * snow), height * (top + snow * (1 - top))),
                (width * x, height * (top + snow * 0.7 * (1 - top))),
                (width * (x - half * snow), height * (top + snow * (1 - top))),
            ]
        )
        fill(canvas, cap, WHITE, False)
    hump(canvas, width * 0.5, height * 1.15, width * 1.0, height * 0.4, (120, 176, 104), (72, 128, 70))


BACKDROPS: Final[dict[str, Backdrop]] = {
    "meadow": _meadow,
    "beach": _beach,
    "night": _night,
    "space": _space,
    "lunar": _lunar,
    "snow": _snow,
    "city": _city,
    "sea": _sea,
    "underwater": _underwater,
    "desert": _desert,
    "room": _room,
    "forest": _forest,
    "mountains": _mountains,
    "hills": _hills,
}


def paint_background(canvas: Canvas, background: str | None, width: float, height: float) -> None:
    """Fill the picture; cream when no background is said."""
    if background is None:
        shade(canvas, width, 0, height, mix(CREAM, WHITE, 0.5), CREAM)
    elif background.startswith("plain "):
        colour = plain_colour(background.removeprefix("plain "))
        shade(canvas, width, 0, height, mix(colour, WHITE, 0.12), mix(colour, (0, 0, 0), 0.05))
    else:
        BACKDROPS[background](canvas, width, height)
