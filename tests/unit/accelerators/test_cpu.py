"""The accelerator ``cpu``: whose layers compute, on how many threads and which cores, and what cannot be had."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from serve_app import accelerators, cpu_topology
from serve_app.accelerators import cpu
from serve_app.capabilities import ModelDefaults, PoolFacts
from serve_app.cpu_topology import Core
from serve_app.engine import Engine
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import ConfigurationError
from serve_app.pipelines.onednn import FusedTransformerBlock
from serve_app.settings import PoolSettings
from serve_app.warmup import warm_up
from tests.unit.pipelines.drawing import array, ask, difference, draw_alone, draw_together

HAS_IPEX = cpu._ipex_problem() is None
LAYERS = ["plain", "fused", *(["ipex"] if HAS_IPEX else [])]
FOUR_CORES = tuple(Core(node, (cpu_, cpu_ + 4)) for node in (0, 1) for cpu_ in (2 * node, 2 * node + 1))
"""Two NUMA nodes of two cores with two hyperthreads each."""


@pytest.fixture(autouse=True)
def _own_claims(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cores are claimed beside whatever else runs on this machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def load(**settings: Any) -> Any:
    """A pipeline of the bundled model, if no other."""
    return accelerators.get("cpu").load_pipeline(PoolSettings.model_validate({"num_threads": 1} | settings))


@pytest.fixture(scope="module")
def exact() -> Any:
    """The picture of `ask` by PyTorch's own layers in float32."""
    return array(draw_alone(load(dtype="float32", cpu={"layers": "plain", "pin_cores": "off"}), ask()))


class TestPictures:
    @pytest.mark.parametrize("layers", LAYERS)
    def test_the_bundled_model_looks_the_same_in_bfloat16(self, exact: Any, layers: str) -> None:
        pipeline = load(dtype="bfloat16", cpu={"layers": layers})
        assert isinstance(pipeline, StepPipeline)
        picture = array(draw_alone(pipeline, ask()))
        assert np.abs(picture - exact).mean() < 1.0, "of 255"

    @pytest.mark.parametrize("layers", LAYERS[1:])
    def test_the_bundled_model_is_the_same_in_float32(self, exact: Any, layers: str) -> None:
        pipeline = load(dtype="float32", cpu={"layers": layers})
        assert difference(array(draw_alone(pipeline, ask())), exact) <= 1

    @pytest.mark.parametrize("layers", LAYERS)
    def test_pictures_share_steps(self, layers: str) -> None:
        pipeline = load(dtype="bfloat16", cpu={"layers": layers})
        asked = [
            ask(seed=seed, guidance_scale=scale, width=128, height=128)
            for seed, scale in ((1, 0.0), (2, 3.0))
        ]
        for request, ends in zip(asked, draw_together(pipeline, asked), strict=True):
            alone = array(draw_alone(pipeline, request))
            together: Any = ends.ends[0]
            assert np.abs(array(together) - alone).mean() < 1.5

    def test_exact_batches_are_exact_in_bfloat16(self) -> None:
        pipeline = load(dtype="bfloat16", exact_batches=True, max_rows=4, cpu={"layers": "fused"})
        asked = [ask(seed=seed, width=128, height=128, num_inference_steps=2 + seed) for seed in range(3)]
        for request, ends in zip(asked, draw_together(pipeline, asked, max_rows=4), strict=True):
            together: Any = ends.ends[0]
            assert together == draw_alone(pipeline, request)


