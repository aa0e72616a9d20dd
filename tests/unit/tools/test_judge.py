"""The judge must be far better than the model it judges."""

from __future__ import annotations

import pytest

pytest.importorskip("skia", exc_type=ImportError)  # its wheel wants the system's libGL and libEGL
pytest.importorskip("scipy")
np = pytest.importorskip("numpy")

from tools.small_sdxl.drawing import render  # noqa: E402
from tools.small_sdxl.judge import judge, judge_error, shrink, truth  # noqa: E402
from tools.small_sdxl.scenes import FIXED_COLOUR, SHAPES, SUBJECTS, Figure, Scene, held_out_scenes  # noqa: E402

OTHERS = tuple(name for name in SUBJECTS if name not in SHAPES and name not in FIXED_COLOUR)


def test_true_drawings_of_shapes_are_judged_right() -> None:
    assert judge_error(held_out_scenes(40), SHAPES)["all"] <= 0.03


def test_true_drawings_of_other_subjects_are_judged_right() -> None:
    wrong = judge_error(held_out_scenes(40, subjects=OTHERS), OTHERS)
    assert wrong["background"] == 0
    assert wrong["position"] <= 0.05
    assert wrong["subject"] <= 0.1


def test_noise_does_not_change_the_verdict() -> None:
    scene = Scene((Figure("heart", "purple", "left"),), "meadow", 4)
    noise = np.random.default_rng(0).normal(0, 12, (512, 512, 3))
    picture = np.clip(render(scene) + noise, 0, 255).astype(np.uint8)
    assert judge(picture, SHAPES) == truth(scene)


def test_each_aspect_is_told_apart() -> None:
    base = Scene((Figure("circle", "red", "left"),), "beach", 1)
    for other in (
        Scene((Figure("star", "red", "left"),), "beach", 1),
        Scene((Figure("circle", "blue", "left"),), "beach", 1),
        Scene((Figure("circle", "red", "right"),), "beach", 1),
        Scene((Figure("circle", "red", "left"),), "snow", 1),
    ):
        assert judge(render(other), SHAPES) == truth(other) != judge(render(base), SHAPES)


def test_a_picture_without_a_figure_gets_a_verdict_all_the_same() -> None:
    assert judge(render(Scene((), "sea")), SHAPES).background == "sea"


def test_shrinking_averages() -> None:
    assert np.allclose(shrink(np.full((512, 512, 3), 7, dtype=np.uint8)), 7)
