"""Finding models and reading their files without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_app.errors import ConfigurationError
from serve_app.model_source import ModelSource, locate_model, model_defaults, only_variant, weight_bytes
from serve_app.settings import PoolSettings


def _safetensors(file: Path, shape: tuple[int, ...]) -> None:
    """A valid safetensors file with one float16 tensor of zeros."""
    count = 1
    for side in shape:
        count *= side
    header = json.dumps({"w": {"dtype": "F16", "shape": shape, "data_offsets": [0, 2 * count]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * count))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of an SDXL that are read without torch."""
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    for component in ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler"):
        (tmp_path / component).mkdir()
    for component, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("text_encoder_2", "model"),
    ):
        _safetensors(tmp_path / component / f"{name}.safetensors", (10, 5))
    (tmp_path / "unet" / "config.json").write_text('{"sample_size": 64}')
    (tmp_path / "vae" / "config.json").write_text('{"block_out_channels": [1, 2, 3, 4]}')
    _scheduler(tmp_path, "EulerDiscreteScheduler", "leading")
    return tmp_path


def _scheduler(folder: Path, name: str, spacing: str) -> None:
    config = {"_class_name": name, "timestep_spacing": spacing}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))


def test_a_folder_is_found_and_weighed(folder: Path) -> None:
    pool = PoolSettings(model=str(folder))
    source = locate_model(pool)
    assert source == ModelSource(str(folder), "folder", folder)
    assert weight_bytes(source, pool, bytes_per_value=2) == 4 * 50 * 2
    assert weight_bytes(source, pool, bytes_per_value=4) == 4 * 50 * 4


def test_defaults_come_from_the_model_and_settings_win(folder: Path) -> None:
    pool = PoolSettings(model=str(folder))
    base = model_defaults(folder, pool)
    assert (base.width, base.height, base.num_inference_steps, base.guidance_scale) == (512, 512, 30, 5.0)
    _scheduler(folder, "EulerAncestralDiscreteScheduler", "trailing")
    turbo = model_defaults(folder, pool)
    assert (turbo.num_inference_steps, turbo.guidance_scale) == (4, 0.0)
    _scheduler(folder, "LCMScheduler", "leading")
    assert model_defaults(folder, pool).num_inference_steps == 4
    own = pool.model_copy(
        update={"num_inference_steps": 7, "guidance_scale": 0.0, "default_size": (768, 512)}
    )
    chosen = model_defaults(folder, own)
    assert (chosen.width, chosen.height, chosen.num_inference_steps, chosen.guidance_scale) == (
        768,
        512,
        7,
        0.0,
    )


def test_only_fp16_files_are_taken_as_such(folder: Path) -> None:
    assert only_variant(folder) is None
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    )
    assert only_variant(folder) == "fp16"
    assert locate_model(PoolSettings(model=str(folder))).source == "folder"


@pytest.mark.parametrize(
    ("breakage", "sentence"),
    [
        (lambda f: (f / "model_index.json").unlink(), "no readable model_index.json"),
        (lambda f: (f / "model_index.json").write_text("{"), "no readable model_index.json"),
        (
            lambda f: (f / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'),
            "only StableDiffusionXL",
        ),
        (lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "never loaded"),
    ],
)
def test_a_broken_folder_is_named_with_the_remedy(folder: Path, breakage: object, sentence: str) -> None:
    breakage(folder)  # type: ignore[operator]
    with pytest.raises(ConfigurationError, match=sentence):
        locate_model(PoolSettings(model=str(folder)))


def test_what_is_neither_folder_nor_id_is_refused() -> None:
    for model in ("/no/such/folder", "nothing", "./a/b", "a/b/c"):
        with pytest.raises(ConfigurationError, match="neither"):
            locate_model(PoolSettings(model=model))


def test_a_hub_id_without_network_names_the_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # An address where nothing listens: the hub's own client fails as it does without a network.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ConfigurationError, match=r"hub cannot be reached .* set MODEL to it, or use the bundled"
    ):
        locate_model(PoolSettings(model="stabilityai/sdxl-turbo"))
