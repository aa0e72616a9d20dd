"""The contract of every file of ``serve_app/accelerators``: a new file is held to it as soon as it is there.

A device that this machine lacks is stood in for by the file's own ``stand_in``; see ``docs/accelerators.md``.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app import accelerators
from serve_app.accelerators.base import Accelerator
from serve_app.capabilities import Capabilities, ModelDefaults
from serve_app.engine.pipeline import StepPipeline
from serve_app.engine.state import ImageState
from serve_app.request import GenerationRequest
from serve_app.result import Pixels
from serve_app.settings import PoolSettings

NAMES = accelerators.names()
DRAW_NO_MODEL = {"fake"}
HEAVY = {"torch", "diffusers", "transformers", "ray", "fastapi", "optimum"}
RAY_ACTOR_OPTIONS = {
    "num_cpus",
    "num_gpus",
    "resources",
    "memory",
    "accelerator_type",
    "label_selector",
    "runtime_env",
}
TOLERANCE = 2  # of 255


def module_of(name: str) -> Any:
    return importlib.import_module(f"serve_app.accelerators.{name}")


def test_every_file_is_an_accelerator() -> None:
    folder = Path(accelerators.__file__).parent
    files = {file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")} - {"base"}
    assert set(NAMES) == files
    assert {"cpu", "cuda", "fake"} <= files


@pytest.mark.parametrize("name", NAMES)
def test_no_torch_is_imported_before_a_model_is_loaded(name: str) -> None:
    program = (
        f"import sys; from serve_app import accelerators as a; from serve_app.settings import PoolSettings\n"
        f"x = a.get({name!r}); pool = PoolSettings(); x.name; x.available(); x.ray_actor_options(pool)\n"
        f"x.host_bytes_per_weight(pool); a.choose('auto')\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
class TestTorchFree:
    def test_its_name_is_its_files(self, name: str) -> None:
        accelerator = accelerators.get(name)
        assert isinstance(accelerator, Accelerator)
        assert accelerator.name == name

    def test_it_says_whether_auto_may_take_it(self, name: str) -> None:
        assert hasattr(module_of(name), "AUTO_RANK"), f"{name}.py says no AUTO_RANK: auto would never take it"
        rank = module_of(name).AUTO_RANK
        assert rank is None or isinstance(rank, int)
        others = [module_of(other).AUTO_RANK for other in NAMES if other != name]
        assert rank is None or rank not in others

    def test_it_knows_whether_it_is_here(self, name: str) -> None:
        assert accelerators.get(name).available() in (True, False)

    def test_what_a_replica_reserves(self, name: str) -> None:
        accelerator = accelerators.get(name)
        own = accelerator.ray_actor_options(PoolSettings())
        assert own["num_cpus"] > 0
        assert set(own) <= RAY_ACTOR_OPTIONS
        asked = PoolSettings(ray_actor_options={"num_cpus": 3, "resources": {"special": 1}})
        merged = accelerator.ray_actor_options(asked)
        assert merged["num_cpus"] == 3
        assert merged["resources"]["special"] == 1
        assert set(own) <= set(merged)
        json.dumps(merged)

    def test_host_memory_is_a_number_of_bytes(self, name: str) -> None:
        assert accelerators.get(name).host_bytes_per_weight(PoolSettings()) in range(9)


@pytest.fixture(scope="module", params=NAMES)
def loaded(request: pytest.FixtureRequest, tiny_sdxl: Path) -> Iterator[tuple[str, StepPipeline]]:
    """(name, pipeline) on the device, or else on what stands in for it."""
    name = request.param
    pool = PoolSettings(model=str(tiny_sdxl), dtype="float32", num_threads=1, max_rows=4)
    if accelerators.get(name).available():
        yield name, accelerators.get(name).load_pipeline(pool)
    elif hasattr(module_of(name), "stand_in"):
        yield name, module_of(name).stand_in(pool)
    else:
        pytest.skip(f"this machine has no {name}, and {name}.py has no stand_in")


def ask(pipeline: StepPipeline, **changes: Any) -> GenerationRequest:
    """What any pipeline can draw: one of its own sizes, with guidance where it can."""
    facts = pipeline.capabilities
    width, height = facts.fixed_sizes[0] if facts.fixed_sizes else (128, 64)
    values: dict[str, Any] = {
        "request_id": "a",
        "prompt": "a cat in a hat",
        "negative_prompt": "",
        "width": width,
        "height": height,
        "num_inference_steps": 5,
        "guidance_scale": 5.0 if facts.guidance else 0.0,
        "seed": 7,
    }
    return GenerationRequest(**{**values, **changes})


def step(pipeline: StepPipeline, states: list[ImageState]) -> None:
    pipeline.denoise_step(states)
    for state in states:
        state.step += 1


def draw(pipeline: StepPipeline, request: GenerationRequest) -> Pixels:
    state = pipeline.prepare(request, 0)
    while not state.finished:
        step(pipeline, [state])
    return pipeline.decode(state)


def array(pixels: Pixels) -> Any:
    flat = np.frombuffer(pixels.rgb, dtype=np.uint8).astype(np.int16)
    return flat.reshape(pixels.height, pixels.width, 3)


class TestLoaded:
    def test_says_what_it_can_draw(self, loaded: tuple[str, StepPipeline]) -> None:
        _, pipeline = loaded
        assert isinstance(pipeline, StepPipeline)
        assert isinstance(pipeline.capabilities, Capabilities)
        assert isinstance(pipeline.defaults, ModelDefaults)
        assert pipeline.capabilities.max_rows >= 1
        assert all(rows <= pipeline.capabilities.max_rows for rows in pipeline.capabilities.fixed_rows)
        request = ask(pipeline)
        assert (
            pipeline.capabilities.problem(
                height=request.height,
                width=request.width,
                num_inference_steps=request.num_inference_steps,
                guided=request.guided,
                scheduler_name=None,
            )
            is None
        )

    def test_a_picture_goes_from_text_to_pixels(self, loaded: tuple[str, StepPipeline]) -> None:
        _, pipeline = loaded
        request = ask(pipeline, num_images=2)
        state = pipeline.prepare(request, 1)
        assert isinstance(state, ImageState)
        assert (state.request, state.index, state.step) == (request, 1, 0)
        assert state.rows in (1, 2)
        assert state.total_steps >= request.num_inference_steps
        hash(state.batch_key)
        assert pipeline.prepare(request, 0).batch_key == state.batch_key
        while not state.finished:
            before = state.step
            pipeline.denoise_step([state])
            assert state.step == before, "the engine counts, not the pipeline"
            assert state.rows in (1, 2)
            state.step += 1
        pixels = pipeline.decode(state)
        assert (pixels.width, pixels.height) == (request.width, request.height)
        assert len(pixels.rgb) == 3 * request.width * request.height
        preview = pipeline.preview(state)
        assert preview is None or len(preview.rgb) == 3 * preview.width * preview.height

    def test_only_the_seed_and_the_request_decide(self, loaded: tuple[str, StepPipeline]) -> None:
        _, pipeline = loaded
        one, again = draw(pipeline, ask(pipeline)), draw(pipeline, ask(pipeline))
        assert one.rgb == again.rgb
        assert draw(pipeline, ask(pipeline, seed=8)).rgb != one.rgb
        # Picture 1 of a request has the seed after picture 0's.
        state = pipeline.prepare(ask(pipeline, seed=6, num_images=2), 1)
        while not state.finished:
            step(pipeline, [state])
        assert pipeline.decode(state).rgb == one.rgb

    def test_pictures_join_and_leave_at_any_step(self, loaded: tuple[str, StepPipeline]) -> None:
        _, pipeline = loaded
        requests = [ask(pipeline, seed=seed, num_inference_steps=steps) for seed, steps in ((1, 5), (2, 3))]
        first, second = (pipeline.prepare(request, 0) for request in requests)
        step(pipeline, [first])
        step(pipeline, [first])
        rows = pipeline.capabilities.max_rows
        while not (first.finished and second.finished):
            running = [state for state in (first, second) if not state.finished]
            if sum(state.rows for state in running) <= rows:
                step(pipeline, running)
            else:
                for state in running:
                    step(pipeline, [state])
        for state, request in zip((first, second), requests, strict=True):
            together, alone = array(pipeline.decode(state)), array(draw(pipeline, request))
            assert np.abs(together - alone).max() <= 1

    def test_it_knows_when_memory_ran_out(self, loaded: tuple[str, StepPipeline]) -> None:
        _, pipeline = loaded
        assert pipeline.is_out_of_memory(MemoryError())
        assert not pipeline.is_out_of_memory(RuntimeError("shapes do not match"))
        assert pipeline.works()

    @pytest.mark.parametrize("guidance_scale", [0.0, 5.0])
    def test_it_draws_what_stock_draws(
        self, loaded: tuple[str, StepPipeline], tiny_sdxl: Path, guidance_scale: float
    ) -> None:
        name, pipeline = loaded
        if name in DRAW_NO_MODEL:
            pytest.skip(f"{name} draws no model's pictures")
        if guidance_scale and not pipeline.capabilities.guidance:
            pytest.skip(f"{name} cannot guide this model")
        import torch
        from diffusers import StableDiffusionXLPipeline

        request = ask(pipeline, guidance_scale=guidance_scale)
        stock = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl, add_watermarker=False)
        stock.set_progress_bar_config(disable=True)
        expected = stock(
            request.prompt,
            height=request.height,
            width=request.width,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
        ).images[0]
        theirs = np.asarray(expected).astype(np.int16)
        assert theirs.std() > 5, "a flat picture would prove nothing"
        assert np.abs(array(draw(pipeline, request)) - theirs).max() <= TOLERANCE
