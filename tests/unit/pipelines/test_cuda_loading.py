"""The accelerator cuda's pipeline with a CPU in the device's place: every option."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serve_app.accelerators import cuda
from serve_app.engine import Engine
from serve_app.errors import ConfigurationError
from serve_app.pipelines import cuda_loading
from serve_app.pipelines.cuda_parts import FastVae
from serve_app.pipelines.graphs import Graphs, record_by_repeating
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.request import GenerationRequest
from serve_app.settings import PoolSettings
from tests.unit.pipelines.cuda_stand_in import NAMES, load, small, worst
from tests.unit.pipelines.drawing import Ends, Picture, array, busy, draw_alone

pytestmark = pytest.mark.usefixtures("one_thread")
MakeModel = Callable[..., Path]


def stock_picture(
    folder: Path, request: GenerationRequest, vae_dtype: torch.dtype = torch.float32
) -> Picture:
    from diffusers import StableDiffusionXLPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    picture = stock(
        request.prompt,
        height=request.height,
        width=request.width,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images[0]
    return np.asarray(picture).astype(np.int16)


@pytest.fixture(scope="module")
def fast(tiny_sdxl: Path) -> SdxlPipeline:
    return load(tiny_sdxl)


@pytest.fixture(scope="module")
def expected(tiny_sdxl: Path) -> Picture:
    return stock_picture(tiny_sdxl, small())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_graphs": 0},
        {"max_graphs": 1},
        {"fused_qkv": False},
        {"fused_layers": False},
        {"fused_qkv": False, "text_states_once": False},
        {"text_states_once": False},
        {"channels_last": False},
        {"attention": "cudnn"},
        {"cpu_offload": "encoders"},
        {"cpu_offload": "all"},
    ],
    ids=str,
)
def test_no_option_changes_the_picture(tiny_sdxl: Path, expected: Picture, options: dict[str, Any]) -> None:
    pipeline = load(tiny_sdxl, **options)
    for _ in range(2):  # the second time everything is recorded
        assert worst(array(draw_alone(pipeline, small())), expected) <= 2


def test_what_is_offloaded_is_called_as_a_whole(tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[int, bool] = {}

    def offload(part: torch.nn.Module, **options: Any) -> None:
        called[id(part)] = False
        part.register_forward_hook(lambda module, *_: called.update({id(module): True}))

    monkeypatch.setattr("diffusers.hooks.apply_group_offloading", offload)
    draw_alone(load(tiny_sdxl, cpu_offload="all"), small())
    assert len(called) == 4
    assert all(called.values()), (
        "diffusers would note its layers without end and never copy the next one ahead"
    )


@pytest.mark.parametrize("options", [{"guidance_embedding": True, "scheduler": "LCMScheduler"}], ids=str)
def test_models_with_other_inputs(make_model: MakeModel, options: dict[str, Any]) -> None:
    folder = make_model(**options)
    assert worst(array(draw_alone(load(folder), small())), stock_picture(folder, small())) <= 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
@pytest.mark.parametrize("how", ["blocks", "whole"])
def test_compiled_shapes_and_others(tiny_sdxl: Path, expected: Picture, how: str) -> None:
    pipeline = load(tiny_sdxl, max_rows=2, compile=how, warm_up_sizes=[(96, 64)], warm_up_rows=[2])
    assert pipeline.capabilities.fixed_rows == (2,)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled > 0
    assert worst(array(draw_alone(pipeline, small())), expected) <= 2
    other = small(width=64, height=128)
    assert worst(array(draw_alone(pipeline, other)), stock_picture(tiny_sdxl, other)) <= 2
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled, (
        "a request started the compiler"
    )
    torch.compiler.reset()


def test_pictures_together_equal_each_alone(fast: SdxlPipeline) -> None:
    requests = [
        small(scheduler_name=name, seed=seed, num_inference_steps=3) for seed, name in enumerate(NAMES)
    ]
    engine, ends = Engine(fast, max_rows=8), []
    for request in requests:
        ends.append(Ends())
        engine.submit(request, ends[-1])
    while busy(engine):
        engine.tick()
    for request, end in zip(requests, ends, strict=True):
        drawn: Any = end.ends[0]
        assert worst(array(drawn), array(draw_alone(fast, request))) <= 1


def test_the_batch_is_told_again_only_when_it_changes(fast: SdxlPipeline) -> None:
    states = [fast.prepare(small(seed=seed), 0) for seed in range(3)]
    fast.denoise_step(states)
    assert fast._joined is not None
    told = fast._joined[1]
    fast.denoise_step(states)
    assert fast._joined[1] is told
    fast.denoise_step(states[:2])
    assert fast._joined[1] is not told


def test_what_is_made_ready_can_be_asked_for(tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(cuda_loading, "_make_ready", lambda pipeline, ready, rows: sizes.extend(ready))
    cuda.stand_in(PoolSettings(model=str(tiny_sdxl), accelerator="cuda", sizes=[(64, 96)]))
    assert sizes == [(64, 96)], "the model's own size, which the pool refuses, was made ready"


class TestMemory:
    @pytest.mark.parametrize(
        ("message", "known"),
        [
            ("CUDA error: out of memory", True),
            ("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
            ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
            ("CUDA error: an illegal memory access was encountered", False),
        ],
    )
    def test_the_drivers_own_words_are_known(self, fast: SdxlPipeline, message: str, known: bool) -> None:
        assert fast.is_out_of_memory(RuntimeError(message)) is known
        assert fast.is_out_of_memory(torch.OutOfMemoryError())

    @pytest.mark.parametrize(
        ("message", "works"),
        [
            ("CUDA error: an illegal memory access was encountered", False),
            ("CUDA error: uncorrectable ECC error encountered", False),
            ("CUDA error: out of memory", True),
        ],
    )
    def test_a_device_that_answers_every_call_with_an_error_does_not_work(
        self, fast: SdxlPipeline, monkeypatch: pytest.MonkeyPatch, message: str, works: bool
    ) -> None:
        assert fast.works()

        def fails(*arguments: Any, **keywords: Any) -> torch.Tensor:
            raise RuntimeError(message)

        monkeypatch.setattr(torch, "zeros", fails)
        assert fast.works() is works

    def test_running_out_halves_the_rows_and_gives_recordings_up(
        self, tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pipeline = load(tiny_sdxl)
        unet = pipeline._unet._unet
        forward, most = unet.forward, 0

        def scarce(sample: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
            nonlocal most
            if len(sample) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            most = max(most, len(sample))
            return forward(sample, *arguments, **keywords)

        alone = array(draw_alone(pipeline, small()))
        assert len(pipeline._work._graphs) > 0  # type: ignore[attr-defined]
        monkeypatch.setattr(unet, "forward", scarce)
        engine, ends = Engine(pipeline, max_rows=8), []
        for _ in range(4):
            ends.append(Ends())
            engine.submit(small(), ends[-1])
        while busy(engine):
            engine.tick()
        assert most == 4
        for end in ends:
            drawn: Any = end.ends[0]
            assert worst(array(drawn), alone) <= 1

    def test_a_model_that_leaves_no_room_to_be_made_ready_is_refused_with_the_remedy(
        self, tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def scarce(unet: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

        monkeypatch.setattr(cuda_loading, "TextStates", scarce)
        with pytest.raises(ConfigurationError, match=r"allocate 1\.00 GiB\): .* cuda\.cpu_offload"):
            load(tiny_sdxl)


class TestVae:
    def test_its_type_follows_what_the_model_says(self, make_model: MakeModel, tmp_path: Path) -> None:
        assert load(make_model(), dtype="float16")._vae.dtype is torch.bfloat16
        assert load(make_model(), dtype="float16", vae_dtype="float32")._vae.dtype is torch.float32
        assert load(make_model(), dtype="bfloat16")._vae.dtype is torch.bfloat16
        repaired = shutil.copytree(make_model(), tmp_path / "repaired")
        config = repaired / "vae" / "config.json"
        text = config.read_text()
        assert '"force_upcast": true' in text
        config.write_text(text.replace('"force_upcast": true', '"force_upcast": false'))
        assert load(repaired, dtype="float16")._vae.dtype is torch.float16

    def test_bfloat16_stays_near(self, tiny_sdxl: Path, expected: Picture) -> None:
        drawn = array(draw_alone(load(tiny_sdxl, vae_dtype="bfloat16"), small()))
        assert 0 < worst(drawn, expected) <= 12

    def test_no_tile_is_larger_than_what_is_decoded_whole(self, tiny_sdxl: Path) -> None:
        vae = load(tiny_sdxl)._vae._vae
        vae.tile_sample_min_size, vae.tile_latent_min_size = 1024, 128  # as SDXL's own
        graphs = Graphs(record_by_repeating, most=0, max_rows=1)
        fast = FastVae(vae, graphs, tiling_above_px=600 * 512, pixels_per_latent=64, compiled=None)
        tiles: list[int] = []
        vae.decoder.register_forward_pre_hook(
            lambda _, arguments: tiles.append(64 * math.prod(arguments[0].shape[-2:]))
        )
        with torch.inference_mode():
            (image,) = fast.decode(torch.zeros(1, 4, 128, 72))
        assert image.shape[-2:] == (1024, 576)
        assert max(tiles) <= 600 * 512
        assert len(tiles) < 10, "tiles are as large as they may be"

    def test_large_pictures_are_decoded_in_tiles(self, tiny_sdxl: Path) -> None:
        pipeline = load(tiny_sdxl, vae_tiling_above_px=512 * 512)
        plain = load(tiny_sdxl)
        tiles: list[tuple[int, ...]] = []
        decoder = pipeline._vae._vae.decoder
        decoder.register_forward_pre_hook(lambda _, arguments: tiles.append(tuple(arguments[0].shape[-2:])))
        at_most = small(width=512, height=512, num_inference_steps=1, guidance_scale=0.0)
        larger = small(width=576, height=512, num_inference_steps=1, guidance_scale=0.0)
        assert worst(array(draw_alone(pipeline, at_most)), array(draw_alone(plain, at_most))) == 0
        assert tiles == [(64, 64)]
        tiled, whole = array(draw_alone(pipeline, larger)), array(draw_alone(plain, larger))
        assert len(tiles) > 5
        assert np.abs(tiled - whole).mean() < 12
        assert tiled.shape == whole.shape


class TestSkippingGuidance:
    def test_a_picture_goes_on_with_one_row(self, tiny_sdxl: Path, fast: SdxlPipeline) -> None:
        pipeline = load(tiny_sdxl, skip_guidance_after=0.5)
        state = pipeline.prepare(small(num_inference_steps=6), 0)
        rows = []
        while not state.finished:
            rows.append(state.rows)
            pipeline.denoise_step([state])
            state.step += 1
        assert rows == [2, 2, 2, 1, 1, 1]
        guided = array(draw_alone(fast, small(num_inference_steps=6)))
        assert worst(array(pipeline.decode(state)), guided) > 0

    def test_the_engine_accounts_for_every_row(self, tiny_sdxl: Path) -> None:
        engine, ends = Engine(load(tiny_sdxl, skip_guidance_after=0.3), max_rows=4), Ends()
        for seed in range(3):
            engine.submit(small(num_inference_steps=5, seed=seed), ends if seed == 0 else Ends())
        while busy(engine):
            engine.tick()
            assert engine.stats().last_step_rows <= 4
        assert len(ends.ends) == 1

    def test_off_by_default(self, fast: SdxlPipeline) -> None:
        state = fast.prepare(small(), 0)
        while not state.finished:
            assert state.rows == 2
            fast.denoise_step([state])
            state.step += 1


def test_fp8_is_nearly_the_picture_and_needs_its_type(tiny_sdxl: Path, expected: Picture) -> None:
    pipeline = load(tiny_sdxl, fp8=True)
    assert pipeline.dtype is torch.bfloat16
    difference = np.abs(array(draw_alone(pipeline, small())) - expected)
    assert 0 < difference.mean() < 8
    with pytest.raises(ConfigurationError, match="dtype auto or bfloat16"):
        load(tiny_sdxl, dtype="float32", fp8=True)


def test_fp8_is_refused_by_devices_that_do_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_app.pipelines import cuda_loading

    unet: Any = torch.nn.Linear(16, 16)
    unet.dtype = torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(ConfigurationError, match=r"cuda\.fp8 needs a GPU of compute capability 8\.9"):
        cuda_loading._check_fp8(unet, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cuda_loading._check_fp8(unet, torch.device("cuda"))
