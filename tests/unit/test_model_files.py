"""What a person is told about a model that cannot be loaded."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from serve_app import model_files, model_source
from serve_app.errors import ConfigurationError
from serve_app.pipelines import loading, neuron_sdxl
from serve_app.pipelines.loading import download, load_sdxl
from serve_app.settings import PoolSettings


def load(model: object, variant: str | None = None) -> None:
    load_sdxl(
        PoolSettings(model=str(model), variant=variant), device=torch.device("cpu"), dtype=torch.float32
    )


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


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The cache of a hub that takes connections and says nothing, as behind some firewalls."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(model_source, "HUB_TIMEOUT_S", 0.2)
        yield tmp_path / "cache"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("take", [download, neuron_sdxl._download])
def test_a_hub_that_does_not_answer_is_not_waited_for(
    silent_hub: Path, tiny_sdxl: Path, take: Callable[[PoolSettings], Path]
) -> None:
    pool = PoolSettings(model="some-owner/some-model")
    with pytest.raises(ConfigurationError, match="hub cannot be reached"):
        take(pool)
    commit = "a" * 40
    repository = silent_hub / "models--some-owner--some-model"
    shutil.copytree(tiny_sdxl, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert take(pool) == repository / "snapshots" / commit


@pytest.mark.parametrize(
    ("there", "wanted", "taken"),
    [
        (["unet/diffusion_pytorch_model.safetensors"], None, None),
        (["unet/model.fp16.safetensors", "unet/model.safetensors"], None, None),
        (["unet/diffusion_pytorch_model.fp16.safetensors"], None, "fp16"),
        (["unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], None, "fp16"),
        (["unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors"], "fp16", "fp16"),
        (["unet/diffusion_pytorch_model-00001-of-00002.safetensors"], None, None),
    ],
)
def test_the_hub_too_is_asked_for_fp16_files_where_it_has_only_those(
    monkeypatch: pytest.MonkeyPatch, there: list[str], wanted: str | None, taken: str | None
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(loading, "hub_files", lambda pool: frozenset(there))

    def stock_download(model: str, *, variant: str | None, **options: object) -> str:
        asked.append(variant)
        return "folder"

    monkeypatch.setattr("diffusers.StableDiffusionXLPipeline.download", stock_download)
    download(PoolSettings(model="some-owner/some-model", variant=wanted))
    assert asked == [taken]


def test_a_variant_that_the_hub_does_not_have_is_no_matter_of_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        loading, "hub_files", lambda pool: {"unet/model.safetensors", "unet/model.bf16.safetensors"}
    )
    with pytest.raises(ConfigurationError, match="of variant fp16, only: bf16, without a variant"):
        download(PoolSettings(model="some-owner/some-model", variant="fp16"))
    monkeypatch.setattr(loading, "hub_files", lambda pool: {"unet/diffusion_pytorch_model.bin"})
    with pytest.raises(ConfigurationError, match="no safetensors weights of its UNet: take another"):
        download(PoolSettings(model="some-owner/some-model"))


def test_only_fp16_files(copy: Path) -> None:
    for file in copy.rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    assert model_files.choose_variant(copy, None) == "fp16"
    load(copy)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_part_without_the_variant_is_taken_as_it_is(copy: Path, variant: str | None) -> None:
    """As where somebody has put another VAE in."""
    for file in copy.rglob("*.safetensors"):
        if file.parent.name != "vae":
            file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    load(copy, variant)
    for file in (copy / "vae").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ConfigurationError, match="vae has no safetensors weights"):
        load(copy, variant)


def test_a_model_that_draws_over_pictures(copy: Path) -> None:
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 4', '"in_channels": 9'))
    with pytest.raises(ConfigurationError, match="inpainting or editing: its UNet takes 9 channels"):
        load(copy)


def test_a_hub_id_is_taken_from_the_first_model_dir_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "image" / "org" / "sdxl").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    dirs = [str(tmp_path / "empty"), str(tmp_path / "not-mounted"), str(tmp_path / "image")]
    assert model_files.local_folder("org/sdxl", dirs) == tmp_path / "image" / "org" / "sdxl"
    assert model_files.local_folder("org/other", dirs) is None
    assert model_files.local_folder("org/sdxl") is None
