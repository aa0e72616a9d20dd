"""Reading weights without a second copy: the same as diffusers reads, and what is wrong with a file is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from serve_app.errors import ConfigurationError
from serve_app.model_files import weight_files
from serve_app.pipelines.weights import read_model, read_tensors
from tools import make_sdxl


@pytest.fixture
def part(tiny_sdxl: Path, tmp_path: Path) -> Path:
    """A copy of the tiny UNet."""
    return Path(shutil.copytree(tiny_sdxl / "unet", tmp_path / "unet"))


def read(part: Path, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    return read_model(UNet2DConditionModel, part, weight_files(part, None), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_reads_what_diffusers_reads(part: Path, dtype: torch.dtype) -> None:
    ours, stock = read(part, dtype), UNet2DConditionModel.from_pretrained(part, dtype=dtype)
    expected = stock.state_dict()
    assert set(ours.state_dict()) == set(expected)
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected[name]), name


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_sdxl, "SHARD_BYTES", 200_000)
    part = make_sdxl.make_sdxl(tmp_path) / "unet"
    assert len(weight_files(part, None)) > 1
    stock = UNet2DConditionModel.from_pretrained(part).state_dict()
    for name, tensor in read(part).state_dict().items():
        assert torch.equal(tensor, stock[name]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_any_floating_type_and_shape(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "a": torch.randn(3, 5).to(dtype),
        "empty": torch.zeros(0, 4, dtype=dtype),
        "one": torch.ones((), dtype=dtype),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    found = dict(read_tensors(tmp_path / "x.safetensors"))
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)


class TestRefusals:
    def test_a_missing_weight(self, part: Path) -> None:
        file = part / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        tensors.pop("conv_in.weight")
        save_file(tensors, file)
        with pytest.raises(ConfigurationError, match=r"lacks conv_in\.weight"):
            read(part)

    def test_an_unknown_weight(self, part: Path) -> None:
        file = part / "diffusion_pytorch_model.safetensors"
        save_file(load_file(file) | {"conv_in.extra.weight": torch.ones(1)}, file)
        with pytest.raises(ConfigurationError, match=r"conv_in\.extra\.weight"):
            read(part)

    def test_a_weight_of_another_shape(self, part: Path) -> None:
        config = json.loads((part / "config.json").read_text())
        (part / "config.json").write_text(json.dumps(config | {"in_channels": 9}))
        with pytest.raises(ConfigurationError, match=r"conv_in\.weight is \[32, 4, 3, 3\].*\[32, 9, 3, 3\]"):
            read(part)

    def test_whole_numbers(self, tmp_path: Path) -> None:
        save_file({"a": torch.ones(3, dtype=torch.int8)}, tmp_path / "x.safetensors")
        with pytest.raises(ConfigurationError, match="type I8"):
            list(read_tensors(tmp_path / "x.safetensors"))

    def test_a_file_that_ends_early(self, part: Path) -> None:
        file = part / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(ConfigurationError, match="end is missing"):
            read(part)
