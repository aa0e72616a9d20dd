"""Bounds of what a client may send: every one of them, on every route that has the field, under its own name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.fake_service import FakeImageService
from serve_app.limits import MAX_IMAGES_PER_REQUEST, MAX_PROMPT_CHARS, MAX_SEED
from serve_app.settings import Settings, StoreSettings
from tests.unit.api.conftest import client_for

LONG = "x" * (MAX_PROMPT_CHARS + 1)
STEPS, GUIDANCE, SIDE, TOO_MANY = 151, 30.1, 4104, MAX_IMAGES_PER_REQUEST + 1
ROUTES: dict[str, list[dict[str, Any]]] = {
    "/api/text2image": [
        {"prompt": LONG},
        {"negative_prompt": LONG},
        {"step": STEPS},
        {"guidance_scale": GUIDANCE},
        {"size": f"{SIDE}x512"},
        {"number": TOO_MANY},
        {"batch": TOO_MANY},
        {"number": 4, "batch": 5},
        {"seed": MAX_SEED + 1},
    ],
    "/generate": [
        {"prompt": LONG},
        {"negative_prompt": LONG},
        {"num_inference_steps": STEPS},
        {"guidance_scale": GUIDANCE},
        {"width": SIDE},
        {"height": 32},
        {"seed": -1},
    ],
    "/api/jobs": [
        {"prompt": LONG},
        {"negative_prompt": LONG},
        {"num_inference_steps": STEPS},
        {"guidance_scale": GUIDANCE},
        {"width": SIDE},
        {"num_images": TOO_MANY},
        {"seed": MAX_SEED + 1},
        {"webhook_url": "https://a.example/" + "x" * 2000},
    ],
    "/v1/images/generations": [
        {"prompt": LONG},
        {"num_inference_steps": STEPS},
        {"guidance_scale": GUIDANCE},
        {"size": f"{SIDE}x512"},
        {"n": TOO_MANY},
        {"seed": MAX_SEED + 1},
        {"partial_images": 4},
    ],
    "/sdapi/v1/txt2img": [
        {"prompt": LONG},
        {"negative_prompt": LONG},
        {"steps": STEPS},
        {"cfg_scale": GUIDANCE},
        {"width": SIDE},
        {"n_iter": TOO_MANY},
        {"batch_size": TOO_MANY},
        {"n_iter": 4, "batch_size": 5},
        {"seed": MAX_SEED + 1},
    ],
    "/": [
        {"inputs": LONG},
        {"parameters": {"num_inference_steps": STEPS}},
        {"parameters": {"guidance_scale": GUIDANCE}},
        {"parameters": {"width": SIDE}},
        {"parameters": {"seed": MAX_SEED + 1}},
    ],
}


@pytest.mark.parametrize(
    ("route", "fields"), [(route, fields) for route, bodies in ROUTES.items() for fields in bodies]
)
async def test_every_bound_is_kept_on_every_route(tmp_path: Path, route: str, fields: dict[str, Any]) -> None:
    service = FakeImageService(Settings(store=StoreSettings(url=str(tmp_path))))
    body = {("inputs" if route == "/" else "prompt"): "a fox", **fields}
    async with client_for(service) as client:
        answer = await client.post(route, json=body)
    assert answer.status_code == (400 if route.startswith("/v1") else 422), answer.text
    assert any(name in answer.text for name in fields)
    assert service.drafts == []
