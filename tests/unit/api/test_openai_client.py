"""OpenAI's own Python client against a real HTTP server."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator

import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image

from serve_app.errors import GenerationFailed, QueueFull
from serve_app.fake_service import FakeImageService
from tests.unit.api.conftest import ServedAt


@pytest.fixture
def openai_client(service: FakeImageService, served_at: ServedAt) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served_at(service)}/v1", api_key="unused") as client:
        yield client


def test_generate(openai_client: openai.OpenAI, service: FakeImageService) -> None:
    answer = openai_client.images.generate(
        prompt="a red star",
        model="small-sdxl",
        n=2,
        size="256x256",
        extra_body={"seed": 7, "num_inference_steps": 3, "guidance_scale": 2.0, "negative_prompt": "blue"},
    )
    assert answer.data is not None
    files = [base64.b64decode(picture.b64_json or "") for picture in answer.data]
    assert [Image.open(io.BytesIO(file)).size for file in files] == [(256, 256)] * 2
    assert answer.data[0].url is None
    assert answer.data[0].revised_prompt == "a red star"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 0
    assert abs(answer.created - time.time()) < 60
    draft = service.drafts[0]
    assert (draft.seed, draft.num_inference_steps, draft.guidance_scale) == (7, 3, 2.0)


async def test_async_with_url(service: FakeImageService, served_at: ServedAt) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served_at(service)}/v1", api_key="unused") as client:
        answer = await client.images.generate(prompt="a red star", response_format="url")
        assert answer.data is not None
        assert answer.data[0].b64_json is None
        raw = await client.images.with_raw_response.generate(prompt="a red star")
        assert raw.headers["x-request-id"]
        assert raw.parse()._request_id == raw.headers["x-request-id"]


def test_stream(openai_client: openai.OpenAI) -> None:
    stream = openai_client.images.generate(
        prompt="a red star", model="small-sdxl", size="256x256", stream=True, partial_images=3
    )
    *previews, last = list(stream)
    assert [
        event.partial_image_index for event in previews if isinstance(event, ImageGenPartialImageEvent)
    ] == [
        0,
        1,
        2,
    ]
    assert isinstance(last, ImageGenCompletedEvent)
    assert Image.open(io.BytesIO(base64.b64decode(last.b64_json))).size == (256, 256)
    assert last.usage.total_tokens == 0


def test_a_failure_in_a_stream_is_raised(openai_client: openai.OpenAI, service: FakeImageService) -> None:
    service.failure = GenerationFailed("not finite")
    with pytest.raises(openai.APIError, match="not finite"):
        list(openai_client.images.generate(prompt="a red star", model="small-sdxl", stream=True))


def test_models(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == ["small-sdxl"]
    assert openai_client.models.retrieve("small-sdxl").object == "model"


def test_typed_errors(openai_client: openai.OpenAI, service: FakeImageService) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        openai_client.images.generate(prompt="a red star", model="dall-e-3")
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    assert unknown.value.request_id
    with pytest.raises(openai.BadRequestError) as bad:
        openai_client.images.generate(prompt="a red star", size="1x1")
    assert (bad.value.param, bad.value.type) == ("size", "invalid_request_error")
    service.failure = GenerationFailed("not finite")
    before = len(service.drafts)
    with pytest.raises(openai.InternalServerError):
        openai_client.images.generate(prompt="a red star")
    assert len(service.drafts) == before + 1, "a failure that will not go away is not tried again"


def test_overload_is_tried_again(openai_client: openai.OpenAI, service: FakeImageService) -> None:
    service.failure = QueueFull("full", 0.5)
    start = time.monotonic()
    with pytest.raises(openai.InternalServerError, match="full"):
        openai_client.with_options(max_retries=1).images.generate(prompt="a red star")
    assert len(service.drafts) == 2
    assert time.monotonic() - start >= 1.0, "the client waits as long as it was told"
