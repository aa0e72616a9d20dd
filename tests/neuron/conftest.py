"""A tiny SDXL, compiled by the service's own command. Runs in its own environment: ``make test-neuron``."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

STAND_IN = Path(__file__).parent / "stand_in"

if importlib.util.find_spec("optimum") is None or importlib.util.find_spec("torch_neuronx") is None:
    raise pytest.UsageError("these tests have an environment of their own: run `make test-neuron`")

WIDTH, HEIGHT = 96, 64


@dataclass(frozen=True)
class Done:
    """A finished command.

    Attributes:
        status: Its exit status.
        output: What it printed.
        errors: What it said on the side.
    """

    status: int
    output: str
    errors: str


def imagine(*arguments: str | Path, **environment: str) -> Done:
    """Runs ``imagine`` as a person does; `environment` is added to this process's own."""
    done = subprocess.run(
        [sys.executable, "-m", "serve_app.cli", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is compiled; its name has a space, as folders of users have."""
    from tools.make_sdxl import make_sdxl

    return make_sdxl(tmp_path_factory.mktemp("models") / "tiny sdxl")


Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def compile_model(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles the tiny model with more options, once for each set of them."""
    known: dict[tuple[str, ...], Path] = {}

    def compiled(*options: str) -> Path:
        if options not in known:
            folder = tmp_path_factory.mktemp("compiled") / "out"
            size = ("--width", str(WIDTH), "--height", str(HEIGHT))
            done = imagine("compile", "--model", model, *size, *options, "--json", folder)
            assert done.status == 0, done.errors
            assert json.loads(done.output)["model"] == str(folder)
            known[options] = folder
        return known[options]

    return compiled


@pytest.fixture(scope="session")
def compiled(compile_model: Compile) -> Path:
    """The tiny model, one row on each core."""
    return compile_model()


@pytest.fixture(scope="session")
def stock(model: Path) -> Any:
    """Plain diffusers with the model that was compiled."""
    from diffusers import StableDiffusionXLPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionXLPipeline.from_pretrained(model, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
