"""What an evaluation asks and measures; the judge has a file of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("skia", exc_type=ImportError)  # its wheel wants the system's libGL and libEGL
pytest.importorskip("scipy")
pytest.importorskip("torch")
pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")

from tools.small_sdxl import questions  # noqa: E402
from tools.small_sdxl.drawing import render  # noqa: E402
from tools.small_sdxl.evaluation import difference, seam  # noqa: E402
from tools.small_sdxl.scenes import (  # noqa: E402
    FIXED_COLOUR,
    SCENERY,
    STYLES,
    SUBJECTS,
    TIMES,
    WEATHERS,
    Scene,
    is_held_out,
)
from tools.small_sdxl.sheets import draw, grid  # noqa: E402
from tools.small_sdxl.through_engine import draw_through_engine  # noqa: E402
from tools.small_sdxl.words import UNKNOWN_NOUNS  # noqa: E402
from tools.small_sdxl.workspace import BUNDLED  # noqa: E402


def test_every_subject_is_asked_for_in_what_was_never_trained_on() -> None:
    scenes = questions.every_subject(2)
    asked = [scene.figures[0].subject for scene in scenes]
    assert asked == [subject for subject in SUBJECTS for _ in range(2)]
    assert all(is_held_out(scene) for scene in scenes if scene.figures[0].subject not in FIXED_COLOUR)


def test_every_light_weather_and_style_is_asked_for() -> None:
    scenes = questions.airs()
    for aspect, all_of in (("time", TIMES), ("weather", WEATHERS), ("style", STYLES)):
        assert {getattr(scene, aspect) for scene in scenes} == {None, *all_of}


def test_wordings_differ_and_say_the_subject() -> None:
    scenes = questions.every_subject(1)
    plain, free, dressed = questions.plainly(scenes), questions.freely(scenes), questions.dressed(scenes)
    assert len({tuple(plain), tuple(free), tuple(dressed)}) == 3
    assert all(
        words.lower() in with_trimmings.lower() for words, with_trimmings in zip(plain, dressed, strict=True)
    )


def test_strangers_were_never_in_a_caption() -> None:
    assert not set(questions.STRANGERS) & {*UNKNOWN_NOUNS, *SUBJECTS}
    prompts, backgrounds = questions.strangers()
    assert backgrounds == list(SCENERY)
    assert "on the moon" in prompts[backgrounds.index("lunar")]


def test_a_seam_is_found_and_texture_is_none() -> None:
    true = render(Scene((), "plain blue"), 256, 128)
    noise = np.random.default_rng(0).normal(0, 6, true.shape)
    textured = np.clip(true + noise, 0, 255).astype(np.uint8)
    assert seam(true, true) == (0, 0)
    seamed = textured.astype(int)
    seamed[:, 96:] += 12
    inside, edge = seam(np.clip(seamed, 0, 255).astype(np.uint8), true)
    assert inside > 3 * max(seam(textured, true))
    assert edge < inside / 3


def test_differences_are_of_pixels() -> None:
    black = np.zeros((8, 8, 3), dtype=np.uint8)
    assert difference([black, black], [black, black + 4]) == 2


def test_each_prompt_has_its_own_seed_and_negative_prompt_whatever_the_batch() -> None:
    calls: list[dict[str, Any]] = []

    def pipeline(prompts: list[str], **options: Any) -> SimpleNamespace:
        calls.append({"prompts": prompts, **options})
        return SimpleNamespace(images=np.zeros((len(prompts), 4, 4, 3)))

    pictures = list(draw(pipeline, ["a", "b", "c"], 4, 3.0, seed=5, batch=2, negative=["x", "y", "z"]))
    assert len(pictures) == 3
    assert [(call["prompts"], call["negative_prompt"]) for call in calls] == [
        (["a", "b"], ["x", "y"]), (["c"], ["z"])
    ]  # fmt: skip
    assert [g.initial_seed() for call in calls for g in call["generator"]] == [5, 6, 7]
    assert grid(pictures, columns=2, cell=10).size == (20, 20)


def test_the_engine_draws_a_picture_for_each_seed() -> None:
    one, other = draw_through_engine(BUNDLED, ["a red star", "a red star"], 1, "float32", seed=3)
    assert one.shape == (512, 512, 3)
    assert difference([one], [other]) > 0
