"""GET /images/{id}/{name}."""

from __future__ import annotations

import uuid
from pathlib import Path

import httpx
import pytest

from serve_app.fake_service import FakeImageService

ID = str(uuid.UUID(int=0xABC, version=4))


async def test_a_stored_picture(client: httpx.AsyncClient, service: FakeImageService) -> None:
    await service.store.put(ID, "0_0.png", b"png bytes")
    response = await client.get(f"/images/{ID}/0_0.png")
    assert (response.status_code, response.content) == (200, b"png bytes")
    headers = response.headers
    assert headers["content-type"] == "image/png"
    assert headers["x-content-type-options"] == "nosniff"
    assert "immutable" in headers["cache-control"]
    assert "private" in headers["cache-control"]
    head = await client.head(f"/images/{ID}/0_0.png")
    assert (head.status_code, head.content) == (200, b"")
    assert {key: head.headers[key] for key in ("etag", "content-type", "content-length")} == {
        "etag": headers["etag"],
        "content-type": "image/png",
        "content-length": "9",
    }
    unchanged = await client.get(
        f"/images/{ID}/0_0.png", headers={"If-None-Match": f'"x", W/{headers["etag"]}'}
    )
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    changed = await client.get(f"/images/{ID}/0_0.png", headers={"If-None-Match": '"other"'})
    assert changed.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"{ID}/1_0.png",
        f"{uuid.UUID(int=8, version=4)}/0_0.png",
        f"{ID}/secret.txt",
        f"{ID}/..%2f..%2fsecret.txt",
        f"{ID}/%2e%2e%2fsecret.txt",
        f"{ID}/0_0.png%00",
        f"{ID}/0_0.png%0a",
        f"{ID.upper()}/0_0.png",
        "..%2f..%2fetc/passwd",
        "%2e%2e/0_0.png",
        "%252e%252e/0_0.png",
        "..%5c..%5c/0_0.png",
        f"{ID}/link_0.png",
        f"{ID}/9_9.png",
        f"{ID}/",
        ID,
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_nothing_else_is_served(
    client: httpx.AsyncClient, service: FakeImageService, tmp_path: Path, path: str, method: str
) -> None:
    await service.store.put(ID, "0_0.png", b"png bytes")
    (tmp_path / "secret.txt").write_text("secret")
    folder = Path(service.settings.store.url)
    (folder / "secret.txt").write_text("secret")
    (folder / ID / "9_9.png").symlink_to(tmp_path / "secret.txt")
    response = await client.request(method, f"/images/{path}")
    assert response.status_code == 404
    assert "secret" not in response.text.replace("secret.txt", "")
    if method == "GET":
        assert response.json()["error"]["code"] == "not_found"
