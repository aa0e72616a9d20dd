"""The accelerator ``neuron`` over the real optimum-neuron, against plain diffusers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serve_app import accelerators
from serve_app.engine.state import ImageState
from serve_app.errors import ConfigurationError, UnsupportedRequest
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.request import GenerationRequest, RequestDraft
from serve_app.settings import PoolSettings
from tests.neuron.conftest import HEIGHT, STAND_IN, WIDTH, Compile

TOLERANCE = 1e-4
LONG = "a cat in a hat " * 20


def load(folder: Path, **settings: Any) -> SdxlPipeline:
    pipeline = accelerators.get("neuron").load_pipeline(PoolSettings(model=str(folder), **settings))
    assert isinstance(pipeline, SdxlPipeline)
    return pipeline


@pytest.fixture(scope="module")
def ours(compiled: Path) -> SdxlPipeline:
    return load(compiled)


def ask(prompt: str = "a cat in a hat", **changes: Any) -> GenerationRequest:
    values: dict[str, Any] = {
        "request_id": "a",
        "prompt": prompt,
        "negative_prompt": "",
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": 5,
        "guidance_scale": 5.0,
        "seed": 7,
    }
    return GenerationRequest(**{**values, **changes})


def advance(pipeline: SdxlPipeline, batch: Sequence[ImageState]) -> None:
    pipeline.denoise_step(batch)
    for state in batch:
        state.step += 1


def finish(pipeline: SdxlPipeline, states: Sequence[ImageState]) -> None:
    while running := [state for state in states if not state.finished]:
        advance(pipeline, running)


def drawn(pipeline: SdxlPipeline, request: GenerationRequest) -> ImageState:
    state = pipeline.prepare(request, 0)
    finish(pipeline, [state])
    return state


def draw_stock(stock: Any, request: GenerationRequest, output_type: str) -> Any:
    return stock(
        request.prompt,
        negative_prompt=request.negative_prompt or None,
        height=request.height,
        width=request.width,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type=output_type,
    ).images[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance_scale": 0.0},
        {"negative_prompt": "blurry, dull"},
        {"prompt": "x " * 37, "seed": 2**32 - 1},
        {"prompt": "", "num_inference_steps": 1},
    ],
    ids=str,
)
def test_equals_plain_diffusers(ours: SdxlPipeline, stock: Any, changes: dict[str, Any]) -> None:
    request = ask(**changes)
    state = drawn(ours, request)
    latents = draw_stock(stock, request, "latent")
    assert latents.std() > 0.1
    assert (state.latents[0] - latents).abs().max() <= TOLERANCE
    picture = np.asarray(draw_stock(stock, request, "pil")).astype(int)
    pixels = ours.decode(state)
    assert (pixels.width, pixels.height) == (WIDTH, HEIGHT)
    flat = np.frombuffer(pixels.rgb, dtype=np.uint8).astype(int)
    assert picture.std() > 5
    assert np.abs(flat.reshape(picture.shape) - picture).max() <= 1, (
        "values between 0 and 1 within a rounding"
    )


def test_equals_optimum_neurons_own_pipeline(ours: SdxlPipeline, compiled: Path) -> None:
    from optimum.neuron import NeuronStableDiffusionXLPipeline

    theirs = NeuronStableDiffusionXLPipeline.from_pretrained(compiled)
    theirs.set_progress_bar_config(disable=True)
    request = ask()
    latents = draw_stock(theirs, request, "latent")
    assert (drawn(ours, request).latents[0] - latents).abs().max() <= TOLERANCE


def test_pictures_at_different_steps_share_a_call_and_stay_themselves(ours: SdxlPipeline, stock: Any) -> None:
    rows: list[list[float]] = []
    unet = ours._unet
    call = unet._call

    def watched(sample: torch.Tensor, timestep: torch.Tensor, *texts: torch.Tensor) -> Any:
        rows.append(timestep.tolist())
        return call(sample, timestep, *texts)

    requests = [
        ask("a dog", guidance_scale=0.0, num_inference_steps=9),
        ask("the sea", guidance_scale=0.0, seed=8),
    ]
    first = ours.prepare(requests[0], 0)
    unet._call = watched
    try:
        for _ in range(3):
            advance(ours, [first])
        second = ours.prepare(requests[1], 0)
        finish(ours, [first, second])
    finally:
        del unet._call
    assert [len(call) for call in rows] == [2] * 9, "every call has a row for each core"
    assert sum(call[0] != call[1] for call in rows) == 5, "pictures at steps of their own in one call"
    for request, state in zip(requests, (first, second), strict=True):
        assert (state.latents[0] - draw_stock(stock, request, "latent")).abs().max() <= TOLERANCE
        assert torch.equal(state.latents, drawn(ours, request).latents), "as alone, to the last bit"


def test_more_rows_and_their_multiples(compile_model: Compile, stock: Any) -> None:
    folder = compile_model("--batch-size", "2", "--dynamic-batch-size")
    pipeline = load(folder, max_rows=10)
    assert pipeline.capabilities.fixed_rows == (4, 8)
    assert pipeline.capabilities.max_rows == 8
    assert load(folder, max_rows=10, exact_batches=True).capabilities.fixed_rows == (8,)
    requests = [ask("a cat", seed=1), ask("a dog", seed=2), ask("the sea", guidance_scale=0.0, seed=3)]
    states = [pipeline.prepare(request, 0) for request in requests]
    finish(pipeline, states)  # five rows, filled up to eight: two calls of two on each core
    for request, state in zip(requests, states, strict=True):
        assert (state.latents[0] - draw_stock(stock, request, "latent")).abs().max() <= TOLERANCE
        assert len(pipeline.decode(state).rgb) == 3 * WIDTH * HEIGHT


def test_capabilities_and_defaults_are_the_compiled_models(ours: SdxlPipeline) -> None:
    can = ours.capabilities
    assert (can.fixed_sizes, can.fixed_rows, can.max_rows) == (((WIDTH, HEIGHT),), (2,), 2)
    assert (can.guidance, can.previews, can.max_prompt_tokens) == (True, True, 75)
    assert "euler_a" in can.scheduler_names
    assert (ours.defaults.width, ours.defaults.height) == (WIDTH, HEIGHT)
    assert (ours.defaults.num_inference_steps, ours.defaults.guidance_scale) == (30, 5.0)


@pytest.mark.parametrize(("field", "changes"), [
    ("prompt", {"prompt": LONG}),
    ("negative_prompt", {"negative_prompt": LONG}),
])  # fmt: skip
def test_long_texts_are_refused_by_the_name_of_their_field(
    ours: SdxlPipeline, field: str, changes: dict[str, str]
) -> None:
    with pytest.raises(UnsupportedRequest, match="at most 75") as refused:
        ours.prepare(ask(**changes), 0)
    assert refused.value.field == field


def test_other_sizes_are_refused(ours: SdxlPipeline) -> None:
    from serve_app.capabilities import PoolFacts

    facts = PoolFacts("inf2", "m", "neuron", ours.defaults, ours.capabilities)
    assert RequestDraft("x").for_pool(facts).width == WIDTH
    with pytest.raises(UnsupportedRequest, match=f"allowed: {WIDTH}x{HEIGHT}") as refused:
        RequestDraft("x", width=128, height=128).for_pool(facts)
    assert refused.value.field == "size"


Damage = Callable[[Path], object]


def change(folder: Path, part: str, **values: object) -> None:
    """Changes a part's section ``neuron``."""
    file = folder / part / "config.json"
    config = json.loads(file.read_text())
    config["neuron"].update(values)
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda folder: (folder / "unet" / "model.neuron").write_bytes(b"x"),
            "cannot be loaded onto 2 Neuron",
        ),
        (lambda folder: (folder / "vae_decoder" / "model.neuron").unlink(), "model.neuron is missing"),
        (lambda folder: change(folder, "unet", compiler_version="99.1"), "99.1, which is newer"),
        (lambda folder: change(folder, "unet", static_width=16), "different shapes"),
    ],
    ids=["damaged", "incomplete", "newer", "mixed"],
)
def test_models_that_cannot_work_are_refused(
    compiled: Path, tmp_path: Path, damage: Damage, sentence: str
) -> None:
    folder = shutil.copytree(compiled, tmp_path / "model")
    damage(folder)
    with pytest.raises(ConfigurationError, match=sentence):
        load(folder)


