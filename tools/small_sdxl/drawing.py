"""Draws a scene as an illustration (skia), at any size, the same for the same scene.

The short side of a picture is 1 unit long. A subject is drawn in its own frame, about [-1, 1] wide, and
placed by translation and scale; a background fills the whole picture, whatever its aspect. Backgrounds are
kept as pixels and subjects as recordings: training draws thousands of pictures a second.
"""

from __future__ import annotations

import functools
import random
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import skia

from tools.small_sdxl.atmosphere import filter_of, paint_fall, paint_light, paint_sky, tint
from tools.small_sdxl.backdrops import paint_background
from tools.small_sdxl.brush import Canvas, Point, ink
from tools.small_sdxl.scenes import FLOATING, Figure, Scene
from tools.small_sdxl.subjects import strokes

Pixels = npt.NDArray[np.uint8]

RADIUS: Final = {None: 0.26, "medium": 0.26, "small": 0.15, "large": 0.36}
OFFSET: Final = {None: 0.22, "medium": 0.22, "small": 0.28, "large": 0.14}
DIRECTION: Final[dict[str | None, Point]] = {
    None: (0, 0),
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
}
#: Two figures by their relation: where each is (shares of the sides, from the middle), and its radius.
PAIRS: Final = {
    "beside": ((-0.24, 0.0, 0.2), (0.24, 0.0, 0.2)),
    "above": ((0.0, -0.24, 0.19), (0.0, 0.22, 0.2)),
    "front": ((0.12, 0.2, 0.18), (-0.08, -0.1, 0.29)),
}
#: A picture in pixel art has this many squares along its short side.
SQUARES: Final = 32


def place(
    figure: Figure, relation: str | None, index: int, rng: random.Random, width: float, height: float
) -> tuple[float, float, float]:
    """Where a figure goes: centre and radius, with the small variations of its scene."""

    def jitter(spread: float) -> float:
        return rng.uniform(-spread, spread)

    if relation is not None:
        dx, dy, radius = PAIRS[relation][index]
    else:
        across, down = DIRECTION[figure.position]
        dx, dy = across * OFFSET[figure.size], down * OFFSET[figure.size]
        radius = RADIUS[figure.size]
    radius *= 1 + jitter(0.05)
    # The offset grows with the picture's own side, so that "left" is left of a wide picture too.
    x = width / 2 + dx * width + jitter(0.012)
    y = height / 2 + dy * height + jitter(0.012) + 0.02
    return x, y, radius


@functools.lru_cache(maxsize=700)
def _backdrop(scene: Scene, width: int, height: int) -> Any:
    """The background of a scene without figures, as an image."""
    surface = skia.Surface(width, height)
    canvas = surface.getCanvas()
    unit = min(width, height)
    canvas.scale(unit, unit)
    wide, high = width / unit, height / unit
    background = scene.background
    if background is None and (scene.time or scene.weather):
        background = "hills"
    with ink(scene.style == "sketch"):
        paint_background(canvas, background, wide, high)
        if scene.time is not None:
            paint_light(canvas, scene.time, wide, high)
        if scene.weather is not None:
            paint_sky(canvas, scene.weather, wide, high)
    return surface.makeImageSnapshot()


@functools.cache
def _fall(weather: str, inked: bool, wide: float, high: float) -> Any:
    recorder = skia.PictureRecorder()
    canvas = recorder.beginRecording(skia.Rect.MakeLTRB(0, 0, wide, high))
    with ink(inked):
        paint_fall(canvas, weather, wide, high)
    return recorder.finishRecordingAsPicture()


@functools.cache
def _shadow() -> Any:
    dark = [skia.ColorSetARGB(alpha, 20, 20, 40) for alpha in (78, 56, 0)]
    return skia.Paint(
        AntiAlias=True, Shader=skia.GradientShader.MakeRadial(skia.Point(0, 0), 1, dark, [0, 0.45, 1])
    )


