"""GET /imagine."""

from __future__ import annotations

import io
import uuid

import httpx
import pytest
from PIL import Image

from serve_app import metadata
from serve_app.fake_service import FakeImageService
from serve_app.request import ImageFormat

# As a browser sends what a person types after "prompt=": spaces encoded, commas not.
DOCUMENTED = "/imagine?prompt=an%20astronaut%20is%20dancing%20on%20green%20grass,%20sunlit"


async def test_documented_address_answers_with_a_png(
    client: httpx.AsyncClient, service: FakeImageService
) -> None:
    response = await client.get(DOCUMENTED)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == (512, 512)
    draft = service.drafts[0]
    assert draft.prompt == "an astronaut is dancing on green grass, sunlit"
    assert draft.deadline is not None
    assert (draft.width, draft.num_inference_steps, draft.guidance_scale) == (None, None, None)


async def test_headers_tell_how_it_was_drawn(client: httpx.AsyncClient) -> None:
    response = await client.get(DOCUMENTED)
    headers = response.headers
    assert 0 <= int(headers["x-seed"]) < 2**32
    assert (headers["x-pool"], headers["x-model"]) == ("default", "small-sdxl")
    assert headers["x-accelerator"] == "fake"
    uuid.UUID(headers["x-request-id"])
    stages = [stage.split(";dur=")[0] for stage in headers["server-timing"].split(", ")]
    assert stages == ["queue", "prepare", "denoise", "decode", "encode"]
    assert headers["content-disposition"] == f'inline; filename="imagine-{headers["x-seed"]}.png"'
    assert headers["cache-control"] == "no-store"


async def test_a_wait_for_a_start_is_told(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.held_s = 0.05
    timing = (await client.get(DOCUMENTED)).headers["server-timing"]
    assert timing.startswith("start;dur=50.0, queue;dur=")


async def test_every_option_reaches_the_service(client: httpx.AsyncClient, service: FakeImageService) -> None:
    options = {
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "width": "256",
        "height": "320",
        "num_inference_steps": "7",
        "guidance_scale": "5.5",
        "seed": "0",
        "format": "webp",
        "quality": "50",
        "scheduler": "DDIMScheduler",
        "pool": "default",
        "model": "small-sdxl",
        "unknown": "is ignored",
    }
    response = await client.get("/imagine", params=options)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/webp"
    assert response.headers["x-seed"] == "0"
    assert response.headers["cache-control"].startswith("private")
    draft = service.drafts[0]
    assert (draft.width, draft.height, draft.num_inference_steps) == (256, 320, 7)
    assert (draft.guidance_scale, draft.seed, draft.scheduler_name) == (5.5, 0, "DDIMScheduler")
    assert (draft.output.format, draft.output.quality) == (ImageFormat.WEBP, 50)
    assert (draft.pool, draft.model, draft.negative_prompt) == ("default", "small-sdxl", "blurry")
    parameters = metadata.read(response.content)
    assert parameters.infotext.startswith("a fox\nNegative prompt: blurry\nSteps: 7, ")


async def test_img_size_is_a_square(client: httpx.AsyncClient) -> None:
    response = await client.get("/imagine", params={"prompt": "a fox", "img_size": 768})
    assert Image.open(io.BytesIO(response.content)).size == (768, 768)


async def test_the_same_seed_gives_the_same_file(client: httpx.AsyncClient) -> None:
    first, again, other = [
        (await client.get("/imagine", params={"prompt": "a fox", "seed": seed, "img_size": 64})).content
        for seed in (5, 5, 6)
    ]
    assert first == again != other


async def test_fields_that_a_form_left_empty_are_absent(client: httpx.AsyncClient) -> None:
    query = "prompt=a+fox&seed=&width=&height=&img_size=64&guidance_scale=&num_inference_steps=&scheduler=&format="
    assert (await client.get(f"/imagine?{query}")).status_code == 200


@pytest.mark.parametrize("prompt", ["", "   ", "%00", "a%00b", "x" * 10_001])
async def test_unusable_prompts_are_refused_by_name(
    client: httpx.AsyncClient, service: FakeImageService, prompt: str
) -> None:
    response = await client.get(f"/imagine?prompt={prompt}")
    assert response.status_code == 422
    assert response.json()["error"]["field"] == "prompt"
    assert service.drafts == []


async def test_long_prompts_are_not_cut(client: httpx.AsyncClient, service: FakeImageService) -> None:
    prompt = "a fox and " * 900
    assert (await client.get("/imagine", params={"prompt": prompt, "img_size": 64})).status_code == 200
    assert service.drafts[0].prompt == prompt