class TestLayers:
    def test_auto_takes_the_fastest_there_is(self) -> None:
        assert cpu._layers(PoolSettings(), torch.bfloat16) == ("ipex" if HAS_IPEX else "fused")
        assert cpu._layers(PoolSettings(exact_batches=True), torch.bfloat16) == "fused"
        assert cpu._layers(PoolSettings(), torch.float32) == "fused"
        assert cpu._layers(PoolSettings(), torch.float16) == "plain"

    @pytest.mark.parametrize(
        ("versions", "layers"),
        [
            ({"torch": "2.8.0+cpu", "intel-extension-for-pytorch": "2.8.0"}, "ipex"),
            ({"torch": "2.13.0", "intel-extension-for-pytorch": "2.8.0"}, "fused"),
            ({"torch": "2.8.0"}, "fused"),
        ],
    )
    def test_ipex_needs_the_torch_that_it_was_made_for(
        self, monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], layers: str
    ) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "version", version)
        assert cpu._layers(PoolSettings(), torch.bfloat16) == layers
        wanted = PoolSettings.model_validate({"cpu": {"layers": "ipex"}})
        if layers == "ipex":
            assert cpu._layers(wanted, torch.bfloat16) == "ipex"
        else:
            with pytest.raises(ConfigurationError, match=r"cpu\.layers=ipex cannot be used: intel-extension"):
                cpu._layers(wanted, torch.bfloat16)

    def test_fused_layers_are_in_the_loaded_model(self) -> None:
        pipeline = load(dtype="bfloat16", cpu={"layers": "fused"})
        assert any(isinstance(module, FusedTransformerBlock) for module in pipeline._unet.modules())

    def test_compiling_needs_a_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = PoolSettings.model_validate({"cpu": {"layers": "compiled"}})
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(ConfigurationError, match=r"no g\+\+ or clang\+\+: install one, or set CXX"):
            cpu._layers(wanted, torch.bfloat16)
        monkeypatch.setenv("CXX", "/nowhere/c++")
        with pytest.raises(ConfigurationError, match="/nowhere/c"):
            cpu._layers(wanted, torch.bfloat16)

    @pytest.mark.parametrize("layers", ["fused", "compiled", "ipex"])
    def test_no_layers_of_ours_in_float16(self, layers: str) -> None:
        with pytest.raises(ConfigurationError, match=f"cpu.layers={layers} cannot be used"):
            load(dtype="float16", cpu={"layers": layers})

    def test_settings_of_another_accelerator_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="no effect on accelerator cuda"):
            PoolSettings.model_validate({"accelerator": "cuda", "cpu": {"layers": "fused"}})
        PoolSettings.model_validate({"accelerator": "cuda"})
        PoolSettings.model_validate({"accelerator": "auto", "cpu": {"layers": "fused"}})

    @pytest.mark.skipif(not os.environ.get("EXHAUSTIVE"), reason="compiles for minutes: EXHAUSTIVE=1")
    @pytest.mark.timeout(1800)
    def test_a_compiled_unet_draws_one_shape_and_says_so(self, tiny_sdxl: Path) -> None:
        exact = load(model=str(tiny_sdxl), dtype="float32", num_inference_steps=2, guidance_scale=0.0)
        pipeline = load(
            model=str(tiny_sdxl),
            dtype="float32",
            num_inference_steps=2,
            guidance_scale=0.0,
            default_size=(96, 64),
            cpu={"layers": "compiled"},
        )
        capabilities = pipeline.capabilities
        assert capabilities.fixed_sizes == ((96, 64),)
        assert (capabilities.max_rows, capabilities.guidance) == (1, False)
        request = ask(width=96, height=64, num_inference_steps=2)
        assert difference(array(draw_alone(pipeline, request)), array(draw_alone(exact, request))) <= 1
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


class TestThreadsAndCores:
    @pytest.fixture(autouse=True)
    def _machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpu_topology, "physical_cores", lambda: FOUR_CORES)
        monkeypatch.setattr(cpu_topology, "quota_cpus", lambda: None)

    @pytest.mark.parametrize(
        ("settings", "threads"),
        [
            ({}, 2),  # one NUMA node
            ({"ray_actor_options": {"num_cpus": 4}}, 2),  # hyperthreads are no cores
            ({"ray_actor_options": {"num_cpus": 8}}, 4),
            ({"ray_actor_options": {"num_cpus": 0.1}}, 2),
            ({"ray_actor_options": {"num_cpus": 4}, "num_threads": 3}, 3),
        ],
    )
    def test_threads(self, settings: dict[str, Any], threads: int) -> None:
        assert cpu._threads(PoolSettings.model_validate(settings), FOUR_CORES) == threads

    def test_a_container_with_a_smaller_quota(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpu_topology, "quota_cpus", lambda: 2.0)
        monkeypatch.setattr(cpu_topology, "allowed_cpus", lambda: frozenset(range(8)))
        assert cpu._threads(PoolSettings(), FOUR_CORES) == 1
        assert cpu._cores(PoolSettings()).cpus is None, "its CPUs are not its own"
        with pytest.raises(ConfigurationError, match="2 CPUs' time of 8 CPUs"):
            cpu._cores(PoolSettings.model_validate({"cpu": {"pin_cores": "on"}}))

    def test_each_replica_has_a_node_until_it_ends(self) -> None:
        first, second = cpu._cores(PoolSettings()), cpu._cores(PoolSettings())
        assert (first.cpus, second.cpus) == (frozenset({0, 1}), frozenset({2, 3}))
        assert cpu._cores(PoolSettings()).cpus is None
        with pytest.raises(ConfigurationError, match="2 of 4 physical cores are not free"):
            cpu._cores(PoolSettings.model_validate({"cpu": {"pin_cores": "on"}}))
        del first
        assert cpu._cores(PoolSettings()).cpus == frozenset({0, 1})

    def test_off_claims_nothing(self) -> None:
        kept = [cpu._cores(PoolSettings.model_validate({"cpu": {"pin_cores": "off"}})) for _ in range(3)]
        assert [cores.cpus for cores in kept] == [None] * 3
        assert cpu._cores(PoolSettings()).cpus == frozenset({0, 1})


