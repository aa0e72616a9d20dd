"""What `imagine compile` refuses before the exporter; the exporter itself runs in ``tests/neuron``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app import neuron_compile
from serve_app.cli import app
from serve_app.errors import ConfigurationError
from serve_app.neuron_compile import CompileOptions, compile_for_neuron
from serve_app.settings import PoolSettings
from tests.unit.compiled_model import write_compiled_model


def test_missing_packages_are_named_with_the_remedy(tiny_sdxl: Path, tmp_path: Path) -> None:
    arguments = ["compile", "--model", str(tiny_sdxl), "--json", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    error = json.loads(done.stdout.splitlines()[0])["error"]
    assert "torch_neuronx" in error
    assert "docs/neuron.md" in error
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def _packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron_compile, "_PACKAGES", ())


def compiling(model: Path, output: Path, *, height: int | None = None) -> None:
    compile_for_neuron(PoolSettings(model=str(model)), CompileOptions(height=height), output, on_line=print)


@pytest.mark.usefixtures("_packages")
def test_a_size_that_the_exporter_would_round_is_refused(tiny_sdxl: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="height 100 is not a multiple of 8 pixels"):
        compiling(tiny_sdxl, tmp_path / "out", height=100)


@pytest.mark.usefixtures("_packages")
def test_a_compiled_model_and_a_folder_in_use_are_refused(tiny_sdxl: Path, tmp_path: Path) -> None:
    compiled = write_compiled_model(tmp_path / "compiled")
    with pytest.raises(ConfigurationError, match="is compiled for Neuron"):
        compiling(compiled, tmp_path / "out")
    with pytest.raises(ConfigurationError, match="is there already"):
        compiling(tiny_sdxl, compiled)


@pytest.mark.usefixtures("_packages")
def test_an_exporter_that_fails_or_is_killed_leaves_nothing(
    tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    monkeypatch.setattr("sys.executable", str(program))
    for script, sentence in (
        ("echo no such thing; exit 3", "status 3:\nno such thing"),
        ("kill -9 $$", "memory"),
    ):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        with pytest.raises(ConfigurationError, match=sentence):
            compiling(tiny_sdxl, tmp_path / "models" / "out")
        assert list((tmp_path / "models").iterdir()) == []
