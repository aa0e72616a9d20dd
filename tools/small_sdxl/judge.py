"""Tells from the pixels alone what a picture shows: background, light, weather, and each figure.

It works by synthesis: draw what it could be, and take what fits best. The background is the one that most of
the border matches; what differs from it, and is no shadow on it, is the figure; its box gives position and
size; subject, colour and accessory are those of the stencil that, stretched to the same box, differs least.
The judge knows nothing of the caption. Its own error is measured on true drawings (``judge_error``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tools.small_sdxl.drawing import render, render_small
from tools.small_sdxl.scenes import (
    ACCESSORIES,
    BACKGROUNDS,
    OUTDOORS,
    SCENERY,
    STYLES,
    SUBJECTS,
    TIMES,
    WEATHERS,
    Scene,
)
from tools.small_sdxl.stencils import CELL, Floats, Stencils, resized, stencils

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

#: The short side of what the judge looks at.
SIDE: Final = 64
ASPECTS: Final = ("subject", "colour", "background", "position")
#: How far from the background a pixel of the figure is (of 255, Euclidean).
APART: Final = 48.0
#: The colour that a shadow darkens to, and the most that it does.
SHADE: Final = np.array((20.0, 20.0, 40.0), dtype=np.float32)
DARKEST: Final = 0.36
#: Less of ``APART`` is enough for what is joined to a figure; gaps of this many pixels are bridged.
FAINT: Final = 0.7
BRIDGE: Final = 2
#: The background of a scene that names none.
UNNAMED: Final = ""


@dataclass(frozen=True)
class Verdict:
    """What the judge sees of a figure and its background."""

    subject: str
    colour: str
    background: str
    position: str
    size: str = "medium"
    accessory: str | None = None


def shrink(picture: Picture) -> Floats:
    """Average a picture down until its short side has 64 pixels."""
    step = min(picture.shape[:2]) // SIDE
    rows, columns = picture.shape[0] // step, picture.shape[1] // step
    cut = picture[: rows * step, : columns * step].astype(np.float32)
    mean: Floats = cut.reshape(rows, step, columns, step, 3).mean(axis=(1, 3))
    return mean


@functools.cache
def _backdrop(scene: Scene, width: int, height: int) -> Floats:
    return np.asarray((render_small(scene, width, height) + 1) * 127.5, dtype=np.float32)


def _bare(name: str) -> Scene:
    return Scene((), name or None)


#: All that can be behind the figures when nothing is said of light, weather and style.
CLEAR: Final = tuple(_bare(name) for name in (*BACKGROUNDS, UNNAMED))


@functools.cache
def airs() -> tuple[Scene, ...]:
    """Each background that is scenery, in every light, weather and style that it can have."""
    changed = [
        Scene((), name, 0, weather, time)
        for name in OUTDOORS
        for time in (None, *TIMES)
        for weather in (None, *WEATHERS)
    ]
    still = [Scene((), name) for name in SCENERY if name not in OUTDOORS]
    styled = [Scene((), name, style=style) for name in SCENERY for style in STYLES]
    return (*changed, *still, *styled)


def behind(small: Floats, among: Sequence[Scene] = CLEAR) -> Scene:
    """The empty scene that fits the border of a shrunk picture best."""
    height, width = small.shape[:2]
    edge = np.ones((height, width), dtype=bool)
    edge[10:-10, 10:-10] = False
    seen = small[edge]

    def error(scene: Scene) -> float:
        apart = np.linalg.norm(seen - _backdrop(scene, width, height)[edge], axis=1)
        return float(np.median(apart)) + 0.5 * float(np.mean(np.minimum(apart, 80)))

    return min(among, key=error)


def _shadow(small: Floats, backdrop: Floats) -> Mask:
    """Where the background is only darkened, as by a shadow."""
    towards = SHADE - backdrop
    share = ((small - backdrop) * towards).sum(axis=2) / np.maximum(1, (towards**2).sum(axis=2))
    rest = np.linalg.norm(small - backdrop - share[:, :, None] * towards, axis=2)
    return np.asarray((share > 0) & (share < DARKEST) & (rest < 24))


def _differs(small: Floats, backdrop: Floats, limit: float) -> Mask:
    """What is no background and no shadow on it."""
    return np.asarray((np.linalg.norm(small - backdrop, axis=2) > limit) & ~_shadow(small, backdrop))


def _figure(small: Floats, backdrop: Floats, where: Mask | None = None) -> Mask:
    """The largest figure, its holes filled, and what is joined to it or nearly touches it."""
    allowed = np.ones(small.shape[:2], dtype=bool) if where is None else where
    for limit in (APART, APART / 2, APART / 4):
        parts, count = ndimage.label(ndimage.binary_opening(_differs(small, backdrop, limit)) & allowed)
        sizes = np.bincount(parts.ravel(), minlength=2)[1:]
        if count and sizes.max() >= 25:
            solid = parts == 1 + int(np.argmax(sizes))
            faint = (_differs(small, backdrop, limit * FAINT) & allowed) | solid
            bridged = ndimage.binary_closing(np.pad(faint, 2 * BRIDGE), iterations=BRIDGE)
            bridged = bridged[2 * BRIDGE : -2 * BRIDGE, 2 * BRIDGE : -2 * BRIDGE]
            joined = ndimage.binary_propagation(solid, mask=bridged | solid) & faint
            return np.asarray(ndimage.binary_fill_holes(joined))
    return allowed


def count_figures(picture: Picture) -> int:
    """How many separate things stand before the background."""
    small = shrink(picture)
    backdrop = _backdrop(behind(small), small.shape[1], small.shape[0])
    solid = ndimage.binary_opening(_differs(small, backdrop, APART))
    parts, _ = ndimage.label(ndimage.binary_closing(solid, iterations=BRIDGE))
    return int((np.bincount(parts.ravel())[1:] >= 40).sum())


def _position(box: tuple[int, int, int, int], height: int, width: int) -> str:
    top, bottom, left, right = box
    x, y = (left + right) / 2 / width - 0.5, (top + bottom) / 2 / height - 0.52
    if max(abs(x), abs(y)) < 0.085:
        return "centre"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def _best(
    small: Floats, backdrop: Floats, figure: Mask, candidates: Stencils
) -> tuple[tuple[str, str, str | None], float, tuple[int, int, int, int]]:
    """The stencil that explains a figure best, the figure's radius (of the short side), and its box."""
    rows, columns = np.nonzero(figure)
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    seen, behind_it, inside = (
        resized(np.ascontiguousarray(each[top:bottom, left:right]), CELL, CELL).reshape(CELL * CELL, -1)
        for each in (small, backdrop, figure[:, :, None].astype(np.float32))
    )
    guesses = candidates.paint + behind_it * (1 - candidates.coverage)
    apart = np.minimum(np.sqrt(((guesses - seen) ** 2).sum(axis=2)), 200).mean(axis=1)
    outline = np.abs(candidates.coverage - inside)[:, :, 0].mean(axis=1)
    ratio = np.log((bottom - top) / (right - left)) - np.log(candidates.height / candidates.width)
    best = int(np.argmin(apart / 100 + outline + 0.8 * np.minimum(np.abs(ratio), 1)))
    radius = ((bottom - top) / candidates.height[best] + (right - left) / candidates.width[best]) / 2
    return candidates.names[best], float(radius) / min(small.shape[:2]), (top, bottom, left, right)


