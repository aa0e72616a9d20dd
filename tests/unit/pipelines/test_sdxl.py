"""`SdxlPipeline` against stock diffusers, on a tiny SDXL with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from serve_app.engine.pipeline import StepPipeline
from serve_app.engine.state import ImageState
from serve_app.errors import GenerationFailed, UnsupportedRequest
from serve_app.noise_schedulers import NOISE_SCHEDULERS
from serve_app.pipelines.loading import load_sdxl
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.request import GenerationRequest
from serve_app.result import Pixels
from serve_app.settings import PoolSettings

Picture = npt.NDArray[np.int16]
NAMES = [None, *(scheduler.name for scheduler in NOISE_SCHEDULERS)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(folder: Path, **settings: Any) -> SdxlPipeline:
    return load_sdxl(
        PoolSettings(model=str(folder), **settings), device=torch.device("cpu"), dtype=torch.float32
    )


def load_stock(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    return stock


@pytest.fixture(scope="module")
def ours(tiny_sdxl: Path) -> SdxlPipeline:
    return load(tiny_sdxl)


@pytest.fixture(scope="module")
def stock(tiny_sdxl: Path) -> Any:
    return load_stock(tiny_sdxl)


def ask(prompt: str = "a cat in a hat", **changes: Any) -> GenerationRequest:
    values: dict[str, Any] = {
        "request_id": "a",
        "prompt": prompt,
        "negative_prompt": "",
        "height": 64,
        "width": 64,
        "num_inference_steps": 5,
        "guidance_scale": 5.0,
        "seed": 7,
    }
    return GenerationRequest(**{**values, **changes})


def array(pixels: Pixels) -> Picture:
    flat = np.frombuffer(pixels.rgb, dtype=np.uint8).astype(np.int16)
    return flat.reshape(pixels.height, pixels.width, 3)


def draw(pipeline: SdxlPipeline, request: GenerationRequest, index: int = 0) -> Picture:
    state = pipeline.prepare(request, index)
    while not state.finished:
        advance(pipeline, [state])
    return array(pipeline.decode(state))


def advance(pipeline: SdxlPipeline, batch: list[ImageState]) -> None:
    pipeline.denoise_step(batch)
    for state in batch:
        state.step += 1


def draw_stock(pipeline: SdxlPipeline, stock: Any, request: GenerationRequest, **changes: Any) -> Picture:
    own = stock.scheduler
    stock.scheduler = pipeline._schedulers.make(request.scheduler_name)
    try:
        image = stock(
            request.prompt,
            negative_prompt=request.negative_prompt or None,
            height=request.height,
            width=request.width,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            **changes,
        ).images[0]
    finally:
        stock.scheduler = own
    return np.asarray(image).astype(np.int16)


def difference(one: Picture, other: Picture) -> int:
    assert one.shape == other.shape
    assert one.std() > 5, "a flat picture would prove nothing"
    return int(np.abs(one - other).max())


def test_is_a_step_pipeline(ours: SdxlPipeline) -> None:
    assert isinstance(ours, StepPipeline)


@pytest.mark.parametrize("guidance_scale", [0.0, 5.0])
@pytest.mark.parametrize("name", NAMES)
def test_equals_stock(ours: SdxlPipeline, stock: Any, name: str | None, guidance_scale: float) -> None:
    request = ask(scheduler_name=name, guidance_scale=guidance_scale, width=96)
    assert difference(draw(ours, request), draw_stock(ours, stock, request)) <= 2


def test_the_table_makes_what_stock_users_make(ours: SdxlPipeline, stock: Any) -> None:
    import diffusers

    made = ours._schedulers.make("dpmpp_2m_karras")
    by_hand = diffusers.DPMSolverMultistepScheduler.from_config(
        stock.scheduler.config, use_karras_sigmas=True
    )
    assert type(made) is type(by_hand)
    own, theirs = (
        {name: value for name, value in one.config.items() if name != "_use_default_values"}
        for one in (made, by_hand)
    )
    assert own == theirs


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 104, "height": 72},  # odd latents: the UNet interpolates on its way up
        {"width": 64, "height": 128},
        {"negative_prompt": "blurry, dull"},
        {"guidance_scale": 1.0},
        {"guidance_scale": 1.5, "num_inference_steps": 1},
        {"width": 512, "height": 512, "num_inference_steps": 1},  # sums over many pixels stay exact
        {"seed": 0},
        {"seed": 2**32 - 1},
        {"prompt": "x " * 37},  # exactly as long as the window
        {"prompt": ""},
    ],
    ids=str,
)
def test_equals_stock_for(ours: SdxlPipeline, stock: Any, changes: dict[str, Any]) -> None:
    request = ask(**changes)
    assert difference(draw(ours, request), draw_stock(ours, stock, request)) <= 2


@pytest.mark.parametrize(
    "options",
    [
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"zero_for_empty": False},
        {"guidance_embedding": True, "scheduler": "LCMScheduler"},
        {"scheduler": "HeunDiscreteScheduler"},
    ],
    ids=str,
)
def test_equals_stock_for_other_models(make_model: Callable[..., Path], options: dict[str, Any]) -> None:
    folder = make_model(**options)
    pipeline, stock = load(folder), load_stock(folder)
    for request in (ask(), ask(guidance_scale=0.0)):
        # Guidance as an input is only defined where stock is guided by it too.
        assert difference(draw(pipeline, request), draw_stock(pipeline, stock, request)) <= 2


def test_each_picture_has_its_own_seed(ours: SdxlPipeline, stock: Any) -> None:
    request = ask(num_images=3, seed=2**32 - 2, scheduler_name="euler_a")
    for index, seed in enumerate((2**32 - 2, 2**32 - 1, 0)):
        assert (
            difference(
                draw(ours, request, index), draw_stock(ours, stock, ask(seed=seed, scheduler_name="euler_a"))
            )
            <= 2
        )


def test_a_mixed_batch_equals_each_alone(ours: SdxlPipeline) -> None:
    requests = [
        ask("a cat", scheduler_name="euler_a", num_inference_steps=6),
        ask("a dog", scheduler_name="lcm", guidance_scale=0.0, num_inference_steps=4, seed=8),
        ask("the sea", scheduler_name="unipc", guidance_scale=9.0, num_inference_steps=7, seed=9),
        ask("a cat", scheduler_name="dpmpp_2m_karras", negative_prompt="dog", num_inference_steps=5, seed=3),
        ask("a cat", scheduler_name="ddim", num_inference_steps=3),
    ]
    states = []
    for request in requests:  # each joins one step after the one before
        states.append(ours.prepare(request, 0))
        advance(ours, [state for state in states if not state.finished])
    while running := [state for state in states if not state.finished]:
        advance(ours, running)
    for request, state in zip(requests, states, strict=True):
        assert difference(array(ours.decode(state)), draw(ours, request)) <= 1


def test_a_step_that_raises_changes_nothing(ours: SdxlPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [ask(scheduler_name="unipc"), ask(scheduler_name="euler_a"), ask(scheduler_name="dpmpp_2m")]
    states = [ours.prepare(request, 0) for request in requests]
    for _ in range(2):
        advance(ours, states)
    last = states[-1].noise_scheduler

    with monkeypatch.context() as patch:
        patch.setattr(type(last), "advance", refusing(last, type(last).advance))
        with pytest.raises(RuntimeError):
            ours.denoise_step(states)
    while not states[0].finished:
        advance(ours, states)
    for request, state in zip(requests, states, strict=True):
        assert difference(array(ours.decode(state)), draw(ours, request)) <= 1


def refusing(culprit: object, advance: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: object, *arguments: Any) -> Any:
        if self is culprit:
            raise RuntimeError("the last scheduler breaks after the others have stepped")
        return advance(self, *arguments)

    return method


class TestLongPrompts:
    LONG = (
        "a cat and a dog and the bird in the house by the sea with the moon over it and all of them sing " * 2
    )

    def test_every_part_matters(self, ours: SdxlPipeline) -> None:
        whole, cut = draw(ours, ask(self.LONG)), draw(ours, ask(self.LONG[:-30] + "x"))
        assert np.abs(whole - cut).max() > 2

    def test_chunks_lie_one_after_another(self, ours: SdxlPipeline) -> None:
        embedding = ours._text.prompt("x " * 75 + "y " * 25)  # one token each
        first, second = ours._text.prompt("x " * 75), ours._text.prompt("y " * 25)
        assert torch.allclose(embedding.tokens, torch.cat([first.tokens, second.tokens]), atol=1e-5)
        assert torch.allclose(embedding.pooled, first.pooled, atol=1e-5)

    def test_the_shorter_of_two_texts_is_filled_up(self, ours: SdxlPipeline) -> None:
        negative, positive = ours._text.pair("a cat", self.LONG)
        assert negative.tokens.shape == positive.tokens.shape
        alone = ours._text.prompt("a cat")
        assert torch.equal(positive.tokens[:77], alone.tokens)
        assert torch.equal(positive.pooled, alone.pooled)
        assert torch.equal(positive.tokens[77:154], ours._text.prompt("").tokens)

    def test_more_than_any_page_is_refused_before_it_is_encoded(
        self, ours: SdxlPipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours._text.prompt("")  # known from here on
        for _, encoder in ours._text._parts:
            monkeypatch.setattr(encoder, "forward", lambda *arguments, **named: pytest.fail("encoded"))
        most = ours.capabilities.max_prompt_tokens
        for field in ("prompt", "negative_prompt"):
            text: dict[str, Any] = {"prompt": "", "guidance_scale": 5.0, field: "\U0001f98a" * 10_000}
            with pytest.raises(UnsupportedRequest, match=f"at most {most}") as refusal:
                ours.prepare(ask(**text), 0)
            assert refusal.value.field == field

    def test_short_and_long_never_share_a_step(self, ours: SdxlPipeline) -> None:
        assert ours.prepare(ask(self.LONG), 0).batch_key != ours.prepare(ask(), 0).batch_key


def test_text_cache_is_bit_equal_and_bounded(tiny_sdxl: Path) -> None:
    pipeline = load(tiny_sdxl)
    text = pipeline._text
    with torch.inference_mode():
        first = text.prompt("a cat")
        assert text.prompt("a cat") is first
        text._cache_bytes = 3 * first.nbytes
        for index in range(9):
            text.prompt(f"a cat {index}")
        assert len(text._cache) == 3
        assert text._cached_bytes == 3 * first.nbytes
        again = text.prompt("a cat")
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.pooled, again.pooled)


class TestDefaults:
    def test_of_an_undistilled_model(self, ours: SdxlPipeline) -> None:
        defaults = ours.defaults
        assert (defaults.width, defaults.height) == (128, 128)
        assert (defaults.num_inference_steps, defaults.guidance_scale) == (30, 5.0)
        assert defaults.scheduler_name == "euler"

    @pytest.mark.parametrize(
        "options", [{"timestep_spacing": "trailing"}, {"scheduler": "LCMScheduler"}], ids=str
    )
    def test_of_a_distilled_model(self, make_model: Callable[..., Path], options: dict[str, str]) -> None:
        defaults = load(make_model(**options)).defaults
        assert (defaults.num_inference_steps, defaults.guidance_scale) == (4, 0.0)

    def test_settings_win(self, tiny_sdxl: Path) -> None:
        pipeline = load(tiny_sdxl, num_inference_steps=9, guidance_scale=0.0, default_size=(96, 64))
        defaults = pipeline.defaults
        assert (defaults.width, defaults.height) == (96, 64)
        assert (defaults.num_inference_steps, defaults.guidance_scale) == (9, 0.0)

    def test_a_noise_scheduler_outside_the_table_can_be_named(self, make_model: Callable[..., Path]) -> None:
        pipeline = load(make_model(scheduler="HeunDiscreteScheduler"))
        assert pipeline.defaults.scheduler_name == "heundiscrete"
        assert "heundiscrete" in pipeline.capabilities.scheduler_names
        assert pipeline.prepare(ask(num_inference_steps=4), 0).total_steps == 7, (
            "two UNet calls per step but one"
        )


def test_steps_a_noise_scheduler_cannot_make_are_the_callers_mistake(ours: SdxlPipeline) -> None:
    with pytest.raises(UnsupportedRequest) as refusal:
        ours.prepare(ask(scheduler_name="lcm", num_inference_steps=120), 0)
    assert refusal.value.field == "num_inference_steps"


def test_pictures_that_are_not_finite_fail(ours: SdxlPipeline) -> None:
    state = ours.prepare(ask(), 0)
    state.latents = state.latents * float("nan")
    with pytest.raises(GenerationFailed):
        ours.decode(state)


def test_out_of_memory_is_known(ours: SdxlPipeline) -> None:
    assert ours.is_out_of_memory(MemoryError())
    assert ours.is_out_of_memory(torch.OutOfMemoryError())
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**60)
    assert ours.is_out_of_memory(failure.value)
    assert not ours.is_out_of_memory(RuntimeError("shapes do not match"))
