"""API keys on the wire: which routes need one, how it is sent, and each format's refusal."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from huggingface_hub import InferenceClient

from serve_app.api.access import OPEN_FOLDERS, OPEN_PATHS, STAYS_CONNECTED
from serve_app.api_keys import key_line, new_key
from serve_app.fake_service import FakeImageService
from serve_app.settings import AccessSettings, CallerLimits, Settings, StoreSettings
from tests.unit.api.conftest import ServedAt, client_of, own_app

KEY, OTHER = new_key(), new_key()


@pytest.fixture
def guarded(tmp_path: Path) -> FakeImageService:
    """A service with a key for each of two callers."""
    file = tmp_path / "keys"
    file.write_text(f"{key_line('web', KEY)}\n{key_line('ci', OTHER)}\n")
    return FakeImageService(
        Settings(
            store=StoreSettings(url=str(tmp_path / "pictures")), access=AccessSettings(keys_file=str(file))
        )
    )


@pytest.fixture
def app(guarded: FakeImageService) -> FastAPI:
    return own_app(guarded)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


def routes(app: FastAPI) -> set[tuple[str, str]]:
    """Method and path of everything the application answers."""
    document = app.openapi()["paths"]
    described = {(method.upper(), path) for path, methods in document.items() for method in methods}
    own = {
        (method, route.path)
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    return described | own | {("GET", "/docs"), ("GET", "/"), ("GET", "/openapi.json")}


async def test_every_route_but_the_open_ones_needs_a_key(app: FastAPI, client: httpx.AsyncClient) -> None:
    guarded: list[tuple[str, str]] = []
    opened: list[tuple[str, str]] = []
    for method, path in sorted(routes(app)):
        answer = await client.request(method, path.replace("{", "").replace("}", "").replace(":path", ""))
        (guarded if answer.status_code == 401 else opened).append((method, path))
    assert {path for _, path in opened if not path.startswith(OPEN_FOLDERS)} == OPEN_PATHS
    assert {method for method, _ in opened} <= {"GET", "HEAD"}
    for route in (
        ("GET", "/imagine"),
        ("POST", "/"),
        ("POST", "/api/jobs"),
        ("DELETE", "/api/jobs/{job_id}"),
        ("GET", "/api/jobs/{job_id}"),
        ("GET", "/api/pools"),
        ("POST", "/v1/images/generations"),
        ("GET", "/v1/models"),
        ("POST", "/sdapi/v1/txt2img"),
        ("POST", "/internal/progress"),
        ("POST", "/api/replay"),
    ):
        assert route in guarded


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": f"bearer  {KEY} "}, 200),
        ({"Authorization": basic("anyone", KEY)}, 200),
        ({"Authorization": basic("", KEY)}, 200),
        ({"X-Api-Key": KEY}, 200),
        ({"Authorization": "Basic Og==", "X-Api-Key": OTHER}, 200),
        ({}, 401),
        ({"Authorization": f"Bearer {new_key()}"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"Token {KEY}"}, 401),
        ({"Authorization": KEY}, 401),
        ({"Authorization": basic(KEY, "")}, 401),
        ({"Authorization": "Basic !!!"}, 401),
        ({"Authorization": "Basic //8="}, 401),
        ({"Authorization": f"Bearer {new_key()}", "X-Api-Key": KEY}, 401),
    ],
)
async def test_how_a_key_may_be_sent(client: httpx.AsyncClient, headers: dict[str, str], status: int) -> None:
    answer = await client.get("/api/pools", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["x-request-id"]


REFUSALS: list[tuple[str, str, Any]] = [
    ("GET", "/imagine?prompt=a", lambda body: body["error"]["code"] == "invalid_api_key"),
    ("POST", "/api/text2image", lambda body: body["error"]["code"] == "invalid_api_key"),
    ("POST", "/api/jobs", lambda body: body["error"]["code"] == "invalid_api_key"),
    (
        "POST",
        "/v1/images/generations",
        lambda body: (
            body["error"]["code"] == "invalid_api_key"
            and body["error"]["type"] == "invalid_request_error"
            and body["error"]["param"] is None
        ),
    ),
    (
        "POST",
        "/sdapi/v1/txt2img",
        lambda body: body["error"] == "invalid_api_key" and "not known" in body["detail"],
    ),
    ("POST", "/", lambda body: "not known" in body["error"] and body["error_type"] == "invalid_api_key"),
]


@pytest.mark.parametrize(("method", "path", "is_right"), REFUSALS)
async def test_each_format_refuses_in_its_own_shape(
    client: httpx.AsyncClient, guarded: FakeImageService, method: str, path: str, is_right: Any
) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b'{"prompt": "a", "inputs": "a"}'

    headers = {"Authorization": f"Bearer {new_key()}"}
    content = body() if method == "POST" else None
    answer = await client.request(method, path, headers=headers, content=content)
    assert answer.status_code == 401
    assert is_right(answer.json()), answer.text
    assert guarded.drafts == []
    assert read == 0  # nobody without a key makes us read a body
    if path.startswith("/v1"):
        assert answer.headers["x-should-retry"] == "false"


async def test_keys_are_in_no_log_and_no_answer(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = new_key()
    for headers in ({"Authorization": f"Bearer {wrong}"}, {"X-Api-Key": wrong}, {"X-Api-Key": KEY}):
        answer = await client.get("/imagine", params={"prompt": "a"}, headers=headers)
        assert wrong not in answer.text + str(answer.headers)
        assert KEY not in answer.text + str(answer.headers)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("serve_app"))
    assert "draws" in ours
    assert wrong not in ours
    assert KEY not in ours


async def test_a_caller_is_its_keys_owner_however_the_key_is_sent(
    client: httpx.AsyncClient, guarded: FakeImageService
) -> None:
    order, named = {"prompt": "a", "seed": 1}, {"Idempotency-Key": "one"}
    first = await client.post("/api/jobs", json=order, headers={**named, "X-Api-Key": KEY})
    again = await client.post("/api/jobs", json=order, headers={**named, "Authorization": f"Bearer {KEY}"})
    of_other = await client.post("/api/jobs", json=order, headers={**named, "X-Api-Key": OTHER})
    assert first.json()["id"] == again.json()["id"] != of_other.json()["id"]
    await guarded.jobs.close()


async def test_the_description_says_that_a_key_is_needed(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert {"bearer": []} in document["security"]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "401" not in document["paths"]["/health"]["get"]["responses"]
    for path, shape in {"/imagine": "ErrorBody", "/v1/images/generations": "OpenAIError"}.items():
        (operation,) = document["paths"][path].values()
        assert "security" not in operation
        assert "429" in operation["responses"]
        content = operation["responses"]["401"]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(f"/{shape}")


async def test_drawings_and_jobs_know_their_owner(
    client: httpx.AsyncClient, guarded: FakeImageService
) -> None:
    for key in (KEY, OTHER):
        answer = await client.get("/imagine", params={"prompt": "a"}, headers={"X-Api-Key": key})
        assert answer.status_code == 200
    assert [draft.owner for draft in guarded.drafts] == ["web", "ci"]
    order = await client.post("/api/jobs", json={"prompt": "a"}, headers={"X-Api-Key": OTHER})
    assert (await guarded.jobs.get(order.json()["id"])).record.draft.owner == "ci"
    await guarded.jobs.close()


def test_real_clients_get_in_and_are_told(guarded: FakeImageService, served_at: ServedAt) -> None:
    url = served_at(guarded)
    drawn = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY).images.generate(prompt="a fox")
    assert drawn.data
    with pytest.raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()
    assert caught.value.code == "invalid_api_key"
    assert InferenceClient(model=url, token=KEY).text_to_image("a fox").width == 512


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/imagine", {"prompt": "a"}),
        ("POST", "/generate", {"prompt": "a"}),
        ("POST", "/api/text2image", {"prompt": "a", "number": 2}),
        ("POST", "/v1/images/generations", {"prompt": "a"}),
        ("POST", "/v1/images/generations", {"prompt": "a", "stream": True}),
        ("POST", "/sdapi/v1/txt2img", {"prompt": "a"}),
        ("POST", "/", {"inputs": "a"}),
    ],
)
async def test_what_may_go_on_without_its_caller_is_still_its_callers(
    client: httpx.AsyncClient, guarded: FakeImageService, method: str, path: str, body: dict[str, Any]
) -> None:
    guarded.settings.access.limits_by_name["ci"] = CallerLimits(images_per_minute=2)
    traceparent = f"00-{'1' * 32}-{'2' * 16}-01"
    fields = {**body, "on_disconnect": "finish"}
    sent: dict[str, Any] = {"params": fields} if method == "GET" else {"json": fields}
    headers = {"X-Api-Key": OTHER, "traceparent": traceparent}
    answers = [await client.request(method, path, headers=headers, **sent) for _ in range(3)]
    assert answers[0].status_code == 200, answers[0].text
    assert answers[2].status_code == 429
    assert {(draft.owner, draft.traceparent) for draft in guarded.drafts} == {("ci", traceparent)}


@pytest.mark.parametrize(("value", "status"), [("?1", 400), ("?0", 200), ("1", 200)])
async def test_rays_proxy_is_not_told_to_overlook_a_client_that_leaves(
    client: httpx.AsyncClient, guarded: FakeImageService, value: str, status: int
) -> None:
    headers = {"X-Api-Key": KEY, "X-Request-Disconnect-Disabled": value}
    answer = await client.get("/imagine?prompt=a", headers=headers)
    assert answer.status_code == status
    assert bool(guarded.drafts) == (status == 200)


def test_rays_names_of_these_headers_are_still_the_same() -> None:
    from ray.serve._private import constants

    assert STAYS_CONNECTED[0] == constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER
    assert constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER == "x-request-timeout-seconds"