def test_a_model_of_another_device_is_refused(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(compiled, tmp_path / "model")
    change(folder, "unet", instance_type="trn2")
    from optimum.neuron.utils import instance

    monkeypatch.setattr(instance, "current_instance_type", lambda: "trn1")
    with pytest.raises(ConfigurationError, match="compiled for trn2"):
        load(folder)


def test_a_model_that_is_not_compiled_is_refused(model: Path) -> None:
    with pytest.raises(ConfigurationError, match="imagine compile --accelerator neuron"):
        load(model)


def test_a_compiled_model_is_for_this_accelerator_only(compiled: Path) -> None:
    with pytest.raises(ConfigurationError, match="use accelerator neuron"):
        accelerators.get("cpu").load_pipeline(PoolSettings(model=str(compiled), num_threads=1))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dtype": "bfloat16"}, "compiled for fp32"),
        ({"default_size": (64, 64)}, r"compiled for \[96, 64\]"),
        ({"max_pixels": 4096}, "raise it"),
    ],
)
def test_settings_that_a_compiled_model_cannot_follow_are_refused(
    compiled: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        load(compiled, **settings)


def test_one_core_is_too_few(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "3")
    with pytest.raises(ConfigurationError, match="has 1 Neuron cores"):
        load(compiled)


def test_missing_packages_are_named_with_the_remedy(compiled: Path) -> None:
    code = (
        "import sys; from serve_app import accelerators; from serve_app.settings import PoolSettings\n"
        "from serve_app.errors import ConfigurationError\n"
        "try: accelerators.get('neuron').load_pipeline(PoolSettings(model=sys.argv[1]))\n"
        "except ConfigurationError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(compiled)],
        env={**os.environ, "PYTHONPATH": str(STAND_IN.parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "AWS Neuron's packages do not work here" in done.stdout
    assert "docs/neuron.md" in done.stdout
