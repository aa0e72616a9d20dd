"""Previews: a linear decoder fitted to finished pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from serve_app.engine.state import ImageState
from serve_app.pipelines.loading import load_sdxl
from serve_app.pipelines.preview import LinearPreview
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.result import Pixels
from serve_app.settings import PoolSettings
from tests.unit.pipelines.drawing import ask


@pytest.fixture(scope="module")
def bundled() -> SdxlPipeline:
    return load_sdxl(PoolSettings(), device=torch.device("cpu"), dtype=torch.float32)


def test_there_is_none_before_the_first_picture() -> None:
    assert LinearPreview(4, 8).draw(torch.zeros(1, 4, 8, 8)) is None


def test_a_linear_decoder_is_found_again() -> None:
    torch.manual_seed(0)
    true = torch.randn(3 * 4, 16) * 0.1
    preview = LinearPreview(16, 16)  # 16 pixels a latent: two preview pixels a side

    def decoded(latents: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.pixel_shuffle(torch.einsum("oc,bchw->bohw", true, latents), 2)
        return torch.nn.functional.interpolate(small, scale_factor=8)[0].clamp(-1, 1)

    for _ in range(3):
        latents = torch.randn(1, 16, 8, 12)
        preview.learn(latents, decoded(latents))
    latents = torch.randn(1, 16, 8, 12)
    drawn = preview.draw(latents)
    assert drawn is not None
    assert drawn.shape == (16, 24, 3)
    wanted = (decoded(latents)[:, ::8, ::8].permute(1, 2, 0) * 0.5 + 0.5) * 255
    assert (drawn.float() - wanted).abs().mean() < 3


def test_previews_of_the_bundled_model_show_what_is_coming(bundled: SdxlPipeline) -> None:
    learned_from = bundled.prepare(ask("a red heart on the grass", seed=1), 0)
    _run(bundled, learned_from, 4)
    bundled.decode(learned_from)
    state = bundled.prepare(ask("a yellow star on a blue background", seed=2), 0)
    _run(bundled, state, 3)
    preview = bundled.preview(state)
    assert preview is not None
    assert (preview.width, preview.height) == (64, 64)
    _run(bundled, state, 1)
    picture = _image(bundled.decode(state)).resize((64, 64), Image.Resampling.BOX)
    difference = np.abs(np.asarray(picture, np.float32) - np.asarray(_image(preview), np.float32))
    assert difference.mean() < 20, "of 255; two unrelated pictures of the model differ by far more"


def _run(pipeline: SdxlPipeline, state: ImageState, steps: int) -> None:
    for _ in range(steps):
        pipeline.denoise_step([state])
        state.step += 1


def _image(pixels: Pixels) -> Image.Image:
    return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
