"""POST /generate."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app.fake_service import FakeImageService


async def test_documented_body(client: httpx.AsyncClient) -> None:
    body = b'{"prompt": "a robot managing server racks in a data center", "num_inference_steps": 30}'
    response = await client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 200
    answer = response.json()
    picture = Image.open(io.BytesIO(base64.b64decode(answer["image"], validate=True)))
    assert (picture.format, picture.size) == ("PNG", (512, 512))
    assert 0 <= answer["seed"] < 2**32
    assert answer["num_inference_steps"] == 30


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
async def test_every_seed_is_honoured(
    client: httpx.AsyncClient, service: FakeImageService, seed: int
) -> None:
    body = {"prompt": "a fox", "seed": seed, "width": 64, "height": 64}
    assert (await client.post("/generate", json=body)).json()["seed"] == seed == service.drafts[0].seed


@pytest.mark.parametrize("body", [{}, {"seed": None, "negative_prompt": None, "width": None}])
async def test_absent_seed_is_random_and_told(
    client: httpx.AsyncClient, service: FakeImageService, body: dict[str, Any]
) -> None:
    seeds = [
        (await client.post("/generate", json={"prompt": "a fox", "height": 64, **body})).json()["seed"]
        for _ in range(3)
    ]
    assert seeds == [draft.seed for draft in service.drafts]
    assert len(set(seeds)) == 3


async def test_the_models_own_defaults_fill_the_gaps(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/generate", json={"prompt": "a fox"})).json()
    assert (answer["num_inference_steps"], answer["guidance_scale"]) == (4, 0.0)
    assert (answer["width"], answer["height"]) == (512, 512)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"width": 63}, "width"),
        ({"height": 100, "width": 512}, "height"),
        ({"width": 4096, "height": 4096}, "width"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"scheduler": "nonsense"}, "scheduler"),
        ({"pool": "nonsense"}, "pool"),
        ({"model": "nonsense"}, "model"),
    ],
)
async def test_refusals_name_the_clients_field(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    response = await client.post("/generate", json={"prompt": "a fox", **change})
    assert response.status_code == 422
    assert response.json()["error"]["field"] == field
