"""The safety checker's hook: what it refuses never leaves, and its own failures let nothing pass."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from serve_app.deployment import Replica
from serve_app.errors import ConfigurationError, GenerationFailed, PictureRefused
from serve_app.request import GenerationRequest
from serve_app.result import GenerationResult, Pixels, StepProgress
from serve_app.safety import load_checker, refuse_unless_safe
from serve_app.settings import PoolSettings, SafetySettings

POOL = PoolSettings(name="test", accelerator="fake", model="fake")
WORD = SafetySettings(checker="tests.unit.test_safety:WordChecker", options={"word": "cat"})


class WordChecker:
    """Refuses pictures by a word of their prompt."""

    def __init__(self, word: str, fails: bool = False) -> None:
        self._word = word
        self._fails = fails

    def reason_to_refuse(self, pixels: Pixels, prompt: str) -> str | None:
        assert len(pixels.rgb) == 3 * pixels.width * pixels.height
        if self._fails:
            raise RuntimeError("out of order")
        return f"{self._word}s are not for you" if self._word in prompt else None


def request(prompt: str, preview_every: int = 0) -> GenerationRequest:
    return GenerationRequest("id", prompt, "", 64, 64, 4, 0.0, seed=3, preview_every=preview_every)


async def last_of(replica: Replica, asked: GenerationRequest) -> object:
    return [event async for event in replica.generate(asked)][-1]


async def test_a_refused_picture_never_leaves_and_others_do() -> None:
    replica = Replica(POOL, "fake", safety=WORD)
    try:
        assert isinstance(await last_of(replica, request("a dog")), GenerationResult)
        with pytest.raises(PictureRefused, match="cats are not for you"):
            await last_of(replica, request("a cat"))
        # Nothing looks at a preview, so there are none.
        events = [event async for event in replica.generate(request("a dog", 1), progress=True)]
        steps = [event for event in events if isinstance(event, StepProgress)]
        assert steps
        assert all(step.preview is None for step in steps)
    finally:
        replica.close()


async def test_after_a_refused_picture_the_others_of_its_request_are_not_drawn() -> None:
    replica = Replica(POOL, "fake", safety=WORD)
    try:
        replica._engine.pipeline._step_s = 0.02  # type: ignore[attr-defined]
        before = (await replica.stats()).images_done
        with pytest.raises(PictureRefused):
            await last_of(replica, replace(request("a cat"), num_images=16, num_inference_steps=20))
        assert (await replica.stats()).images_done - before < 16
    finally:
        replica.close()


def test_a_checker_that_fails_lets_nothing_pass() -> None:
    with pytest.raises(GenerationFailed, match="RuntimeError"):
        refuse_unless_safe(WordChecker("cat", fails=True), Pixels(1, 1, b"abc"), "a dog")


@pytest.mark.parametrize(
    ("checker", "options", "told"),
    [
        ("nowhere.at_all:make", {}, "cannot be imported"),
        ("tests.unit.test_safety:Missing", {}, "cannot be imported"),
        ("tests.unit.test_safety:WordChecker", {"words": "x"}, "did not start with options ['words']"),
    ],
)
def test_a_checker_that_cannot_work_keeps_the_replica_from_starting(
    checker: str, options: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        load_checker(SafetySettings(checker=checker, options=options))