def test_a_step_and_a_decode_run_on_the_replicas_own_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load(num_threads=1)
    own = pipeline._cores.cpus
    assert own is not None
    assert len(own) == 1
    seen: list[set[int]] = []

    def watch(call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            seen.append(os.sched_getaffinity(0))
            return call(*arguments, **named)

        return watched

    monkeypatch.setattr(pipeline._unet, "forward", watch(pipeline._unet.forward))
    monkeypatch.setattr(pipeline._vae.decoder, "forward", watch(pipeline._vae.decoder.forward))
    before = os.sched_getaffinity(0)
    draw_alone(pipeline, ask(width=128, height=128, num_inference_steps=1))
    assert seen == [own, own]
    assert os.sched_getaffinity(0) == before


def test_a_step_leaves_cores_to_the_decodes_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load(num_threads=2, cpu={"pin_cores": "off"})
    seen: list[int] = []
    forward = pipeline._unet.forward

    def watched(*arguments: Any, **named: Any) -> Any:
        seen.append(torch.get_num_threads())
        return forward(*arguments, **named)

    monkeypatch.setattr(pipeline._unet, "forward", watched)
    for beside in (0, 1, 0):
        pipeline.decodes_beside(beside)
        draw_alone(pipeline, ask(width=128, height=128, num_inference_steps=1))
    assert seen == [2, 1, 2]


def test_the_test_picture_is_drawn_at_every_fixed_size(tiny_sdxl: Path) -> None:
    pipeline = load(model=str(tiny_sdxl))
    sizes = ((64, 64), (96, 64), (128, 96))
    pipeline.limit(fixed_sizes=sizes)
    drawn = []
    decode = pipeline.decode

    def watched(state: Any) -> Any:
        drawn.append((state.request.width, state.request.height))
        return decode(state)

    pipeline.decode = watched
    engine = Engine(pipeline)
    engine.start()
    try:
        warm_up(engine, PoolFacts("a", "tiny", "cpu", pipeline.defaults, pipeline.capabilities))
    finally:
        engine.stop(10.0)
    assert drawn == [*sizes, sizes[-1]], "the largest again, to tell how fast it is"


@pytest.mark.parametrize(
    ("settings", "cores", "guidance_scale", "beside"),
    [
        ({}, 2, 0.0, 1),
        ({}, 1, 0.0, 0),
        ({}, 8, 5.0, 0),
        ({"concurrent_decodes": 0}, 8, 0.0, 0),
        ({"concurrent_decodes": 3}, 8, 5.0, 3),
        ({"concurrent_decodes": 3}, 2, 0.0, 1),
        ({"concurrent_decodes": 3, "exact_batches": True}, 8, 0.0, 0),
    ],
)
def test_decodes_run_beside_the_steps_where_they_are_most_of_the_work(
    settings: dict[str, Any], cores: int, guidance_scale: float, beside: int
) -> None:
    defaults = ModelDefaults(
        height=512, width=512, num_inference_steps=4, guidance_scale=guidance_scale, scheduler_name="euler"
    )
    assert cpu._concurrent_decodes(PoolSettings(**settings), cores, defaults) == beside
