"""The renderer and its captions."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("skia", exc_type=ImportError)  # its wheel wants the system's libGL and libEGL
np = pytest.importorskip("numpy")

from tools.small_sdxl.captions import describe  # noqa: E402
from tools.small_sdxl.drawing import render, render_small  # noqa: E402
from tools.small_sdxl.scenes import (  # noqa: E402
    BACKGROUNDS,
    COLOURS,
    OWN_COLOUR,
    POSITIONS,
    SUBJECTS,
    WEARERS,
    Figure,
    Scene,
    held_out_scenes,
    is_held_out,
    random_scene,
)
from tools.small_sdxl.subjects import PAINTERS  # noqa: E402
from tools.small_sdxl.words import COLOUR_WORDS, POSITION_WORDS, SUBJECT_WORDS  # noqa: E402


def test_every_subject_can_be_drawn_and_has_a_colour_of_its_own() -> None:
    assert set(PAINTERS) == set(SUBJECTS) == set(OWN_COLOUR)
    assert set(SUBJECTS) >= WEARERS


def test_the_same_scene_is_the_same_picture() -> None:
    rng = random.Random(1)
    for _ in range(20):
        scene = random_scene(rng)
        assert np.array_equal(render(scene, 96, 96), render(scene, 96, 96))


def test_the_seed_decides_the_scenes() -> None:
    draws = [[random_scene(random.Random(seed)) for _ in range(3)] for seed in (4, 4, 5)]
    assert draws[0] == draws[1] != draws[2]


def test_the_scenes_own_seed_moves_the_figure() -> None:
    one, other = (Scene((Figure("star", "red"),), "sea", seed) for seed in (1, 2))
    assert not np.array_equal(render(one, 96, 96), render(other, 96, 96))


def test_every_subject_shows_on_every_scenery() -> None:
    for background in BACKGROUNDS:
        empty = render(Scene((), background), 64, 64).astype(int)
        for subject in SUBJECTS:
            scene = Scene((Figure(subject),), background)
            if background == f"plain {OWN_COLOUR[subject]}":
                continue
            changed = np.abs(render(scene, 64, 64).astype(int) - empty).max(axis=2) > 30
            assert changed.mean() > 0.02, (subject, background)


def test_pictures_need_not_be_square() -> None:
    scene = Scene((Figure("circle", "red", "left"),), "beach")
    picture = render(scene, 192, 128)
    assert picture.shape == (128, 192, 3)
    reds = np.argwhere(np.abs(picture.astype(int) - COLOURS["red"]).sum(axis=2) < 60)
    assert reds[:, 1].mean() < 80


def test_the_small_picture_is_the_large_one_averaged() -> None:
    scene = Scene((Figure("cat"),), "city", 3)
    averaged = render(scene, 512, 512).reshape(64, 8, 64, 8, 3).mean(axis=(1, 3)) / 127.5 - 1
    assert np.abs(render_small(scene) - averaged).mean() < 0.01


def test_captions_say_what_is_drawn() -> None:
    rng = random.Random(2)
    for _ in range(500):
        scene = random_scene(rng)
        caption = describe(scene, rng)
        for figure in scene.figures:
            assert any(word in caption for word in SUBJECT_WORDS.get(figure.subject, (figure.subject,))), (
                caption
            )
            if figure.colour is not None:
                assert any(word in caption for word in COLOUR_WORDS.get(figure.colour, (figure.colour,))), (
                    caption
                )
            if figure.position is not None and len(scene.figures) == 1:
                assert any(word in caption for word in POSITION_WORDS[figure.position]), caption
            if figure.accessory is not None:
                assert figure.accessory in caption


def test_a_caption_does_not_name_what_is_not_said() -> None:
    rng = random.Random(3)
    for _ in range(50):
        assert describe(Scene((Figure("star"),)), rng, plainly=True) == "a star"


def test_training_never_sees_held_out_combinations() -> None:
    rng = random.Random(4)
    assert not any(is_held_out(random_scene(rng)) for _ in range(3000))


def test_held_out_scenes_are_fixed_and_cover_the_vocabulary() -> None:
    scenes = held_out_scenes(200)
    assert scenes == held_out_scenes(200)
    assert len({scene.figures for scene in scenes}) > 100
    assert {scene.figures[0].position for scene in scenes} == set(POSITIONS)
    assert {scene.figures[0].colour for scene in scenes} == set(COLOURS)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert all(is_held_out(scene) for scene in scenes)
