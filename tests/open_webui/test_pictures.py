"""The real Open WebUI draws with both of its engines, and sends what tests/unit/api/test_open_webui.py replays."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.open_webui import recorded
from tests.open_webui.conftest import OpenWebUI, readme_environment
from tests.open_webui.recorded import Sent
from tests.open_webui.recorder import Exchange

# Open WebUI is started when the first test asks for it.
pytestmark = pytest.mark.timeout(600)

RED_STAR = "a red star on a blue background"


def sent(exchanges: Sequence[Exchange]) -> list[Sent]:
    assert [one.status for one in exchanges] == [200] * len(exchanges)
    return [one.sent for one in exchanges]


@pytest.fixture
def openai_engine(open_webui: OpenWebUI) -> OpenWebUI:
    """Set up as the README says for the engine openai."""
    assert open_webui.save(**_by_readme(open_webui, "openai")) == []
    return open_webui


@pytest.fixture
def a1111_engine(open_webui: OpenWebUI, client: httpx.Client) -> OpenWebUI:
    """Set up as the README says for the engine automatic1111."""
    # Without a key the service tells callers apart by address, so this is Open WebUI's own choice of an earlier test.
    client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "small-sdxl"}).raise_for_status()
    exchanges = open_webui.save(**_by_readme(open_webui, "automatic1111"))
    assert sent(exchanges) == recorded.A1111_SAVES_SETTINGS
    return open_webui


def _by_readme(open_webui: OpenWebUI, engine: str) -> dict[str, Any]:
    settings = open_webui.settings()
    changes: dict[str, Any] = {"IMAGES_OPENAI_API_PARAMS": {}, "AUTOMATIC1111_PARAMS": {}}
    for name, value in readme_environment(engine).items():
        here = value.replace("http://127.0.0.1:8000", open_webui.service_url)
        known = settings[name]
        changes[name] = here == "true" if isinstance(known, bool) else type(known)(here)
    return changes


def test_the_environment_of_the_readme(open_webui: OpenWebUI) -> None:
    settings = open_webui.settings()
    assert settings["ENABLE_IMAGE_GENERATION"] is True
    assert settings["IMAGES_OPENAI_API_BASE_URL"] == f"{open_webui.service_url}/v1"
    files, exchanges = open_webui.draw(prompt=RED_STAR)
    assert sent(exchanges) == recorded.OPENAI_DRAWS
    (file,) = files
    assert Image.open(io.BytesIO(file)).size == (512, 512)


def test_openai_draws_what_the_service_draws(openai_engine: OpenWebUI, client: httpx.Client) -> None:
    files, exchanges = openai_engine.draw(prompt=RED_STAR)
    assert sent(exchanges) == recorded.OPENAI_DRAWS
    (exchange,) = exchanges
    body = {**(exchange.sent.body or {}), "seed": exchange.answer["data"][0]["seed"]}
    assert files == _openai_pictures(client, body)


def test_openai_with_another_model_size_and_parameters(
    openai_engine: OpenWebUI, client: httpx.Client
) -> None:
    changes = {
        "IMAGE_GENERATION_MODEL": "fake",
        "IMAGE_SIZE": "256x192",
        "IMAGES_OPENAI_API_PARAMS": {"seed": 7, "num_inference_steps": 6},
    }
    assert openai_engine.save(**changes) == []
    files, exchanges = openai_engine.draw(prompt="a yellow heart", n=2)
    assert sent(exchanges) == recorded.OPENAI_DRAWS_WITH_PARAMETERS
    assert [Image.open(io.BytesIO(file)).size for file in files] == [(256, 192)] * 2
    assert files == _openai_pictures(client, exchanges[0].sent.body)
    assert files[0] != files[1]


def test_openai_with_a_model_that_is_not_served(openai_engine: OpenWebUI) -> None:
    openai_engine.save(IMAGE_GENERATION_MODEL="gpt-image-1", IMAGE_SIZE="auto")
    answer, exchanges = openai_engine.ask("POST", "generations", {"prompt": "a green tree"})
    (exchange,) = exchanges
    assert [exchange.sent] == recorded.OPENAI_DRAWS_AS_GPT_IMAGE
    # Of a refusal it shows the status alone; the service's sentence is in the answer that it does not read.
    assert (answer.status_code, answer.json()["detail"]) == (400, "[ERROR: Not Found]")
    assert (exchange.status, exchange.answer["error"]["code"]) == (404, "model_not_found")
    _, _, allowed = exchange.answer["error"]["message"].partition("allowed: ")
    assert set(allowed.split(", ")) == {"small-sdxl", "fake"}


@pytest.mark.parametrize("engine", ["openai", "automatic1111"])
def test_a_base_url_with_a_slash_at_its_end(open_webui: OpenWebUI, engine: str) -> None:
    changes = _by_readme(open_webui, engine)
    url = "IMAGES_OPENAI_API_BASE_URL" if engine == "openai" else "AUTOMATIC1111_BASE_URL"
    open_webui.save(**{**changes, url: f"{changes[url]}/"})
    files, exchanges = open_webui.draw(prompt=RED_STAR)
    assert "//" in exchanges[-1].sent.path
    assert len(files) == 1


def test_a1111_verifies_and_lists_models(a1111_engine: OpenWebUI, client: httpx.Client) -> None:
    form = {"engine": "automatic1111", "url": a1111_engine.service_url, "key": ""}
    answer, exchanges = a1111_engine.ask("POST", "verify", form)
    assert answer.json() is True
    assert sent(exchanges) == recorded.A1111_VERIFIES
    answer, exchanges = a1111_engine.ask("GET", "models")
    assert sent(exchanges) == recorded.A1111_LISTS_MODELS
    listed = client.get("/sdapi/v1/sd-models").json()
    assert answer.json() == [{"id": one["title"], "name": one["model_name"]} for one in listed]


def test_a1111_draws_what_the_service_draws(a1111_engine: OpenWebUI, client: httpx.Client) -> None:
    files, exchanges = a1111_engine.draw(prompt=RED_STAR)
    assert sent(exchanges) == recorded.A1111_DRAWS
    drawing = exchanges[-1]
    body = {**(drawing.sent.body or {}), "seed": json.loads(drawing.answer["info"])["seed"]}
    assert files == _a1111_pictures(client, body, "small-sdxl")


def test_a1111_with_another_model_size_and_steps(a1111_engine: OpenWebUI, client: httpx.Client) -> None:
    a1111_engine.save(AUTOMATIC1111_PARAMS={"seed": 7})
    answer, _ = a1111_engine.ask("GET", "models")
    (fake,) = [one["id"] for one in answer.json() if one["name"] == "fake"]
    body = {
        "model": fake,
        "prompt": "a yellow heart",
        "n": 2,
        "size": "256x192",
        "steps": 6,
        "negative_prompt": "blurry",
    }
    files, exchanges = a1111_engine.draw(**body)
    assert sent(exchanges) == recorded.A1111_DRAWS_WITH_ANOTHER_MODEL
    assert files == _a1111_pictures(client, exchanges[-1].sent.body, "fake")
    assert a1111_engine.settings()["IMAGE_GENERATION_MODEL"] == fake
    # It stays chosen for the next picture, which names none.
    files, exchanges = a1111_engine.draw(prompt="a yellow heart", size="64x64")
    assert json.loads(exchanges[-1].answer["info"])["sd_model_name"] == "fake"


def test_a1111_without_a_model(a1111_engine: OpenWebUI) -> None:
    exchanges = a1111_engine.save(IMAGE_GENERATION_MODEL="")
    assert sent(exchanges) == recorded.A1111_SAVES_SETTINGS_WITHOUT_A_MODEL
    files, _ = a1111_engine.draw(prompt=RED_STAR)
    assert len(files) == 1


def test_a1111_with_a_size_that_is_refused(a1111_engine: OpenWebUI) -> None:
    answer, exchanges = a1111_engine.ask("POST", "generations", {"prompt": RED_STAR, "size": "8x8"})
    # It looks for pictures in the refusal, and has no words for finding none.
    assert (answer.status_code, answer.json()["detail"]) == (400, "Something went wrong :/")
    assert exchanges[-1].status == 422
    assert exchanges[-1].answer["detail"].startswith("width: Input should be greater than or equal to 64")


def _openai_pictures(client: httpx.Client, body: dict[str, Any] | None) -> list[bytes]:
    answer = client.post("/v1/images/generations", json=body).raise_for_status().json()
    return [base64.b64decode(one["b64_json"]) for one in answer["data"]]


def _a1111_pictures(client: httpx.Client, body: dict[str, Any] | None, model: str) -> list[bytes]:
    named = {**(body or {}), "override_settings": {"sd_model_checkpoint": model}}
    answer = client.post("/sdapi/v1/txt2img", json=named).raise_for_status().json()
    return [base64.b64decode(one) for one in answer["images"]]
