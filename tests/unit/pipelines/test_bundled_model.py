"""The model that ships: its files, its defaults, and that the engine draws what stock diffusers draws with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open

from serve_app.capabilities import PoolFacts
from serve_app.model_source import locate_model, model_defaults
from serve_app.pipelines.loading import load_sdxl
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.request import RequestDraft
from serve_app.settings import BUNDLED_MODEL, MODELS_DIR, PoolSettings

FOLDER = MODELS_DIR / BUNDLED_MODEL


@pytest.fixture(scope="module")
def stock() -> Any:
    """The bundled model in stock diffusers, float32."""
    pipe = StableDiffusionXLPipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def ours() -> SdxlPipeline:
    """The bundled model as the service loads it, float32."""
    return load_sdxl(PoolSettings(), device=torch.device("cpu"), dtype=torch.float32)


def test_it_is_small_and_in_half_precision() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 25_000_000
    for file in FOLDER.glob("*/*.safetensors"):
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


def test_both_generations_of_transformers_read_it() -> None:
    for tokenizer in ("tokenizer", "tokenizer_2"):
        # 5 reads tokenizer.json, 4.57 the other two.
        vocabulary = json.loads((FOLDER / tokenizer / "vocab.json").read_text())
        assert len(vocabulary) > 1000
        assert (FOLDER / tokenizer / "merges.txt").is_file()
        assert (FOLDER / tokenizer / "tokenizer.json").is_file()
    for encoder in ("text_encoder", "text_encoder_2"):
        with safe_open(FOLDER / encoder / "model.safetensors", "pt") as tensors:
            names = list(tensors.keys())
        # 4.57 initialises at random what lacks the prefix; 5 reads both.
        assert all(name.startswith(("text_model.", "text_projection.")) for name in names)


def test_defaults_are_those_of_a_few_step_model() -> None:
    source = locate_model(PoolSettings())
    assert source.folder == FOLDER
    defaults = model_defaults(FOLDER, PoolSettings())
    assert (defaults.width, defaults.height) == (512, 512)
    assert (defaults.num_inference_steps, defaults.guidance_scale) == (4, 0.0)


@pytest.mark.parametrize(
    ("guidance_scale", "negative_prompt", "width", "height"),
    [(0.0, "", 512, 512), (4.0, "a red square", 512, 512), (0.0, "", 768, 512), (3.0, "", 1024, 1024)],
)
def test_it_draws_what_stock_diffusers_draws(
    stock: Any, ours: SdxlPipeline, guidance_scale: float, negative_prompt: str, width: int, height: int
) -> None:
    prompt, steps, seed = "a yellow star on a blue background", 4, 11
    expected = stock(
        prompt=prompt,
        negative_prompt=negative_prompt or None,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=torch.Generator("cpu").manual_seed(seed),
    ).images[0]
    draft = RequestDraft(
        prompt,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        seed=seed,
    )
    state = ours.prepare(_request(draft, ours), 0)
    while not state.finished:
        ours.denoise_step([state])
        state.step += 1
    pixels = ours.decode(state)
    drawn = np.frombuffer(pixels.rgb, np.uint8).reshape(pixels.height, pixels.width, 3)
    difference = np.abs(drawn.astype(int) - np.asarray(expected).astype(int)).max()
    assert difference <= 2


def _request(draft: RequestDraft, pipeline: SdxlPipeline) -> Any:
    return draft.for_pool(
        PoolFacts("default", BUNDLED_MODEL, "cpu", pipeline.defaults, pipeline.capabilities)
    )


def test_the_card_is_there() -> None:
    card = (FOLDER / "README.md").read_text()
    assert card.startswith("---\n")
    assert "license: apache-2.0" in card
    assert Path(FOLDER / "model_index.json").is_file()