def _verdict(small: Floats, name: str, figure: Mask, candidates: Stencils) -> Verdict:
    height, width = small.shape[:2]
    backdrop = _backdrop(_bare(name), width, height)
    (subject, colour, accessory), radius, box = _best(small, backdrop, figure, candidates)
    size = "small" if radius < 0.2 else "large" if radius > 0.31 else "medium"
    return Verdict(subject, colour, name, _position(box, height, width), size, accessory)


def judge(picture: Picture, among: tuple[str, ...] = SUBJECTS, accessories: bool = False) -> Verdict:
    """Say what a picture of one figure shows.

    Args:
        picture: (height, width, 3), RGB; the short side a multiple of 64.
        among: The subjects to choose from.
        accessories: Whether the figure may wear something.
    """
    small = shrink(picture)
    name = behind(small).background or UNNAMED
    figure = _figure(small, _backdrop(_bare(name), small.shape[1], small.shape[0]))
    return _verdict(small, name, figure, stencils(among, (None, *ACCESSORIES) if accessories else (None,)))


def judge_pair(picture: Picture, relation: str = "beside") -> tuple[Verdict, Verdict]:
    """Say what two figures are, left and right of the middle, or above and below it."""
    small = shrink(picture)
    name = behind(small).background or UNNAMED
    backdrop = _backdrop(_bare(name), small.shape[1], small.shape[0])
    first = np.zeros(small.shape[:2], dtype=bool)
    if relation == "beside":
        first[:, : small.shape[1] // 2] = True
    else:
        first[: small.shape[0] // 2] = True
    candidates = stencils(SUBJECTS, (None,))
    one, two = (
        _verdict(small, name, _figure(small, backdrop, where), candidates) for where in (first, ~first)
    )
    return one, two


def truths(scene: Scene) -> list[Verdict]:
    """What a perfect judge would say of each figure of a scene."""
    return [
        Verdict(
            figure.subject,
            figure.shown_colour,
            scene.background or UNNAMED,
            figure.position or "centre",
            figure.size or "medium",
            figure.accessory,
        )
        for figure in scene.figures
    ]


def truth(scene: Scene) -> Verdict:
    """What a perfect judge would say of a scene of one figure."""
    return truths(scene)[0]


def score(
    pictures: Sequence[Picture],
    scenes: Sequence[Scene],
    among: tuple[str, ...] = SUBJECTS,
    aspects: tuple[str, ...] = ASPECTS,
) -> dict[str, float]:
    """The share of pictures of one figure that is right, for each aspect and for all together."""
    judged = [
        (judge(picture, among, "accessory" in aspects), truth(scene))
        for picture, scene in zip(pictures, scenes, strict=True)
    ]
    right = np.array([[getattr(a, aspect) == getattr(b, aspect) for aspect in aspects] for a, b in judged])
    shares = {aspect: float(column.mean()) for aspect, column in zip(aspects, right.T, strict=True)}
    return {**shares, "all": float(right.all(axis=1).mean())}


def score_pairs(pictures: Sequence[Picture], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of figures in pictures of two that is right, and of pictures where both subjects are."""
    subject, colour, both = [], [], []
    for picture, scene in zip(pictures, scenes, strict=True):
        seen = judge_pair(picture, scene.relation or "beside")
        right = [a.subject == b.subject for a, b in zip(seen, truths(scene), strict=True)]
        colour += [a.colour == b.colour for a, b in zip(seen, truths(scene), strict=True)]
        subject += right
        both.append(all(right))
    return {
        "subject": float(np.mean(subject)), "colour": float(np.mean(colour)), "both subjects": float(np.mean(both))
    }  # fmt: skip


def score_air(pictures: Sequence[Picture], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of pictures whose light, weather and style are right."""
    seen = [behind(shrink(picture), airs()) for picture in pictures]
    return {
        aspect: float(np.mean([getattr(a, aspect) == getattr(b, aspect) for a, b in zip(seen, scenes, strict=True)]))
        for aspect in ("background", "time", "weather", "style")
    }  # fmt: skip


def judge_error(scenes: Sequence[Scene], among: tuple[str, ...] = SUBJECTS) -> dict[str, float]:
    """How often the judge is wrong on true drawings of the scenes."""
    right = score([render(scene, 512, 512) for scene in scenes], scenes, among)
    return {aspect: 1 - share for aspect, share in right.items()}
