"""What a person is told about a model that cannot be loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from serve_app import model_files
from serve_app.errors import ConfigurationError
from serve_app.pipelines.loading import load_sdxl
from serve_app.settings import PoolSettings


def load(model: object) -> None:
    load_sdxl(PoolSettings(model=str(model)), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def copy(tiny_sdxl: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sdxl, tmp_path / "model"))


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no model folder"):
        load(tmp_path / "nothing")


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model_index\.json is missing"):
        load(tmp_path)


@pytest.mark.parametrize(
    "part", ["unet/diffusion_pytorch_model.safetensors", "text_encoder_2/config.json", "tokenizer"]
)
def test_an_incomplete_folder(copy: Path, part: str) -> None:
    victim = copy / part
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    with pytest.raises(ConfigurationError, match="download the model again"):
        load(copy)


def test_a_file_cut_short(copy: Path) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ConfigurationError, match="damaged"):
        load(copy)


def test_pickles_are_refused(copy: Path) -> None:
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (copy / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="pickles"):
        load(copy)


def test_another_kind_of_model(copy: Path) -> None:
    index = copy / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionXLPipeline", "FluxPipeline"))
    with pytest.raises(ConfigurationError, match="FluxPipeline"):
        load(copy)


def test_too_little_memory(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "available_memory_bytes", lambda: 1_000_000)
    with pytest.raises(ConfigurationError, match="GB of memory"):
        load(copy)


def test_a_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="hub cannot be reached"):
        load("some-owner/some-model")


def test_only_fp16_files(copy: Path) -> None:
    for file in copy.rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    assert model_files.choose_variant(copy, None) == "fp16"
    load(copy)


def test_a_hub_id_is_taken_from_the_first_model_dir_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "image" / "org" / "sdxl").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    dirs = [str(tmp_path / "empty"), str(tmp_path / "not-mounted"), str(tmp_path / "image")]
    assert model_files.local_folder("org/sdxl", dirs) == tmp_path / "image" / "org" / "sdxl"
    assert model_files.local_folder("org/other", dirs) is None
    assert model_files.local_folder("org/sdxl") is None
