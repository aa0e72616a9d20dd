"""Health, readiness, pools, the front page and the documentation."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from serve_app.fake_service import FakeImageService
from serve_app.pool_status import PoolState

_LISTS = (
    "sd-vae sd-modules upscalers latent-upscale-modes loras hypernetworks face-restorers realesrgan-models"
)
_MENUS = "options sd-models samplers schedulers scripts embeddings refresh-checkpoints prompt-styles"
A1111 = f"txt2img progress interrupt skip {_MENUS} {_LISTS}".split(" ")


async def test_health_is_ready_exactly_while_it_can_draw(
    client: httpx.AsyncClient, service: FakeImageService
) -> None:
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})
    service.is_ready = False
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (503, {"status": "starting"})
    assert (await client.get("/live")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/live"])
async def test_a_probe_may_ask_for_the_headers_alone(
    client: httpx.AsyncClient, service: FakeImageService, path: str
) -> None:
    service.is_ready = False
    assert (await client.head(path)).status_code == (await client.get(path)).status_code
    drawing = await client.head("/imagine", params={"prompt": "a fox"})
    assert drawing.status_code == 405  # it would draw in vain


async def test_readiness_by_pool(client: httpx.AsyncClient, service: FakeImageService) -> None:
    pool: dict[str, object] = {"name": "default", "accelerator": "fake", "model": "small-sdxl"}
    pool |= {"ready": True, "state": "ready"}
    response = await client.get("/ready")
    assert (response.status_code, response.json()) == (200, {"ready": True, "pools": [pool]})
    service.is_ready = False
    response = await client.get("/ready")
    assert response.status_code == 503
    assert response.json()["pools"][0] == pool | {"ready": False, "state": "starting"}


async def test_a_service_that_sleeps_is_healthy_and_one_that_failed_is_not(
    client: httpx.AsyncClient, service: FakeImageService
) -> None:
    service.state = PoolState.ASLEEP
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "asleep"})
    response = await client.get("/ready")
    assert response.status_code == 200
    assert response.json()["pools"][0]["ready"] is False
    service.state = PoolState.FAILED
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (503, {"status": "failed"})
    (pool,) = (await client.get("/api/pools")).json()
    assert (pool["state"], pool["last_error"]) == ("failed", "it did not start")


async def test_pools_tell_their_limits_and_what_they_do(client: httpx.AsyncClient) -> None:
    (pool,) = (await client.get("/api/pools")).json()
    assert (pool["state"], pool["replicas_running"], pool["start_s"]) == ("ready", 1, None)
    assert "facts" not in pool
    assert pool["defaults"]["num_inference_steps"] == 4
    assert "euler" in pool["capabilities"]["scheduler_names"]


async def test_drawing_without_a_pool_is_a_503(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.is_ready = False
    response = await client.get("/imagine", params={"prompt": "a fox"})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "30"


async def test_front_page(client: httpx.AsyncClient) -> None:
    page = await client.get("/", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert (await client.get("/")).json()["docs"] == "docs"


@pytest.mark.parametrize("prefix", ["", "/serve"])
async def test_docs_ask_no_outside_host(client: httpx.AsyncClient, prefix: str) -> None:
    page = (await client.get("/docs", headers={"X-Forwarded-Prefix": prefix} if prefix else {})).text
    addresses = re.findall(r"""(?:src|href)="([^"]+)"|url: ['"]([^'"]+)""", page)
    assert len(addresses) == 4
    for address in (first or second for first, second in addresses):
        assert not address.startswith(("http", "/"))
        # As a browser resolves it, after the proxy has cut the prefix off.
        path = httpx.URL(f"http://h{prefix}/docs").join(address).path.removeprefix(prefix)
        response = await client.get(path)
        assert response.status_code == 200
        assert response.content
    assert "//cdn" not in page
    assert (await client.get("/docs/assets/..%2fmain.py")).status_code == 404


async def test_openapi_describes_every_route_with_examples(client: httpx.AsyncClient) -> None:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    assert document["servers"] == [{"url": "./"}]
    assert set(document["paths"]) == {
        "/imagine",
        "/api/text2image",
        "/generate",
        "/internal/progress",
        "/internal/pending-tasks",
        *(f"/sdapi/v1/{name}" for name in A1111),
        "/",
        "/models/{model}",
        "/v1/images/generations",
        "/v1/models",
        "/v1/models/{model}",
        "/api/replay",
        "/images/{picture_id}/{name}",
        "/health",
        "/ready",
        "/live",
        "/api/pools",
        "/api/jobs",
        "/api/jobs/{job_id}",
        "/api/jobs/{job_id}/events",
        "/api/jobs/{job_id}/result",
    }
    posts = {path: methods["post"] for path, methods in document["paths"].items() if "post" in methods}
    schemas = {
        path: post["requestBody"]["content"]["application/json"]["schema"]
        for path, post in posts.items()
        if "application/json" in post.get("requestBody", {}).get("content", {})
    }
    assert len(schemas) >= 9
    for path, schema in schemas.items():
        assert schema["examples"], path
        assert "$ref" not in str(schema)
    for path in ("/generate", "/api/jobs"):
        assert "prompt" in schemas[path]["required"]
    text = str(document)
    assert "HTTPValidationError" not in text
