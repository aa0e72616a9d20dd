"""The contract of every file of ``serve_app/accelerators``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app import accelerators
from serve_app.accelerators.base import Accelerator
from serve_app.accelerators.cpu import has_native_bf16
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import ConfigurationError
from serve_app.settings import PoolSettings


def test_every_file_is_an_accelerator_by_its_own_name() -> None:
    folder = Path(accelerators.__file__).parent
    files = {file.stem for file in folder.glob("*.py")} - {"__init__", "base"}
    assert set(accelerators.names()) == files
    assert {"cpu", "fake"} <= files


@pytest.mark.parametrize("name", accelerators.names())
def test_contract(name: str) -> None:
    accelerator = accelerators.get(name)
    assert isinstance(accelerator, Accelerator)
    assert accelerator.name == name
    assert isinstance(accelerator.available(), bool)
    options = accelerator.ray_actor_options(PoolSettings(ray_actor_options={"resources": {"special": 1}}))
    assert options["num_cpus"] > 0
    assert options["resources"] == {"special": 1}
    json.dumps(options)


def test_no_file_imports_torch() -> None:
    code = (
        "import sys; from serve_app import accelerators as a; from serve_app.settings import PoolSettings\n"
        "for n in a.names(): x = a.get(n); x.available(); x.ray_actor_options(PoolSettings())\n"
        "a.choose('auto'); import serve_app.engine.fake\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'ray', 'fastapi'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_auto_never_chooses_the_fake() -> None:
    assert accelerators.choose("auto").name in {"neuron", "cuda", "cpu"}
    assert accelerators.choose("fake").name == "fake"


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"auto, .*cpu"):
        accelerators.choose("abacus")


def test_cpu_loads_a_model(tiny_sdxl: Path) -> None:
    pipeline = accelerators.get("cpu").load_pipeline(PoolSettings(model=str(tiny_sdxl), num_threads=1))
    assert isinstance(pipeline, StepPipeline)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu avx2 amx_bf16", True),
        ("Features\t: fp asimd bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("model name\t: bf16 avx512_bf16", False),
    ],
)
def test_native_bf16_comes_from_the_kernels_flags(tmp_path: Path, line: str, expected: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{line}\n")
    assert has_native_bf16(file) is expected


def test_cpu_reserves_what_is_set() -> None:
    cpu = accelerators.get("cpu")
    assert cpu.ray_actor_options(PoolSettings(num_threads=3))["num_cpus"] == 3
    assert cpu.ray_actor_options(PoolSettings(ray_actor_options={"num_cpus": 5}))["num_cpus"] == 5
    assert cpu.ray_actor_options(PoolSettings())["num_cpus"] >= 1
