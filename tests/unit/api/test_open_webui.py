"""The requests of the real Open WebUI, as tests/open_webui records them, in their order."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app.fake_service import FAKE_FACTS, FakeImageService
from serve_app.settings import PoolSettings, Settings
from tests.open_webui import recorded
from tests.open_webui.recorded import Sent
from tests.unit.api.conftest import ClientFor

DRAWN_BY_FAKE = {
    "OPENAI_DRAWS_WITH_PARAMETERS",
    "OPENAI_DRAWS_AS_GPT_IMAGE",
    "A1111_DRAWS_WITH_ANOTHER_MODEL",
}


def service_for(name: str, settings: Settings) -> FakeImageService:
    """A service that draws with the model of this sequence."""
    pools = [PoolSettings(name="default"), PoolSettings(name="slow", accelerator="fake", model="fake")]
    here = settings.model_copy(update={"pools": pools, "openai_model_aliases": {"gpt-image-1": "fake"}})
    facts = replace(FAKE_FACTS, model="fake") if name in DRAWN_BY_FAKE else FAKE_FACTS
    return FakeImageService(here, facts)


async def send(client: httpx.AsyncClient, sent: Sent) -> Any:
    # The space behind the word "Basic" is sent, too.
    headers = {"Authorization": f"{sent.authorization} "} if sent.authorization == "Basic" else {}
    response = await client.request(
        sent.method, sent.path, json=sent.body, headers=headers or {"Authorization": sent.authorization}
    )
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("name", sorted(recorded.SEQUENCES))
async def test_recorded_requests(name: str, settings: Settings, make_client: ClientFor) -> None:
    service = service_for(name, settings)
    async with make_client(service) as client:
        for sent in recorded.SEQUENCES[name]:
            answer = await send(client, sent)
            match sent.path, sent.method:
                case "/v1/images/generations", _:
                    # A truthy url would be fetched in place of the picture.
                    assert not any(one.get("url") for one in answer["data"])
                    check_pictures([one["b64_json"] for one in answer["data"]], sent, service)
                case "/sdapi/v1/txt2img", _:
                    assert answer["info"]
                    check_pictures(answer["images"], sent, service)
                case "/sdapi/v1/options", "GET":
                    assert answer["sd_model_checkpoint"].startswith("small-sdxl [")
                case "/sdapi/v1/options", "POST":
                    assert answer is None
                case "/sdapi/v1/sd-models", _:
                    assert [one["model_name"] for one in answer] == ["small-sdxl", "fake"]
                    assert all(one["title"] for one in answer)
                case unknown:
                    raise AssertionError(f"nothing is checked of {unknown}")


def check_pictures(files: list[str], sent: Sent, service: FakeImageService) -> None:
    """As many as asked for, of the size, by the seed and the steps that were asked for."""
    body = sent.body or {}
    asked_size = body.get("size") or f"{body['width']}x{body['height']}"
    size = "512x512" if asked_size == "auto" else asked_size
    assert len(files) == body.get("n", body.get("batch_size"))
    for file in files:
        width, height = Image.open(io.BytesIO(base64.b64decode(file, validate=True))).size
        assert f"{width}x{height}" == size
    (draft,) = service.drafts
    assert draft.negative_prompt == body.get("negative_prompt", "")
    assert draft.num_inference_steps == body.get("num_inference_steps", body.get("steps"))
    assert draft.seed == body.get("seed", draft.seed)


async def test_an_empty_model_changes_nothing(settings: Settings, make_client: ClientFor) -> None:
    async with make_client(service_for("A1111_SAVES_SETTINGS_WITHOUT_A_MODEL", settings)) as client:
        chosen = {"sd_model_checkpoint": "fake"}
        assert (await client.post("/sdapi/v1/options", json=chosen)).status_code == 200
        for sent in recorded.A1111_SAVES_SETTINGS_WITHOUT_A_MODEL:
            await send(client, sent)
        now = (await client.get("/sdapi/v1/options")).json()
        assert now["sd_model_checkpoint"].startswith("fake [")
