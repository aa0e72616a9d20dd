"""The judge must be far better than the model it judges."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("skia", exc_type=ImportError)  # its wheel wants the system's libGL and libEGL
pytest.importorskip("scipy")
np = pytest.importorskip("numpy")

from tools.small_sdxl import questions  # noqa: E402
from tools.small_sdxl.drawing import render  # noqa: E402
from tools.small_sdxl.judge import (  # noqa: E402
    airs,
    behind,
    count_figures,
    judge,
    judge_error,
    judge_pair,
    score,
    score_air,
    score_pairs,
    shrink,
    truth,
)
from tools.small_sdxl.scenes import SHAPES, Figure, Scene, held_out_scenes  # noqa: E402


def test_true_drawings_of_every_subject_are_judged_right() -> None:
    wrong = judge_error(questions.every_subject(2))
    assert wrong["background"] == wrong["position"] == 0
    assert wrong["colour"] <= 0.02
    assert wrong["subject"] <= 0.05


def test_shapes_are_told_from_all_other_subjects() -> None:
    assert judge_error(held_out_scenes(40))["all"] <= 0.03


def test_true_drawings_of_accessories_are_judged_right() -> None:
    scenes = questions.accessories()
    right = score([render(scene) for scene in scenes], scenes, aspects=("subject", "accessory"))
    assert right["all"] >= 0.95


def test_true_drawings_of_pairs_are_judged_right() -> None:
    scenes = questions.pairs(20)
    assert score_pairs([render(scene) for scene in scenes], scenes)["both subjects"] >= 0.9


def test_sizes_are_told_apart() -> None:
    scenes = questions.sizes(5)
    assert score([render(scene) for scene in scenes], scenes, aspects=("size",))["size"] >= 0.95


def test_light_weather_and_styles_are_told_apart() -> None:
    scenes = questions.airs()
    assert min(score_air([render(scene) for scene in scenes], scenes).values()) >= 0.95


@pytest.mark.parametrize("size", [(512, 512), (768, 512), (512, 768), (1024, 1024)])
def test_the_size_of_the_picture_does_not_matter(size: tuple[int, int]) -> None:
    scene = Scene((Figure("cat", "purple", "right"),), "forest", 3)
    picture = render(scene, *size)
    assert judge(picture) == truth(scene)
    assert count_figures(picture) == 1


def test_figures_are_counted() -> None:
    two = Scene(
        (Figure("heart", "red", "left"), Figure("star", "blue", "right")), "meadow", relation="beside"
    )
    assert count_figures(render(two)) == 2
    assert count_figures(render(Scene((), "meadow"))) == 0
    assert [verdict.subject for verdict in judge_pair(render(two))] == ["heart", "star"]


def test_noise_and_a_shadow_do_not_change_the_verdict() -> None:
    scene = Scene((Figure("heart", "purple", "left"),), "meadow", 4)
    noise = np.random.default_rng(0).normal(0, 12, (512, 512, 3))
    picture = np.clip(render(scene) + noise, 0, 255).astype(np.uint8)
    picture[420:500, 300:500] = (picture[420:500, 300:500] * 0.8).astype(np.uint8)
    assert judge(picture) == truth(scene)


def test_each_aspect_is_told_apart() -> None:
    base = Scene((Figure("circle", "red", "left"),), "beach", 1)
    for other in (
        Scene((Figure("star", "red", "left"),), "beach", 1),
        Scene((Figure("circle", "blue", "left"),), "beach", 1),
        Scene((Figure("circle", "red", "right"),), "beach", 1),
        Scene((Figure("circle", "red", "left"),), "snow", 1),
        Scene((Figure("circle", "red", "left", "small"),), "beach", 1),
    ):
        assert judge(render(other), SHAPES) == truth(other) != judge(render(base), SHAPES)


def test_a_picture_without_a_figure_gets_a_verdict_all_the_same() -> None:
    assert judge(render(Scene((), "sea")), SHAPES).background == "sea"


def test_a_random_picture_is_not_judged_right() -> None:
    scenes = held_out_scenes(30)
    mixed = list(scenes)
    random.Random(1).shuffle(mixed)
    assert score([render(scene) for scene in mixed], scenes)["all"] < 0.2


def test_light_is_part_of_what_is_behind() -> None:
    scene = Scene((Figure("boat"),), "sea", time="sunset", weather="clouds")
    seen = behind(shrink(render(scene)), airs())
    assert (seen.background, seen.time, seen.weather) == ("sea", "sunset", "clouds")


def test_shrinking_averages() -> None:
    assert np.allclose(shrink(np.full((512, 512, 3), 7, dtype=np.uint8)), 7)