def _figures(canvas: Canvas, scene: Scene, wide: float, high: float) -> None:
    rng = random.Random(scene.seed)
    places = [place(f, scene.relation, k, rng, wide, high) for k, f in enumerate(scene.figures)]
    inked = scene.style == "sketch"
    order = reversed(range(len(places))) if scene.relation == "front" else range(len(places))
    for k in order:
        figure, (x, y, radius) = scene.figures[k], places[k]
        if scene.background not in FLOATING and not (scene.relation == "above" and k == 0):
            canvas.save()
            canvas.translate(x, y + radius * 1.0)
            canvas.scale(radius * 1.05, radius * 0.2)
            canvas.drawCircle(0, 0, 1, _shadow())
            canvas.restore()
        canvas.save()
        canvas.translate(x, y)
        canvas.scale(radius, radius)
        canvas.drawPicture(strokes(figure.subject, figure.shown_colour, figure.accessory, inked))
        canvas.restore()


def _paint(canvas: Canvas, scene: Scene, width: int, height: int) -> None:
    unit = min(width, height)
    wide, high = width / unit, height / unit
    tone = filter_of(scene.style)
    if tone is not None:
        canvas.saveLayer(None, skia.Paint(ColorFilter=tone))
    bare = Scene(
        (), scene.background, 0, scene.weather, scene.time, "sketch" if scene.style == "sketch" else None
    )
    canvas.drawImage(_backdrop(bare, width, height), 0, 0)
    canvas.save()
    canvas.scale(unit, unit)
    _figures(canvas, scene, wide, high)
    if scene.weather in ("rain", "snowfall"):
        canvas.drawPicture(_fall(scene.weather, scene.style == "sketch", wide, high))
    canvas.restore()
    if scene.time is not None and scene.style != "sketch":
        tint(canvas, scene.time)
    if tone is not None:
        canvas.restore()


@functools.lru_cache(maxsize=16)
def _surface(width: int, height: int) -> Any:
    return skia.Surface(width, height)


def _image(scene: Scene, width: int, height: int) -> Any:
    """The scene as a skia image, which is read before the next one is drawn."""
    if scene.style == "pixel art":
        unit = min(width, height)
        small = _surface(width * SQUARES // unit, height * SQUARES // unit)
        _paint(small.getCanvas(), scene, small.width(), small.height())
        surface = _surface(width, height)
        surface.getCanvas().drawImageRect(
            small.makeImageSnapshot(),
            skia.Rect.MakeWH(width, height),
            skia.SamplingOptions(skia.FilterMode.kNearest),
        )
        return surface.makeImageSnapshot()
    surface = _surface(width, height)
    _paint(surface.getCanvas(), scene, width, height)
    return surface.makeImageSnapshot()


def render_into(target: Pixels, scene: Scene, shrink: int = 1) -> None:
    """Draw a scene into an array of (height, width, 4): RGB and a byte that means nothing.

    Args:
        target: Where the pixels go; contiguous.
        scene: What to draw.
        shrink: Draw at this many times the size, and average.
    """
    height, width = target.shape[:2]
    image = _image(scene, width * shrink, height * shrink)
    surface = skia.Surface(target, colorType=skia.kRGBA_8888_ColorType)
    sampling = skia.SamplingOptions(skia.FilterMode.kLinear if shrink > 1 else skia.FilterMode.kNearest)
    surface.getCanvas().drawImageRect(image, skia.Rect.MakeWH(width, height), sampling)


def render(scene: Scene, width: int = 512, height: int = 512) -> Pixels:
    """Draw a scene.

    Args:
        scene: What to draw.
        width: Pixels across.
        height: Pixels down.

    Returns:
        The picture, (height, width, 3), RGB.
    """
    pixels = np.zeros((height, width, 4), dtype=np.uint8)
    render_into(pixels, scene)
    return np.ascontiguousarray(pixels[:, :, :3])


def render_small(scene: Scene, width: int = 64, height: int = 64) -> npt.NDArray[np.float32]:
    """The picture at an eighth of its size: drawn at twice that and averaged; values in [-1, 1]."""
    pixels = np.zeros((height, width, 4), dtype=np.uint8)
    render_into(pixels, scene, shrink=2)
    return np.asarray(pixels[:, :, :3].astype(np.float32) / 127.5 - 1, dtype=np.float32)
