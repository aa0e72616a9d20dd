"""Options and lists, in the order in which clients ask for them."""

from __future__ import annotations

import httpx
import pytest

from serve_app.fake_service import FakeImageService
from serve_app.settings import PoolSettings, Settings
from tests.unit.api.conftest import ClientFor


@pytest.fixture
def two_models(settings: Settings) -> Settings:
    pools = [PoolSettings(name="default"), PoolSettings(name="big", model="stabilityai/sdxl-turbo")]
    return settings.model_copy(update={"pools": pools})


async def get(client: httpx.AsyncClient, name: str) -> object:
    response = await client.get(f"/sdapi/v1/{name}")
    assert response.status_code == 200, name
    return response.json()


async def test_sillytavern_connects(client: httpx.AsyncClient) -> None:
    options = await get(client, "options")
    models = await get(client, "sd-models")
    assert isinstance(options, dict)
    assert isinstance(models, list)
    assert options["sd_model_checkpoint"] == models[0]["title"]
    assert set(models[0]) == {"title", "model_name", "hash", "sha256", "filename", "config"}
    samplers = await get(client, "samplers")
    assert isinstance(samplers, list)
    assert [sampler["name"] for sampler in samplers] == ["Euler", "Euler a", "DDIM", "DPM++ 2M"]
    schedulers = await get(client, "schedulers")
    assert isinstance(schedulers, list)
    assert [scheduler["name"] for scheduler in schedulers] == ["automatic", "karras"]
    for name in ("sd-vae", "sd-modules", "upscalers", "latent-upscale-modes"):
        assert await get(client, name) == []
    assert await get(client, "scripts") == {"txt2img": [], "img2img": []}


async def test_a_client_changes_its_model(two_models: Settings, make_client: ClientFor) -> None:
    service = FakeImageService(two_models)
    async with make_client(service) as client:
        options = await get(client, "options")
        models = await get(client, "sd-models")
        assert isinstance(options, dict)
        assert isinstance(models, list)
        assert [model["model_name"] for model in models] == ["small-sdxl", "stabilityai/sdxl-turbo"]
        options["sd_model_checkpoint"] = models[1]["title"]
        changed = await client.post("/sdapi/v1/options", json=options)
        assert (changed.status_code, changed.json()) == (200, None)
        now = await get(client, "options")
        assert isinstance(now, dict)
        assert now["sd_model_checkpoint"] == models[1]["title"]
        assert now["sd_checkpoint_hash"] == models[1]["sha256"]
        # The fake serves only the first model, so its refusal tells which one was asked for.
        answer = await client.post("/sdapi/v1/txt2img", json={"prompt": "a fox"})
        assert (answer.status_code, answer.json()["field"]) == (422, "sd_model_checkpoint")
        override = {"prompt": "a fox", "override_settings": {"sd_model_checkpoint": models[0]["hash"]}}
        assert (await client.post("/sdapi/v1/txt2img", json=override)).status_code == 200
        # Another caller still has the first model.
        other = await client.get("/sdapi/v1/options", headers={"Authorization": "Basic b3RoZXI6"})
        assert other.json()["sd_model_checkpoint"] == models[0]["title"]


@pytest.mark.parametrize("name", ["another", "x" * 201])
async def test_models_that_are_not_served(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post("/sdapi/v1/options", json={"sd_model_checkpoint": name})
    assert response.status_code == 422
    assert response.json()["field"] == "sd_model_checkpoint"


async def test_options_without_a_model_change_nothing(client: httpx.AsyncClient) -> None:
    before = await get(client, "options")
    response = await client.post("/sdapi/v1/options", json={"samples_format": "webp"})
    assert (response.status_code, response.json()) == (200, None)
    assert await get(client, "options") == before
