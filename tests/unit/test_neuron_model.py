"""What a compiled model's own files say, without AWS's packages or a device."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.errors import ConfigurationError
from serve_app.model_source import ModelSource, host_bytes, locate_model, model_defaults
from serve_app.neuron_model import read_compiled
from serve_app.settings import PoolSettings
from tests.unit.compiled_model import change, write, write_compiled_model

Damage = Callable[[Path], object]


def test_limits_become_capabilities(tmp_path: Path) -> None:
    compiled = read_compiled(write_compiled_model(tmp_path, batch=2))
    assert (compiled.width, compiled.height) == (768, 1024)
    assert (compiled.unet_batch, compiled.text_batch, compiled.decoder_batch, compiled.rows) == (2, 2, 2, 4)
    can = compiled.capabilities(max_rows=64, exact_batches=False)
    assert (can.max_rows, can.fixed_rows, can.fixed_sizes) == (4, (4,), ((768, 1024),))
    assert can.max_prompt_tokens == 75
    assert can.problem(height=1024, width=1024, num_inference_steps=1, guided=True, scheduler_name=None) == (
        "size",
        "1024x1024 cannot be drawn here; allowed: 768x1024",
    )


def test_a_dynamic_batch_takes_multiples_up_to_the_pools_rows(tmp_path: Path) -> None:
    compiled = read_compiled(write_compiled_model(tmp_path, dynamic_batch_size=True))
    assert compiled.capabilities(max_rows=7, exact_batches=False).fixed_rows == (2, 4, 6)
    assert compiled.capabilities(max_rows=7, exact_batches=True).fixed_rows == (6,)
    change(tmp_path, "text_encoder", dynamic_batch_size=False)  # optimum-neuron asks this one
    assert read_compiled(tmp_path).capabilities(max_rows=7, exact_batches=False).fixed_rows == (2,)


def test_older_exporters_wrote_less(tmp_path: Path) -> None:
    write_compiled_model(tmp_path)
    for part in ("unet", "text_encoder", "text_encoder_2", "vae_decoder"):
        change(
            tmp_path,
            part,
            float_dtype=None,
            instance_type=None,
            static_sequence_length=None,
            tensor_parallel_size=None,
        )
    compiled = read_compiled(tmp_path)
    assert (compiled.sequence_length, compiled.float_dtype, compiled.instance_type) == (77, "fp32", None)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "unet" / "model.neuron").unlink(), "unet is incomplete: model.neuron"),
        (lambda folder: (folder / "text_encoder_2" / "config.json").unlink(), r"config\.json is missing"),
        (lambda folder: write(folder / "vae_decoder" / "config.json", {}), "its section neuron"),
        (lambda folder: (folder / "tokenizer").rmdir(), "tokenizer/ is missing"),
        (lambda folder: (folder / "model_index.json").unlink(), r"model_index\.json is missing"),
        (lambda folder: write(folder / "model_index.json", {"_class_name": "FluxPipeline"}), "FluxPipeline"),
        (lambda folder: change(folder, "vae_decoder", static_height=64), "different shapes"),
        (lambda folder: change(folder, "text_encoder", static_sequence_length=64), "different shapes"),
        (lambda folder: change(folder, "text_encoder", static_batch_size=3), "different shapes"),
        (lambda folder: change(folder, "unet", static_batch_size=None), "does not say its static_batch_size"),
        (lambda folder: change(folder, "unet", compiler_type="neuron-cc"), "compiled by neuron-cc"),
        (lambda folder: change(folder, "text_encoder_2", tensor_parallel_size=8), "divided among 8 cores"),
        (lambda folder: _guidance_as_input(folder), "takes guidance as an input"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, damage: Damage, sentence: str) -> None:
    folder = write_compiled_model(tmp_path)
    damage(folder)
    with pytest.raises(ConfigurationError, match=sentence):
        read_compiled(folder)


def _guidance_as_input(folder: Path) -> None:
    file = folder / "unet" / "config.json"
    write(file, {**json.loads(file.read_text()), "time_cond_proj_dim": 256})


def test_the_model_it_was_compiled_from_is_told_apart(tiny_sdxl: Path) -> None:
    with pytest.raises(ConfigurationError, match="imagine compile --accelerator neuron"):
        read_compiled(tiny_sdxl)


def test_it_is_found_and_weighed_before_anything_starts(tmp_path: Path) -> None:
    folder = write_compiled_model(tmp_path)
    pool = PoolSettings(model=str(folder), accelerator="neuron")
    source = locate_model(pool)
    assert source == ModelSource(str(folder), "folder", folder)
    assert host_bytes(source, pool, 0) == 100, "its largest graph"
    shutil.rmtree(folder / "vae_decoder")
    with pytest.raises(ConfigurationError, match="vae_decoder"):
        locate_model(pool)


def test_defaults_have_the_only_size(tmp_path: Path) -> None:
    pool = PoolSettings(model=str(write_compiled_model(tmp_path)))
    defaults = model_defaults(tmp_path, pool, size=(768, 1024))
    assert (defaults.width, defaults.height, defaults.num_inference_steps) == (768, 1024, 30)
