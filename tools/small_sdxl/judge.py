"""Tells from the pixels alone what a picture shows: background, position, colour, subject.

It works by synthesis: draw what it could be, and take what fits best. The background is the one that most of
the border matches; what differs from it is the figure; its centre gives the position, its middle colour the
colour; the subject is the drawing that, put at the same place in that colour, differs least. The judge
knows nothing of the caption. Its own error is measured on true drawings (``judge_error``).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import skia
from scipy import ndimage

from tools.small_sdxl.drawing import render, render_small
from tools.small_sdxl.scenes import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SUBJECTS, Scene
from tools.small_sdxl.subjects import PAINTERS

Floats = npt.NDArray[np.float32]
SIDE: Final = 64
ASPECTS: Final = ("subject", "colour", "background", "position")
#: How far from the background a pixel of the figure is (of 255, Euclidean).
APART: Final = 48.0


@dataclass(frozen=True)
class Verdict:
    """What the judge sees."""

    subject: str
    colour: str
    background: str
    position: str


def shrink(picture: npt.NDArray[np.uint8]) -> Floats:
    """Average a square picture down to 64x64."""
    step = picture.shape[0] // SIDE
    cut = picture[: SIDE * step, : SIDE * step].astype(np.float32)
    mean: Floats = cut.reshape(SIDE, step, SIDE, step, 3).mean(axis=(1, 3))
    return mean


@functools.cache
def _backdrops() -> dict[str, Floats]:
    return {name: (render_small(Scene((), name), SIDE, SIDE) + 1) * 127.5 for name in BACKGROUNDS}


@functools.cache
def _stencil(subject: str, colour: str) -> tuple[Floats, Floats]:
    """A subject alone at 128x128, in its own frame (radius 48): colours (0 to 255) and coverage (0 to 1)."""
    surface = skia.Surface(128, 128)
    canvas = surface.getCanvas()
    canvas.clear(skia.ColorTRANSPARENT)
    canvas.translate(64, 64)
    canvas.scale(48, 48)
    PAINTERS[subject](canvas, COLOURS[colour])
    pixels = surface.toarray(colorType=skia.kRGBA_8888_ColorType).astype(np.float32)
    alpha = pixels[:, :, 3:] / 255
    return pixels[:, :, :3], alpha


@functools.cache
def _framed(subject: str, colour: str, rows: int, columns: int) -> tuple[Floats, Floats]:
    """The stencil cut to its box and scaled to the given box."""
    paint, alpha = _stencil(subject, colour)
    inside = np.argwhere(alpha[:, :, 0] > 0.3)
    (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0) + 1
    cut = np.concatenate([paint, alpha * 255], axis=2)[top:bottom, left:right]
    zoomed = ndimage.zoom(cut, (rows / cut.shape[0], columns / cut.shape[1], 1), order=1)
    return zoomed[:, :, :3], zoomed[:, :, 3:] / 255


def _background(small: Floats) -> str:
    edge = np.ones((SIDE, SIDE), dtype=bool)
    edge[10:-10, 10:-10] = False
    errors = {
        name: float(np.median(np.linalg.norm(small - drop, axis=2)[edge]))
        + 0.5 * float(np.mean(np.minimum(np.linalg.norm(small - drop, axis=2)[edge], 80)))
        for name, drop in _backdrops().items()
    }
    return min(errors, key=errors.__getitem__)


def _mask(small: Floats, backdrop: Floats) -> npt.NDArray[np.bool_]:
    """The figure: the largest solid part that differs from the background, with the thin parts joined to it."""
    apart = np.linalg.norm(small - backdrop, axis=2)
    for limit in (APART, APART / 2, APART / 4):
        differs = apart > limit
        parts, count = ndimage.label(ndimage.binary_opening(differs))
        if count:
            sizes = ndimage.sum_labels(differs, parts, range(1, count + 1))
            if sizes.max() >= 25:
                solid = parts == 1 + int(np.argmax(sizes))
                return np.asarray(ndimage.binary_propagation(solid, mask=differs))
    return np.ones((SIDE, SIDE), dtype=bool)


def _position(mask: npt.NDArray[np.bool_]) -> str:
    rows, columns = np.nonzero(mask)
    x = (columns.min() + columns.max() + 1) / 2 / SIDE - 0.5
    y = (rows.min() + rows.max() + 1) / 2 / SIDE - 0.52
    if max(abs(x), abs(y)) < 0.085:
        return "centre"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def _nearest_colour(rgb: Floats) -> str:
    distances = {name: float(np.linalg.norm(rgb - np.array(value))) for name, value in COLOURS.items()}
    return min(distances, key=distances.__getitem__)


def _colour(small: Floats, mask: npt.NDArray[np.bool_]) -> str:
    inner = ndimage.binary_erosion(mask, iterations=2)
    if inner.sum() < 12:
        inner = mask
    return _nearest_colour(np.median(small[inner], axis=0).astype(np.float32))


def _subject(
    small: Floats, mask: npt.NDArray[np.bool_], backdrop: Floats, colour: str, among: tuple[str, ...]
) -> str:
    filled = ndimage.binary_fill_holes(mask)
    rows, columns = np.nonzero(filled)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    errors = {}
    for subject in among:
        paint, alpha = _framed(subject, colour, int(bottom - top), int(right - left))
        guess = backdrop.copy()
        box = guess[top:bottom, left:right]
        guess[top:bottom, left:right] = box * (1 - alpha) + paint * alpha
        margin = slice(max(0, top - 2), bottom + 2), slice(max(0, left - 2), right + 2)
        seen, drawn = filled[margin], np.linalg.norm((guess - backdrop)[margin], axis=2) > APART / 2
        overlap = float((seen & drawn).sum() / max(1, (seen | drawn).sum()))
        pixels = float(np.mean(np.minimum(np.linalg.norm((guess - small)[margin], axis=2), 200)))
        errors[subject] = pixels / 100 + (1 - overlap)
    return min(errors, key=errors.__getitem__)


def judge(picture: npt.NDArray[np.uint8], among: tuple[str, ...] = SUBJECTS) -> Verdict:
    """Say what a square picture of one figure shows.

    Args:
        picture: (side, side, 3), RGB; the side a multiple of 64.
        among: The subjects to choose from.
    """
    small = shrink(picture)
    background = _background(small)
    backdrop = _backdrops()[background]
    mask = _mask(small, backdrop)
    colour = _colour(small, mask)
    return Verdict(_subject(small, mask, backdrop, colour, among), colour, background, _position(mask))


def truth(scene: Scene) -> Verdict:
    """What a perfect judge would say of a scene of one figure."""
    figure = scene.figures[0]
    return Verdict(figure.subject, figure.shown_colour, scene.background or "", figure.position or "centre")


def score(
    pictures: list[npt.NDArray[np.uint8]], scenes: list[Scene], among: tuple[str, ...] = SUBJECTS
) -> dict[str, float]:
    """The share of pictures that is right, for each aspect and for all together."""
    pairs = [(judge(picture, among), truth(scene)) for picture, scene in zip(pictures, scenes, strict=True)]
    shares = {
        aspect: float(np.mean([getattr(seen, aspect) == getattr(right, aspect) for seen, right in pairs]))
        for aspect in ASPECTS
    }
    shares["all"] = float(np.mean([seen == right for seen, right in pairs]))
    return shares


def judge_error(scenes: list[Scene], among: tuple[str, ...] = SUBJECTS) -> dict[str, float]:
    """How often the judge is wrong on true drawings of the scenes."""
    right = score([render(scene, 512, 512) for scene in scenes], scenes, among)
    return {aspect: 1 - share for aspect, share in right.items()}


__all__ = ["ASPECTS", "POSITIONS", "SHAPES", "Verdict", "judge", "judge_error", "score", "shrink", "truth"]
