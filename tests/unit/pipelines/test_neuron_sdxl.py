"""A compiled model's parts as `SdxlPipeline` sees them, over diffusers' own behind checks as strict as a graph's.

The real optimum-neuron is in ``tests/neuron``, with the older generation of libraries that it needs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from serve_app.capabilities import Capabilities
from serve_app.errors import UnsupportedRequest
from serve_app.model_source import model_defaults
from serve_app.pipelines import neuron_sdxl
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.settings import PoolSettings
from tests.unit.pipelines.test_sdxl import advance, ask, draw, draw_stock, load_stock

BATCH = 2
ROWS = 2 * BATCH


class Graph:
    """Calls `function` in another thread, as a core does, and only with `rows` rows."""

    def __init__(self, function: Any, rows: int) -> None:
        self._function, self._rows = function, rows
        self._threads = ThreadPoolExecutor(1)

    def __call__(self, *inputs: torch.Tensor, **options: Any) -> Any:
        assert {len(one) for one in inputs} == {self._rows}
        assert not any(one.is_inference() for one in inputs)
        return self._threads.submit(self._call, inputs, options).result()

    def _call(self, inputs: tuple[torch.Tensor, ...], options: dict[str, Any]) -> Any:
        with torch.no_grad():
            return self._function(*inputs, **options)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stock(tiny_sdxl: Path) -> Any:
    return load_stock(tiny_sdxl)


@pytest.fixture(scope="module")
def ours(tiny_sdxl: Path, stock: Any) -> SdxlPipeline:
    def config(part: str) -> FrozenDict:
        return FrozenDict(json.loads((tiny_sdxl / part / "config.json").read_text()))

    text = [
        neuron_sdxl._TextEncoder(Graph(encoder, BATCH), 77, BATCH)
        for encoder in (stock.text_encoder, stock.text_encoder_2)
    ]
    parts = SimpleNamespace(
        unet=neuron_sdxl._Unet(Graph(stock.unet, ROWS), config("unet"), torch.float32),
        vae=neuron_sdxl._Vae(Graph(stock.vae.decode, BATCH), config("vae"), BATCH),
        text_encoder=text[0],
        text_encoder_2=text[1],
        tokenizer=stock.tokenizer,
        tokenizer_2=stock.tokenizer_2,
        scheduler=stock.scheduler,
        vae_scale_factor=stock.vae_scale_factor,
        config=stock.config,
    )
    capabilities = Capabilities(
        max_rows=ROWS, fixed_rows=(ROWS,), fixed_sizes=((64, 64),), max_prompt_tokens=75, previews=True
    )
    return SdxlPipeline(
        parts,
        device=torch.device("cpu"),
        defaults=model_defaults(tiny_sdxl, PoolSettings(), size=(64, 64)),
        max_rows=8,
        max_pixels=64 * 64,
        capabilities=capabilities,
    )


def test_capabilities_are_those_given_and_the_noise_schedulers(ours: SdxlPipeline) -> None:
    can = ours.capabilities
    assert dataclasses.replace(can, scheduler_names=()) == Capabilities(
        max_rows=ROWS, fixed_rows=(ROWS,), fixed_sizes=((64, 64),), max_prompt_tokens=75, previews=True
    )
    assert "unipc" in can.scheduler_names


@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 0.0}, {"negative_prompt": "dull"}], ids=str)
def test_equals_stock(ours: SdxlPipeline, stock: Any, changes: dict[str, Any]) -> None:
    request = ask(**changes)
    assert abs(draw(ours, request) - draw_stock(ours, stock, request)).max() <= 2


def test_pictures_at_different_steps_share_a_call(ours: SdxlPipeline) -> None:
    requests = [ask("a dog", guidance_scale=0.0, num_inference_steps=7), ask("the sea", seed=8)]
    first = ours.prepare(requests[0], 0)
    for _ in range(2):
        advance(ours, [first])
    second = ours.prepare(requests[1], 0)
    for _ in range(5):
        advance(ours, [first, second])  # three rows, filled up to four
    for request, state in zip(requests, (first, second), strict=True):
        alone = ours.prepare(request, 0)
        while not alone.finished:
            advance(ours, [alone])
        assert torch.allclose(state.latents, alone.latents, atol=1e-4)


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_text_of_more_tokens_is_refused_by_its_field(ours: SdxlPipeline, field: str) -> None:
    with pytest.raises(UnsupportedRequest, match=r"^\w+: 76 tokens .* at most 75$") as refused:
        ours.prepare(ask(**{field: "x " * 76}), 0)
    assert refused.value.field == field
    ours.prepare(ask(**{field: "x " * 75}), 0)
