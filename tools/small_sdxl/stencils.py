"""Every figure alone, in every colour, scaled to one small square: what the judge compares a figure with."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import skia

from tools.small_sdxl.scenes import ACCESSORIES, COLOURS, FIXED_COLOUR, OWN_COLOUR, SUBJECTS, WEARERS
from tools.small_sdxl.subjects import strokes

Floats = npt.NDArray[np.float32]
#: Stencils are this many pixels wide and high, whatever the figure's own shape.
CELL: Final = 24
#: A figure's radius when it is drawn for its stencil, in pixels; the picture is four times as wide.
RADIUS: Final = 40


@dataclass(frozen=True)
class Stencils:
    """What figures look like; row k of each array belongs to ``names[k]``.

    Attributes:
        names: Subject, colour and accessory.
        paint: Colours (0 to 255) times coverage, (count, CELL * CELL, 3).
        coverage: 0 to 1, (count, CELL * CELL, 1).
        height: Heights of the figures in their radius.
        width: Widths of the figures in their radius.
    """

    names: tuple[tuple[str, str, str | None], ...]
    paint: Floats
    coverage: Floats
    height: Floats
    width: Floats

    def among(self, subjects: tuple[str, ...], accessories: tuple[str | None, ...]) -> Stencils:
        """Only those of some subjects and accessories."""
        kept = [k for k, name in enumerate(self.names) if name[0] in subjects and name[2] in accessories]
        names = tuple(self.names[k] for k in kept)
        return Stencils(names, self.paint[kept], self.coverage[kept], self.height[kept], self.width[kept])


def resized(pixels: Floats, rows: int, columns: int) -> Floats:
    """The pixels, bilinear, at another size."""

    def ends(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(np.int64)
        return low, np.minimum(low + 1, old - 1), (at - low).astype(np.float32)

    top, bottom, down = ends(pixels.shape[0], rows)
    left, right, across = ends(pixels.shape[1], columns)
    mixed = pixels[top] * (1 - down)[:, None, None] + pixels[bottom] * down[:, None, None]
    return np.asarray(
        mixed[:, left] * (1 - across)[:, None] + mixed[:, right] * across[:, None], dtype=np.float32
    )


@functools.cache
def _canvas() -> Any:
    return skia.Surface(4 * RADIUS, 4 * RADIUS)


def _stencil(subject: str, colour: str, accessory: str | None) -> tuple[Floats, float, float]:
    surface = _canvas()
    canvas = surface.getCanvas()
    canvas.clear(skia.ColorTRANSPARENT)
    canvas.save()
    canvas.translate(2 * RADIUS, 2 * RADIUS)
    canvas.scale(RADIUS, RADIUS)
    canvas.drawPicture(strokes(subject, colour, accessory, False))
    canvas.restore()
    pixels = surface.toarray(colorType=skia.kRGBA_8888_ColorType).astype(np.float32)
    pixels[:, :, :3] *= pixels[:, :, 3:] / 255
    inside = np.argwhere(pixels[:, :, 3] > 80)
    (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0) + 1
    small = resized(pixels[top:bottom, left:right], CELL * 2, CELL * 2)
    averaged = small.reshape(CELL, 2, CELL, 2, 4).mean(axis=(1, 3)).reshape(CELL * CELL, 4)
    return averaged, (bottom - top) / RADIUS, (right - left) / RADIUS


@functools.cache
def every_stencil() -> Stencils:
    """The stencils of all subjects, colours and accessories."""
    names: list[tuple[str, str, str | None]] = []
    for subject in SUBJECTS:
        colours = (OWN_COLOUR[subject],) if subject in FIXED_COLOUR else tuple(COLOURS)
        worn = (None, *ACCESSORIES) if subject in WEARERS else (None,)
        names += [(subject, colour, accessory) for colour in colours for accessory in worn]
    drawn, heights, widths = zip(*(_stencil(*name) for name in names), strict=True)
    pixels = np.stack(drawn)
    return Stencils(
        tuple(names),
        pixels[:, :, :3],
        np.asarray(pixels[:, :, 3:] / 255, dtype=np.float32),
        np.array(heights, dtype=np.float32),
        np.array(widths, dtype=np.float32),
    )


@functools.cache
def stencils(subjects: tuple[str, ...], accessories: tuple[str | None, ...]) -> Stencils:
    """The stencils of some subjects, in all colours, with some accessories."""
    return every_stencil().among(subjects, accessories)
