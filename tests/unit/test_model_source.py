"""Finding models and reading their files without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from serve_app.errors import ConfigurationError
from serve_app.model_source import ModelSource, host_bytes, local_models, locate_model, model_defaults
from serve_app.settings import BUNDLED_MODEL, MODELS_DIR, PoolSettings


@pytest.fixture
def folder(tiny_sdxl: Path, tmp_path: Path) -> Path:
    """A copy of a tiny SDXL, for tests that change it."""
    return Path(shutil.copytree(tiny_sdxl, tmp_path / "model"))


def _scheduler(folder: Path, name: str, spacing: str, **more: object) -> None:
    config = {"_class_name": name, "timestep_spacing": spacing, **more}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))


def test_a_folder_is_found_and_weighed(tiny_sdxl: Path) -> None:
    pool = PoolSettings(model=str(tiny_sdxl))
    source = locate_model(pool)
    assert source == ModelSource(str(tiny_sdxl), "folder", tiny_sdxl)
    files = sum(file.stat().st_size for file in tiny_sdxl.glob("*/*.safetensors"))
    assert host_bytes(source, pool, 4) == pytest.approx(1.1 * files, rel=0.1)  # it is written in float32
    assert host_bytes(source, pool, 2) == pytest.approx(host_bytes(source, pool, 4) / 2, abs=1)
    assert host_bytes(ModelSource("a/b", "hub", None), pool, 2) == 0


def test_defaults_come_from_the_model_and_settings_win(folder: Path) -> None:
    pool = PoolSettings(model=str(folder))
    _scheduler(folder, "EulerDiscreteScheduler", "leading")
    base = model_defaults(folder, pool)
    assert (base.num_inference_steps, base.guidance_scale, base.scheduler_name) == (30, 5.0, "euler")
    _scheduler(folder, "EulerAncestralDiscreteScheduler", "trailing")
    turbo = model_defaults(folder, pool)
    assert (turbo.num_inference_steps, turbo.guidance_scale, turbo.scheduler_name) == (4, 0.0, "euler_a")
    _scheduler(folder, "LCMScheduler", "leading")
    assert model_defaults(folder, pool).num_inference_steps == 4
    own = pool.model_copy(
        update={"num_inference_steps": 7, "guidance_scale": 0.0, "default_size": (768, 512)}
    )
    chosen = model_defaults(folder, own)
    assert (chosen.width, chosen.height) == (768, 512)
    assert (chosen.num_inference_steps, chosen.guidance_scale) == (7, 0.0)


def test_a_model_of_zero_terminal_snr_is_not_taken_to_be_distilled(folder: Path) -> None:
    zero_snr = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    _scheduler(folder, "EulerDiscreteScheduler", "trailing", **zero_snr)
    base = model_defaults(folder, PoolSettings(model=str(folder)))
    assert (base.num_inference_steps, base.guidance_scale) == (30, 5.0)
    _scheduler(folder, "EulerDiscreteScheduler", "trailing", **zero_snr, _distilled=True)
    few = model_defaults(folder, PoolSettings(model=str(folder)))
    assert (few.num_inference_steps, few.guidance_scale) == (4, 0.0)
    bundled = model_defaults(MODELS_DIR / BUNDLED_MODEL, PoolSettings())
    assert (bundled.num_inference_steps, bundled.guidance_scale) == (4, 0.0)


def test_a_pools_only_sizes_hold_for_the_default_too(tiny_sdxl: Path) -> None:
    pool = PoolSettings(model=str(tiny_sdxl), sizes=[(64, 96), (96, 64)])
    defaults = model_defaults(tiny_sdxl, pool)
    assert (defaults.width, defaults.height) == (64, 96), "the model's own is none of them"
    pool = PoolSettings(model=str(tiny_sdxl), sizes=[(64, 96), (128, 128)])
    defaults = model_defaults(tiny_sdxl, pool)
    assert (defaults.width, defaults.height) == (128, 128)


def test_an_incomplete_folder_is_named_with_the_remedy(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="download the model again"):
        locate_model(PoolSettings(model=str(folder)))


def test_what_is_neither_folder_nor_id_is_refused() -> None:
    for model in ("/no/such/folder", "nothing", "./a/b", "a/b/c", "models/my model", "~/x", "a/b--c"):
        with pytest.raises(ConfigurationError, match="there is no model folder"):
            locate_model(PoolSettings(model=model))


def test_a_single_file_is_told_from_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "my-sdxl.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    for model in ("models/my-sdxl.safetensors", str(tmp_path / "models" / "my-sdxl.safetensors")):
        with pytest.raises(ConfigurationError, match=r"is a file: give a folder .*from_single_file"):
            locate_model(PoolSettings(model=model))


def test_local_models_skip_what_is_no_sdxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))
    assert [entry["model"] for entry in local_models()] == ["small-sdxl"]


def test_a_hub_id_without_network_names_the_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # An address where nothing listens: the hub's own client fails as it does without a network.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ConfigurationError, match=r"hub cannot be reached .* set MODEL to it, or use the bundled"
    ):
        locate_model(PoolSettings(model="stabilityai/sdxl-turbo"))
