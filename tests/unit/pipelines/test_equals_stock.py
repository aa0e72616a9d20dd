"""The bundled model through the engine draws what stock `StableDiffusionXLPipeline` draws, in float32.

The stock side draws each request in a call of its own; our side draws all requests of a size in one engine, mixed
in the same batches. By default every pair of noise scheduler, guidance and size is there, all pictures are compared
by their latents, and those of `DECODED` by their pixels too (decoding takes most of the time and is the same for
all). ``EXHAUSTIVE=1 pytest tests/unit/pipelines/test_equals_stock.py`` draws every combination, and decodes it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from serve_app.engine.state import ImageState
from serve_app.noise_schedulers import NOISE_SCHEDULERS
from serve_app.pipelines.loading import load_sdxl
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.request import GenerationRequest
from serve_app.result import Pixels
from serve_app.settings import BUNDLED_MODEL, MODELS_DIR, PoolSettings
from tests.unit.pipelines.drawing import Ends, Picture, array, ask, difference, draw_together

Size = tuple[int, int]
Drawn = dict[tuple[str, int], tuple[torch.Tensor, Pixels | None]]

# What a user of diffusers would write. Written out here, so that our own table is checked against it.
STOCK_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": False}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
SIZES: list[Size] = [(512, 512), (768, 512), (1024, 1024)]
GUIDANCE_SCALES = [0.0, 4.0]
EXHAUSTIVE = bool(os.environ.get("EXHAUSTIVE"))
DECODED = {
    ("euler", 4.0, (512, 512)),
    ("euler_a", 0.0, (512, 512)),
    ("unipc", 0.0, (768, 512)),
    ("dpmpp_2m", 4.0, (1024, 1024)),
}
CASES = [
    (scheduler, guidance_scale, size)
    for place, scheduler in enumerate(STOCK_SCHEDULERS)
    for size in SIZES
    for guided, guidance_scale in enumerate(GUIDANCE_SCALES)
    # Both at the cheapest size; of the larger ones one is guided and the other is not, in turns.
    if EXHAUSTIVE or size == SIZES[0] or (place + SIZES.index(size)) % 2 == guided
]
STEPS = 3  # the fewest with which a multistep noise scheduler is of second order once
SEEDS = (11, 12)
LATENT_TOLERANCE = 2e-4  # of latents with a standard deviation of about 1
PIXEL_TOLERANCE = 2  # of 255


class _KeptLatents:
    """A `StepPipeline` that keeps each picture's last latents, and decodes only those it is asked to."""

    def __init__(self, pipeline: SdxlPipeline, decoded: set[str]) -> None:
        self._pipeline = pipeline
        self._decoded = decoded
        self.latents: dict[tuple[str, int], torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def decode(self, state: ImageState) -> Pixels:
        self.latents[state.request.request_id, state.index] = state.latents
        if state.request.request_id in self._decoded:
            return self._pipeline.decode(state)
        return Pixels(1, 1, bytes(3))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stock() -> Any:
    """The bundled model in stock diffusers, float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
            MODELS_DIR / BUNDLED_MODEL, torch_dtype=torch.float32, add_watermarker=False
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def ours() -> SdxlPipeline:
    """The bundled model as the service loads it, float32."""
    return load_sdxl(PoolSettings(), device=torch.device("cpu"), dtype=torch.float32)


def name_of(scheduler: str, guidance_scale: float) -> str:
    return f"{scheduler} {guidance_scale}"


def asked(scheduler: str, guidance_scale: float, size: Size) -> GenerationRequest:
    return ask(
        request_id=name_of(scheduler, guidance_scale),
        negative_prompt="a red square" if guidance_scale else "",
        width=size[0],
        height=size[1],
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
        seed=SEEDS[0],
        # Several pictures at the cheapest size; the larger ones would only take longer.
        num_images=len(SEEDS) if size == SIZES[0] and not guidance_scale else 1,
        scheduler_name=scheduler,
    )


def decodes(scheduler: str, guidance_scale: float, size: Size) -> bool:
    return EXHAUSTIVE or (scheduler, guidance_scale, size) in DECODED


@pytest.fixture(scope="module")
def drawn(ours: SdxlPipeline) -> Callable[[Size], Drawn]:
    """All pictures of a size, drawn once: (request id, picture) -> latents, and pixels where decoded."""
    known: dict[Size, Drawn] = {}

    def draw(size: Size) -> Drawn:
        if size not in known:
            requests = [asked(*case) for case in CASES if case[2] == size]
            decoded = {name_of(*case[:2]) for case in CASES if case[2] == size and decodes(*case)}
            keeper: Any = _KeptLatents(ours, decoded)
            known[size] = {
                (request.request_id, index): (
                    keeper.latents[request.request_id, index],
                    picture_of(ends, index) if request.request_id in decoded else None,
                )
                for request, ends in zip(requests, draw_together(keeper, requests), strict=True)
                for index in range(request.num_images)
            }
        return known[size]

    return draw


def picture_of(ends: Ends, index: int) -> Pixels:
    end = ends.ends[index]
    assert isinstance(end, Pixels), end
    return end


def draw_stock(stock: Any, request: GenerationRequest, output_type: str) -> Any:
    """Latents or pictures of all `request.num_images`, each from a generator of its own seed."""
    class_name, changes = STOCK_SCHEDULERS[str(request.scheduler_name)]
    own = stock.scheduler
    stock.scheduler = getattr(diffusers, class_name).from_config(own.config, **changes)
    try:
        return stock(
            request.prompt,
            negative_prompt=request.negative_prompt or None,
            height=request.height,
            width=request.width,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            num_images_per_prompt=request.num_images,
            generator=[
                torch.Generator("cpu").manual_seed(request.seed + index)
                for index in range(request.num_images)
            ],
            output_type=output_type,
        ).images
    finally:
        stock.scheduler = own


def test_all_of_them_are_here() -> None:
    assert set(STOCK_SCHEDULERS) == {scheduler.name for scheduler in NOISE_SCHEDULERS}
    assert set(CASES) >= DECODED, "a picture that is never drawn is never compared"


@pytest.mark.parametrize(("scheduler", "guidance_scale", "size"), CASES, ids=str)
def test_the_engine_draws_what_stock_draws(
    stock: Any, drawn: Callable[[Size], Drawn], scheduler: str, guidance_scale: float, size: Size
) -> None:
    request = asked(scheduler, guidance_scale, size)
    pictures = [drawn(size)[request.request_id, index] for index in range(request.num_images)]
    expected = draw_stock(stock, request, "latent")
    for (latents, _), theirs in zip(pictures, expected, strict=True):
        assert latents.std() > 0.1
        assert (latents[0] - theirs).abs().max() <= LATENT_TOLERANCE
    if decodes(scheduler, guidance_scale, size):
        images = draw_stock(stock, request, "pil")
        for (_, pixels), image in zip(pictures, images, strict=True):
            assert pixels is not None
            theirs_picture: Picture = np.asarray(image).astype(np.int16)
            assert difference(array(pixels), theirs_picture) <= PIXEL_TOLERANCE
