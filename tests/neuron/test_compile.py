"""``imagine compile`` with the real exporter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from serve_app.neuron_model import read_compiled
from tests.neuron.conftest import HEIGHT, STAND_IN, WIDTH, Compile, imagine


def test_the_result_is_complete_and_for_what_was_asked(compiled: Path) -> None:
    limits = read_compiled(compiled)
    assert (limits.width, limits.height, limits.unet_batch, limits.rows) == (WIDTH, HEIGHT, 1, 2)
    assert (limits.sequence_length, limits.float_dtype, limits.instance_type) == (77, "fp32", "inf2")
    assert not limits.dynamic_batch_size
    for part in ("unet", "text_encoder", "text_encoder_2", "vae_decoder", "vae_encoder"):
        assert (compiled / part / "model.neuron").is_file()
    assert [file.name for file in compiled.parent.iterdir()] == [compiled.name], (
        "no unfinished folder is left"
    )


def test_rows_and_their_multiples_can_be_asked_for(compile_model: Compile) -> None:
    limits = read_compiled(compile_model("--batch-size", "2", "--dynamic-batch-size"))
    assert (limits.unet_batch, limits.text_batch, limits.decoder_batch) == (2, 2, 2)
    assert limits.dynamic_batch_size


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--accelerator", "cpu"], "runs models as they are"),
        (["--width", "100"], "width 100 is not a multiple of 8 pixels"),
        (["--model", "/no/such/folder"], "there is no model folder"),
        (["--instance-type", "inf1"], "invalid choice: 'inf1'"),  # the exporter's own words
    ],
)
def test_what_cannot_work_is_said_and_leaves_nothing(
    model: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    done = imagine("compile", "--model", model, *options, "--json", tmp_path / "out")
    assert done.status == 1
    assert sentence in json.loads(done.output)["error"]
    assert "Traceback" not in done.errors
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(model: Path, compiled: Path) -> None:
    before = (compiled / "unet" / "model.neuron").stat()
    done = imagine("compile", "--model", model, compiled)
    assert done.status == 1
    assert "is there already" in done.errors
    assert (compiled / "unet" / "model.neuron").stat() == before


def test_a_compiled_model_is_not_compiled_again(compiled: Path, tmp_path: Path) -> None:
    done = imagine("compile", "--model", compiled, tmp_path / "out")
    assert done.status == 1
    assert "is compiled for Neuron" in done.errors


def test_weights_that_the_exporter_cannot_read_are_refused(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "fp16")
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    done = imagine("compile", "--model", folder, tmp_path / "out")
    assert done.status == 1
    assert "only weights of variant fp16" in done.errors


def test_missing_packages_are_named_with_the_remedy(model: Path, tmp_path: Path) -> None:
    done = imagine("compile", "--model", model, tmp_path / "out", PYTHONPATH=str(STAND_IN.parents[2]))
    assert done.status == 1
    assert "torch_neuronx, neuronxcc cannot be imported" in done.errors
    assert "docs/neuron.md" in done.errors
