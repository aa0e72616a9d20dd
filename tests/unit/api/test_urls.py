"""Absolute urls behind proxies and prefixes."""

from __future__ import annotations

import httpx
import pytest

from serve_app.fake_service import FakeImageService
from serve_app.settings import Settings
from tests.unit.api.conftest import ClientFor, client_of, own_app


async def base_of(client: httpx.AsyncClient, headers: dict[str, str]) -> str:
    body = {"prompt": "a fox", "size": "64x64"}
    response = await client.post("/api/text2image", json=body, headers=headers)
    assert response.status_code == 200, response.text
    url: str = response.json()["output"][0]["url"]
    return url.partition("/images/")[0]


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({}, "http://127.0.0.1:5000"),
        ({"Host": "pictures.example:8080"}, "http://pictures.example:8080"),
        ({"Host": "[::1]:5000"}, "http://[::1]:5000"),
        ({"X-Forwarded-Proto": "https"}, "https://127.0.0.1:5000"),
        (
            {"X-Forwarded-Proto": "HTTPS, http", "X-Forwarded-Host": "a.example, b.internal"},
            "https://a.example",
        ),
        ({"X-Forwarded-Host": "a.example", "X-Forwarded-Prefix": "/serve"}, "http://a.example/serve"),
        ({"X-Forwarded-Prefix": "/a/b/, /c"}, "http://127.0.0.1:5000/a/b"),
        ({"Forwarded": 'for=1.2.3.4;proto=https;host="a.example:444", for=x'}, "https://a.example:444"),
        ({"Forwarded": "host=b.example", "X-Forwarded-Host": "a.example"}, "http://a.example"),
        # Nothing of these may end up in an answer.
        ({"X-Forwarded-Host": "evil.example/path"}, "http://127.0.0.1:5000"),
        ({"X-Forwarded-Host": "user@evil.example"}, "http://127.0.0.1:5000"),
        ({"X-Forwarded-Host": 'a"b'}, "http://127.0.0.1:5000"),
        ({"X-Forwarded-Proto": "javascript"}, "http://127.0.0.1:5000"),
        ({"X-Forwarded-Prefix": "//evil.example"}, "http://127.0.0.1:5000"),
        ({"X-Forwarded-Prefix": "/../x"}, "http://127.0.0.1:5000"),
        ({"X-Forwarded-Prefix": "serve"}, "http://127.0.0.1:5000"),
        ({"Forwarded": "garbage;;=;host"}, "http://127.0.0.1:5000"),
    ],
)
async def test_forwarded_headers(client: httpx.AsyncClient, headers: dict[str, str], base: str) -> None:
    assert await base_of(client, headers) == base


async def test_public_url_wins(settings: Settings, make_client: ClientFor) -> None:
    fixed = settings.model_copy(update={"public_url": "https://fixed.example/x/"})
    async with make_client(FakeImageService(fixed)) as client:
        assert await base_of(client, {"X-Forwarded-Host": "a.example"}) == "https://fixed.example/x"


async def test_headers_are_not_trusted_when_told_so(settings: Settings, make_client: ClientFor) -> None:
    wary = settings.model_copy(update={"trust_forwarded_headers": False})
    headers = {"X-Forwarded-Host": "a.example", "X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/serve"}
    async with make_client(FakeImageService(wary)) as client:
        assert await base_of(client, headers) == "http://127.0.0.1:5000"


async def test_a_route_prefix_of_the_server(service: FakeImageService, make_client: ClientFor) -> None:
    async with make_client(service) as client:
        app = client._transport.app  # type: ignore[attr-defined]
    transport = httpx.ASGITransport(app=app, root_path="/app")
    async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
        response = await client.post("/app/api/text2image", json={"prompt": "a fox", "size": "64x64"})
        assert response.json()["output"][0]["url"].startswith("http://h/app/images/")
        headers = {"X-Forwarded-Prefix": "/serve"}
        response = await client.post(
            "/app/api/text2image", json={"prompt": "a", "size": "64x64"}, headers=headers
        )
        assert response.json()["output"][0]["url"].startswith("http://h/serve/app/images/")


@pytest.mark.parametrize("path", ["//sdapi/v1/options", "/sdapi//v1///options"])
async def test_slashes_in_a_row_are_one(client: httpx.AsyncClient, path: str) -> None:
    for headers in ({}, {"X-Forwarded-Prefix": "/serve"}):
        response = await client.get(f"http://127.0.0.1:5000{path}", headers=headers)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({}, "http://127.0.0.1:5000"),
        ({"X-Forwarded-Proto": "https"}, "https://127.0.0.1:5000"),
        (
            {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example", "X-Forwarded-Prefix": "/serve"},
            "https://a.example/serve",
        ),
        ({"X-Forwarded-Host": "evil.example/path"}, "http://127.0.0.1:5000"),
    ],
)
async def test_a_slash_too_many_leads_to_the_same_address_as_all_urls(
    client: httpx.AsyncClient, headers: dict[str, str], base: str
) -> None:
    for path, target in {
        "/docs/": "/docs",
        "/imagine/?prompt=a%20fox": "/imagine?prompt=a%20fox",
        "//docs/": "/docs",
    }.items():
        response = await client.get(f"http://127.0.0.1:5000{path}", headers=headers)
        assert (response.status_code, response.headers["location"]) == (307, base + target)


async def test_a_slash_too_many_behind_a_public_url(settings: Settings) -> None:
    fixed = settings.model_copy(update={"public_url": "https://fixed.example/x/"})
    async with client_of(own_app(FakeImageService(fixed))) as client:
        response = await client.get("/docs/")
    assert response.headers["location"] == "https://fixed.example/x/docs"
