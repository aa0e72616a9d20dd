"""Choosing an accelerator, and what is particular to one; what holds for all is in ``test_contract.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app import accelerators
from serve_app.accelerators.cpu import has_fast_bf16
from serve_app.accelerators.neuron import visible_cores
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import ConfigurationError
from serve_app.settings import PoolSettings


def test_auto_never_chooses_the_fake() -> None:
    assert accelerators.choose("auto").name in {"neuron", "cuda", "cpu"}
    assert accelerators.choose("fake").name == "fake"


@pytest.mark.parametrize(
    ("there", "chosen"),
    [({"cpu", "cuda", "fake"}, "cuda"), ({"cpu", "fake"}, "cpu"), ({"fake"}, None)],
)
def test_auto_takes_the_best_there_is(
    monkeypatch: pytest.MonkeyPatch, there: set[str], chosen: str | None
) -> None:
    for name in accelerators.names():
        monkeypatch.setattr(type(accelerators.get(name)), "available", lambda self: self.name in there)
    if chosen is None:
        with pytest.raises(ConfigurationError, match=r"none of: cpu, cuda"):
            accelerators.choose("auto")
    else:
        assert accelerators.choose("auto").name == chosen


def test_what_auto_chose_must_have_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = PoolSettings.model_validate({"cuda": {"compile": "whole"}})
    monkeypatch.setattr(type(accelerators.get("cuda")), "available", lambda self: False)
    with pytest.raises(ConfigurationError, match=r"cuda\.compile has no effect on accelerator cpu"):
        accelerators.of_pool(pool)
    monkeypatch.setattr(type(accelerators.get("cuda")), "available", lambda self: True)
    assert accelerators.of_pool(pool).name == "cuda"


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"auto, .*cpu"):
        accelerators.choose("abacus")


def test_cpu_loads_a_model(tiny_sdxl: Path) -> None:
    pipeline = accelerators.get("cpu").load_pipeline(PoolSettings(model=str(tiny_sdxl), num_threads=1))
    assert isinstance(pipeline, StepPipeline)


@pytest.mark.parametrize(
    ("vendor", "line", "expected"),
    [
        ("GenuineIntel", "flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16", True),
        ("GenuineIntel", "flags\t\t: fpu avx2 avx512f avx512_bf16", False),  # AMX hidden: float32 is faster
        ("AuthenticAMD", "flags\t\t: fpu avx2 avx512f avx512_bf16", True),
        ("AuthenticAMD", "flags\t\t: fpu avx2", False),
        ("0x41", "Features\t: fp asimd bf16", True),
        ("AuthenticAMD", "model name\t: bf16 avx512_bf16", False),
    ],
)
def test_bf16_is_taken_where_it_is_faster(tmp_path: Path, vendor: str, line: str, expected: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n{line}\n")
    assert has_fast_bf16(file) is expected


def test_neuron_reserves_two_cores_beside_what_is_asked_for() -> None:
    neuron = accelerators.get("neuron")
    assert neuron.ray_actor_options(PoolSettings()) == {"num_cpus": 1, "resources": {"neuron_cores": 2}}
    own = PoolSettings(ray_actor_options={"num_cpus": 4, "resources": {"special": 1, "neuron_cores": 4}})
    assert neuron.ray_actor_options(own) == {"num_cpus": 4, "resources": {"special": 1, "neuron_cores": 4}}
    with pytest.raises(ConfigurationError, match="a replica needs 2"):
        neuron.ray_actor_options(PoolSettings(ray_actor_options={"resources": {"neuron_cores": 1}}))


@pytest.mark.parametrize(
    ("listed", "cores"), [(None, None), ("0,1", 2), ("4-7", 4), ("0,2-3", 3), ("5", 1), ("", 0)]
)
def test_neurons_own_cores_are_counted(listed: str | None, cores: int | None) -> None:
    assert visible_cores(listed) == cores


def test_neuron_refuses_what_is_no_list_of_cores() -> None:
    with pytest.raises(ConfigurationError, match="NEURON_RT_VISIBLE_CORES=two is no list"):
        visible_cores("two")


def test_cpu_reserves_what_is_set() -> None:
    cpu = accelerators.get("cpu")
    assert cpu.ray_actor_options(PoolSettings(num_threads=3))["num_cpus"] == 3
    assert cpu.ray_actor_options(PoolSettings(ray_actor_options={"num_cpus": 5}))["num_cpus"] == 5
    assert cpu.ray_actor_options(PoolSettings())["num_cpus"] >= 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"concurrent_decodes": 2}, "concurrent_decodes"),
        ({"ray_actor_options": {"num_gpus": 2}}, "num_gpus=2.*max_replicas"),
        ({"ray_actor_options": {"num_gpus": 0}}, "num_gpus=0"),
    ],
)
def test_cuda_refuses_what_would_have_no_effect(settings: dict[str, object], named: str) -> None:
    pool = PoolSettings.model_validate({"accelerator": "cuda", **settings})
    with pytest.raises(ConfigurationError, match=named):
        accelerators.get("cuda").ray_actor_options(pool)


def test_cuda_replicas_may_share_a_gpu() -> None:
    pool = PoolSettings(accelerator="cuda", ray_actor_options={"num_gpus": 0.5})
    assert accelerators.get("cuda").ray_actor_options(pool)["num_gpus"] == 0.5


def test_cuda_needs_host_memory_only_for_what_stays_there() -> None:
    cuda = accelerators.get("cuda")
    assert cuda.host_bytes_per_weight(PoolSettings()) == 0
    assert cuda.host_bytes_per_weight(PoolSettings.model_validate({"cuda": {"cpu_offload": "all"}})) == 2


@pytest.mark.skipif(accelerators.get("cuda").available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_says_what_to_do(tiny_sdxl: Path) -> None:
    with pytest.raises(ConfigurationError, match="or use accelerator cpu"):
        accelerators.get("cuda").load_pipeline(PoolSettings(model=str(tiny_sdxl)))
