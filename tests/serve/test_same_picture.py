"""One request through each contract: whichever words the client has for it, it is the same picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.running_service import RunningService

PROMPT, SEED, STEPS, SIDE = "a red star on a blue background", 11, 3, 256


def _json(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def _file(client: httpx.Client, url: str) -> bytes:
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    return answer.content


def _imagine(client: httpx.Client) -> bytes:
    query: dict[str, str | int] = {
        "prompt": PROMPT,
        "seed": SEED,
        "num_inference_steps": STEPS,
        "guidance_scale": 0,
    }
    return client.get("/imagine", params={**query, "width": SIDE, "height": SIDE, "pool": "default"}).content


def _text2image(client: httpx.Client) -> bytes:
    body = {"prompt": PROMPT, "seed": SEED, "step": STEPS, "guidance_scale": 0, "size": f"{SIDE}x{SIDE}"}
    (picture,) = _json(client.post("/api/text2image", json=body))["output"]
    return _file(client, picture["url"])


def _generate(client: httpx.Client) -> bytes:
    body = {"prompt": PROMPT, "seed": SEED, "num_inference_steps": STEPS, "guidance_scale": 0}
    answer = _json(client.post("/generate", json={**body, "width": SIDE, "height": SIDE, "pool": "default"}))
    return base64.b64decode(answer["image"])


def _openai(client: httpx.Client) -> bytes:
    body = {
        "prompt": PROMPT,
        "seed": SEED,
        "num_inference_steps": STEPS,
        "guidance_scale": 0,
        "pool": "default",
    }
    answer = _json(client.post("/v1/images/generations", json={**body, "size": f"{SIDE}x{SIDE}"}))
    return base64.b64decode(answer["data"][0]["b64_json"])


def _a1111(client: httpx.Client) -> bytes:
    body = {"prompt": PROMPT, "seed": SEED, "steps": STEPS, "cfg_scale": 1, "width": SIDE, "height": SIDE}
    override = {"sd_model_checkpoint": "small-sdxl"}
    answer = _json(client.post("/sdapi/v1/txt2img", json={**body, "override_settings": override}))
    return base64.b64decode(answer["images"][0])


def _hugging_face(client: httpx.Client) -> bytes:
    parameters = {
        "seed": SEED,
        "num_inference_steps": STEPS,
        "guidance_scale": 0,
        "width": SIDE,
        "height": SIDE,
    }
    answer = client.post("/models/small-sdxl", json={"inputs": PROMPT, "parameters": parameters})
    assert answer.status_code == 200, answer.text
    return answer.content


def _job(client: httpx.Client) -> bytes:
    body = {
        "prompt": PROMPT,
        "seed": SEED,
        "num_inference_steps": STEPS,
        "guidance_scale": 0,
        "pool": "default",
    }
    job = _json(client.post("/api/jobs", json={**body, "width": SIDE, "height": SIDE}))
    with client.stream("GET", job["urls"]["events"]) as events:  # ends with the job
        assert "event: finished" in [line for line in events.iter_lines() if line.startswith("event:")]
    return _file(client, _json(client.get(job["urls"]["status"]))["result"]["images"][0]["url"])


def _replay(client: httpx.Client) -> bytes:
    answer = client.post("/api/replay", files={"picture": ("star.png", _imagine(client), "image/png")})
    assert answer.status_code == 200, answer.text
    return answer.content


CONTRACTS = [_text2image, _generate, _openai, _a1111, _hugging_face, _job, _replay]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__.strip("_"))
def test_the_same_seed_is_the_same_picture_in_every_contract(
    service: RunningService, contract: Callable[[httpx.Client], bytes]
) -> None:
    with httpx.Client(base_url=service.url, timeout=120.0, trust_env=False) as client:
        expected, drawn = _pixels(_imagine(client)), _pixels(contract(client))
    assert expected.shape == (SIDE, SIDE, 3)
    assert np.array_equal(drawn, expected)


def _pixels(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))
