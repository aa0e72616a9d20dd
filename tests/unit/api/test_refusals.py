"""Refusals common to the wire formats: bad bytes, domain errors, large bodies, and a fuzz without any 5xx."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve_app import errors
from serve_app.capabilities import Capabilities, ModelDefaults, PoolFacts
from serve_app.fake_service import FakeImageService
from serve_app.settings import Settings, StoreSettings
from tests.unit import fuzzing
from tests.unit.api.conftest import client_for

JSON_ROUTES = ["/api/text2image", "/generate"]


@pytest.mark.parametrize("route", JSON_ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b"null",
        b"[]",
        b'"prompt"',
        b"prompt=a+fox",
        b'{"prompt": "\xff"}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
)
async def test_bytes_that_are_no_json_object(client: httpx.AsyncClient, route: str, body: bytes) -> None:
    response = await client.post(route, content=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "malformed"


@pytest.mark.parametrize("route", JSON_ROUTES)
@pytest.mark.parametrize(
    ("text", "field"),
    [
        (r'{"prompt": "\ud800"}', "prompt"),
        (r'{"prompt": "a\u0000b"}', "prompt"),
        ('{"prompt": "a", "seed": NaN}', "seed"),
        ('{"prompt": "a", "guidance_scale": NaN}', "guidance_scale"),
        ('{"prompt": "a", "guidance_scale": Infinity}', "guidance_scale"),
        ('{"prompt": "a", "guidance_scale": 1e999}', "guidance_scale"),
        ('{"prompt": "a", "guidance_scale": true}', "guidance_scale"),
        ("{}", "prompt"),
    ],
)
async def test_odd_values_are_refused_by_name(
    client: httpx.AsyncClient, route: str, text: str, field: str
) -> None:
    response = await client.post(route, content=text)
    assert response.status_code == 422
    assert response.json()["error"]["field"] == field


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (errors.QueueFull("full", 2.1), 503, "overloaded"),
        (errors.DeadlineUnreachable("late", 0.0), 503, "overloaded"),
        (errors.PoolUnavailable("gone"), 503, "unavailable"),
        (errors.StoreUnavailable("gone"), 503, "store_unavailable"),
        (errors.DeadlineExceeded("late"), 504, "deadline_exceeded"),
        (errors.GenerationFailed("not finite"), 500, "generation_failed"),
        (errors.GenerationCancelled("cancelled"), 499, "cancelled"),
        (errors.ConfigurationError("no model"), 500, "internal"),
        (RuntimeError("secret detail"), 500, "internal"),
    ],
)
@pytest.mark.parametrize("route", ["/imagine", *JSON_ROUTES])
async def test_domain_errors_become_statuses(
    client: httpx.AsyncClient,
    service: FakeImageService,
    route: str,
    failure: Exception,
    status: int,
    code: str,
) -> None:
    service.failure = failure
    if route == "/imagine":
        response = await client.get(route, params={"prompt": "a fox"})
    else:
        response = await client.post(route, json={"prompt": "a fox"})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert "secret" not in response.text
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"]
    if isinstance(failure, errors.Overloaded):
        assert response.headers["retry-after"] == ("3" if failure.retry_after_s == 2.1 else "1")


@pytest.mark.parametrize("route", JSON_ROUTES)
async def test_large_bodies_are_refused_before_they_are_read(client: httpx.AsyncClient, route: str) -> None:
    chunks_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks_read
        for _ in range(1000):
            chunks_read += 1
            yield b"x" * 100_000

    streamed = await client.post(route, content=endless())
    announced = await client.post(route, content=b"x" * 1_000_001)
    for response in (streamed, announced):
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "content_too_large"
    assert chunks_read < 15


@pytest.mark.parametrize(
    "route",
    [
        *JSON_ROUTES,
        "/",
        "/v1/images/generations",
        "/sdapi/v1/txt2img",
        "/sdapi/v1/options",
        "/internal/progress",
    ],
)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"prompt": "\xff"}', 400),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400),
        (b'{"prompt": "' + b"x" * 10_000_000 + b'"}', 413),
    ],
    ids=["cut", "deep", "not UTF-8", "digits", "10 MB"],
)
async def test_every_json_route_refuses_what_it_cannot_read(
    client: httpx.AsyncClient, service: FakeImageService, route: str, body: bytes, status: int
) -> None:
    response = await client.post(route, content=body)
    assert response.status_code == status
    assert response.json()
    assert response.headers["x-request-id"]
    assert service.drafts == []


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/generate", 405)])
async def test_no_such_route(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"]


async def test_harmless_request_ids_are_kept_and_others_replaced(client: httpx.AsyncClient) -> None:
    kept = await client.get("/live", headers={"X-Request-Id": "trace-1.a:b"})
    assert kept.headers["x-request-id"] == "trace-1.a:b"
    for bad in ("a b", "x" * 129, "-lead", "<script>", ""):
        replaced = await client.get("/live", headers={"X-Request-Id": bad})
        assert len(replaced.headers["x-request-id"]) == 36


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
    | st.sampled_from(["64x64", "0", "1e3", "-1", "DDIMScheduler", "\0", "\ud800", 64, 128, 2**32, 10**30]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
_fields = st.sampled_from(
    [
        "negative_prompt",
        "number",
        "batch",
        "size",
        "step",
        "seed",
        "guidance_scale",
        "width",
        "height",
        "num_inference_steps",
        "scheduler",
        "pool",
        "model",
        "img_size",
        "format",
        "quality",
    ]
)
_small = PoolFacts(
    pool="default",
    model="small-sdxl",
    accelerator="fake",
    defaults=ModelDefaults(64, 64, 2, 0.0, "ddim"),
    capabilities=Capabilities(max_rows=8, max_side=128, scheduler_names=("ddim",)),
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> FakeImageService:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    return FakeImageService(Settings(store=StoreSettings(url=str(folder))), _small)


@fuzzing.fuzzed(150)
@given(
    route=st.sampled_from(JSON_ROUTES),
    prompt=_json | st.just("a fox"),
    fields=st.dictionaries(_fields, _json),
)
@example(route="/generate", prompt="a", fields={"scheduler": "\ud800"})
def test_no_json_body_is_answered_with_a_5xx(
    fuzzed: FakeImageService, route: str, prompt: Any, fields: dict[str, Any]
) -> None:
    async def send() -> httpx.Response:
        async with client_for(fuzzed) as client:
            return await client.post(route, content=json.dumps({"prompt": prompt, **fields}))

    response = asyncio.run(send())
    assert response.status_code in (200, 422), response.text
    if response.status_code == 422:
        assert response.json()["error"]["field"] in {"prompt", *fields}


@fuzzing.fuzzed(100)
@given(
    query=st.dictionaries(_fields, st.text(max_size=12) | st.integers().map(str)), raw=st.binary(max_size=20)
)
def test_no_query_is_answered_with_a_5xx(fuzzed: FakeImageService, query: dict[str, str], raw: bytes) -> None:
    async def send() -> httpx.Response:
        async with client_for(fuzzed) as client:
            # Percent-encoded bytes that need not be UTF-8.
            tail = "".join(f"%{byte:02x}" for byte in raw)
            return await client.get(f"/imagine?{urlencode(query)}&prompt=a{tail}")

    assert asyncio.run(send()).status_code in (200, 422)


@fuzzing.fuzzed(60)
@given(body=st.binary(max_size=60))
def test_no_bytes_are_answered_with_a_5xx(fuzzed: FakeImageService, body: bytes) -> None:
    async def send() -> httpx.Response:
        async with client_for(fuzzed) as client:
            return await client.post("/generate", content=body)

    assert asyncio.run(send()).status_code in (400, 422)
