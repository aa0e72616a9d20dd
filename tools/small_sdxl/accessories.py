"""What a figure can wear, and where on its head that goes."""

from __future__ import annotations

from typing import Final

from tools.small_sdxl.brush import Canvas, arc, box, fill, line, oval, polygon

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
    "woman": (-0.25, 0.6, -0.92),
    "man": (-0.2, 0.5, -0.8),
}
#: Where the eyes are: height, and distance from the middle.
EYES: Final[dict[str, tuple[float, float]]] = {
    "cat": (0.05, 0.38),
    "dog": (-0.18, 0.3),
    "panda": (-0.02, 0.36),
    "bear": (-0.08, 0.34),
    "rabbit": (0.25, 0.3),
    "frog": (-0.44, 0.5),
    "astronaut": (-0.43, 0.2),
    "robot": (-0.38, 0.32),
    "woman": (-0.2, 0.2),
    "man": (-0.2, 0.2),
}
#: Where a scarf goes: height of its middle, half width.
NECKS: Final[dict[str, tuple[float, float]]] = {
    "cat": (0.86, 0.6),
    "dog": (0.86, 0.5),
    "panda": (0.88, 0.6),
    "bear": (0.88, 0.6),
    "rabbit": (0.96, 0.46),
    "frog": (0.84, 0.62),
    "astronaut": (0.06, 0.42),
    "robot": (0.2, 0.5),
    "woman": (0.46, 0.34),
    "man": (0.46, 0.34),
}


def _headphones(canvas: Canvas, y: float, half: float, top: float) -> None:
    band, cup = (60, 62, 75), (230, 60, 90)
    arc(canvas, 0, y, half, y - top + 0.1, 180, 180, band, 0.13)
    for side in (-1, 1):
        box(canvas, side * half - 0.17, y - 0.24, side * half + 0.17, y + 0.32, cup, 0.12)


def _hat(canvas: Canvas, half: float, top: float) -> None:
    felt = (75, 60, 120)
    box(canvas, -half * 0.8, top - 0.02, half * 0.8, top + 0.14, felt, 0.07)
    box(canvas, -half * 0.5, top - 0.48, half * 0.5, top + 0.06, felt, 0.06)
    box(canvas, -half * 0.5, top - 0.1, half * 0.5, top, (240, 190, 60))


def _crown(canvas: Canvas, half: float, top: float) -> None:
    wide, low, high = half * 0.62, top + 0.12, top - 0.4
    teeth = [(-wide, low), (-wide, high), (-wide / 2, top - 0.12), (0, high - 0.06), (wide / 2, top - 0.12)]
    fill(canvas, polygon([*teeth, (wide, high), (wide, low)]), (250, 200, 50))
    for x in (-wide * 0.6, 0, wide * 0.6):
        oval(canvas, x, top + 0.0, 0.07, 0.07, (215, 50, 80))


def _scarf(canvas: Canvas, y: float, half: float) -> None:
    wool, fold = (214, 48, 60), (160, 30, 44)
    box(canvas, half * 0.25, y, half * 0.25 + 0.26, y + 0.5, fold, 0.06)
    box(canvas, -half, y - 0.14, half, y + 0.14, wool, 0.13)


def _sunglasses(canvas: Canvas, y: float, dx: float) -> None:
    glass = (28, 28, 36)
    half = max(0.2, dx * 0.72)
    line(canvas, [(-dx, y - 0.08), (dx, y - 0.08)], glass, 0.07)
    for side in (-1, 1):
        box(canvas, side * dx - half, y - 0.17, side * dx + half, y + 0.2, glass, 0.13)
        line(canvas, [(side * dx - half * 0.4, y + 0.06), (side * dx, y - 0.08)], (120, 150, 190), 0.05)


def wear(canvas: Canvas, subject: str, accessory: str) -> None:
    """Put an accessory on a wearer, in the wearer's frame."""
    y, half, top = HEADS[subject]
    if accessory == "headphones":
        _headphones(canvas, y, half, top)
    elif accessory == "hat":
        _hat(canvas, half, top)
    elif accessory == "crown":
        _crown(canvas, half, top)
    elif accessory == "scarf":
        _scarf(canvas, *NECKS[subject])
    else:
        _sunglasses(canvas, *EYES[subject])
