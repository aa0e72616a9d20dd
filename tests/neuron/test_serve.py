"""A pool on neuron cores behind real Ray Serve and HTTP; the cores are declared, as on a node that has them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from serve_app.local_service import LocalService
from serve_app.settings import PoolSettings, Settings, StoreSettings
from tests.neuron.conftest import HEIGHT, WIDTH
from tests.running_service import RunningService, free_port


@pytest.fixture(scope="module")
def inf2(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One replica on the two cores of a node that declares two."""
    pictures, port = tmp_path_factory.mktemp("pictures"), free_port()
    settings = Settings(
        pools=[PoolSettings(name="inf2", accelerator="neuron", model=str(compiled))],
        store=StoreSettings(url=str(pictures)),
    )
    with LocalService(settings, host="127.0.0.1", port=port, resources={"neuron_cores": 2}) as local:
        assert local.metrics_url is not None
        yield RunningService(
            f"http://127.0.0.1:{port}", port, pictures, settings, local.metrics_url, local.log_dir
        )


@pytest.fixture
def http(inf2: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=inf2.url, timeout=60.0, trust_env=False) as client:
        yield client


def picture_of(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)


def test_a_served_picture_is_plain_diffusers(http: httpx.Client, stock: Any) -> None:
    query: dict[str, str | int] = {
        "prompt": "a cat in a hat",
        "seed": 7,
        "num_inference_steps": 5,
        "guidance_scale": 5,
    }
    served = picture_of(http.get("/imagine", params=query))
    theirs = stock(
        "a cat in a hat",
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=5,
        guidance_scale=5.0,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]
    assert served.shape == (HEIGHT, WIDTH, 3)
    assert served.std() > 5
    assert np.abs(served - np.asarray(theirs).astype(int)).max() <= 1


def test_the_pool_says_what_it_can(http: httpx.Client) -> None:
    (pool,) = http.get("/api/pools").json()
    assert pool["accelerator"] == "neuron"
    assert pool["capabilities"]["fixed_sizes"] == [[WIDTH, HEIGHT]]
    assert pool["capabilities"]["max_prompt_tokens"] == 75


def test_the_test_picture_of_the_start_passes(inf2: RunningService) -> None:
    from serve_app.first_picture import draw_first_picture

    first = draw_first_picture(inf2.url)
    assert (first.width, first.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("query", "field", "allowed"),
    [
        ({"width": 512, "height": 512}, "width", f"{WIDTH}x{HEIGHT}"),
        ({"prompt": "a cat in a hat " * 20}, "prompt", "at most 75"),
        ({"negative_prompt": "a cat in a hat " * 20, "guidance_scale": 5}, "negative_prompt", "at most 75"),
    ],
    ids=["size", "prompt", "negative"],
)
def test_what_was_not_compiled_is_refused_by_the_clients_field(
    http: httpx.Client, query: dict[str, Any], field: str, allowed: str
) -> None:
    answer = http.get("/imagine", params={"prompt": "x", **query})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert allowed in answer.json()["error"]["message"]


async def test_requests_join_a_running_batch(inf2: RunningService) -> None:
    long: dict[str, str | int] = {
        "prompt": "the sea",
        "seed": 1,
        "num_inference_steps": 150,
        "guidance_scale": 0,
    }
    short: dict[str, str | int] = {
        "prompt": "a dog",
        "seed": 2,
        "num_inference_steps": 75,
        "guidance_scale": 0,
    }
    async with httpx.AsyncClient(base_url=inf2.url, timeout=120.0, trust_env=False) as client:
        alone = [(await client.get("/imagine", params=query)).content for query in (long, short)]
        before = (await asyncio.to_thread(inf2.stats, "inf2")).steps_done
        first = asyncio.create_task(client.get("/imagine", params=long))
        while (await asyncio.to_thread(inf2.stats, "inf2")).running_images == 0:
            assert not first.done()
        second = asyncio.create_task(client.get("/imagine", params=short))
        await asyncio.wait([second])
        assert not first.done(), "the short one did not wait for the long one"
        together = [(await task).content for task in (first, second)]
        steps = (await asyncio.to_thread(inf2.stats, "inf2")).steps_done - before
    shared = 150 + 75 - steps
    assert shared > 75 / 2, "two pictures, one row each, in one step"
    assert together == alone, "each core has its row: the same picture to the last bit"
