"""What answers carry for browsers, signed addresses on the wire, and that prompts stay out of the log."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image
from pydantic import SecretStr

from serve_app.api import build_app
from serve_app.api.deps import get_service
from serve_app.api_keys import key_line, new_key
from serve_app.errors import ImagineError
from serve_app.fake_service import FakeImageService
from serve_app.settings import AccessSettings, Settings, StoreSettings

KEY = {"X-Api-Key": new_key()}


def client_of(service: FakeImageService) -> httpx.AsyncClient:
    app = build_app(service.settings)
    app.dependency_overrides[get_service] = lambda: service
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5000")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/imagine?prompt=a"),
        ("GET", "/imagine"),
        ("GET", "/no/such/path"),
        ("POST", "/generate"),
        ("GET", "/images/x/y"),
        ("GET", "/v1/models"),
        ("OPTIONS", "/imagine"),
    ],
)
async def test_every_answer_has_safe_headers_and_no_other_site_may_read_it(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    headers = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
    answer = await client.request(method, path, headers=headers)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_fault_of_our_own_has_them_too(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.failure = RuntimeError("inside")
    answer = await client.get("/imagine?prompt=a")
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (500, "nosniff")
    assert "inside" not in answer.text


async def test_signed_addresses_open_without_a_key_and_others_do_not(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(key_line("web", KEY["X-Api-Key"]))
    access = AccessSettings(
        keys_file=str(tmp_path / "keys"), image_url_secret=SecretStr("a secret of some length")
    )
    service = FakeImageService(Settings(store=StoreSettings(url=str(tmp_path / "pictures")), access=access))
    async with client_of(service) as client:
        two = await client.post("/api/text2image", json={"prompt": "a", "number": 2}, headers=KEY)
        openai = await client.post(
            "/v1/images/generations", json={"prompt": "a", "response_format": "url"}, headers=KEY
        )
        job = (await client.post("/api/jobs", json={"prompt": "a"}, headers=KEY)).json()
        events = await client.get(urlsplit(job["urls"]["events"]).path, headers=KEY)
        assert "signature=" in events.text
        result = await client.get(urlsplit(job["urls"]["result"]).path, headers=KEY)
        urls = [entry["url"] for entry in two.json()["output"] + openai.json()["data"]]
        urls += [image["url"] for image in result.json()["images"]]
        assert len(urls) == 5
        for url in urls:
            assert (await client.get(url)).status_code == 200
            assert (await client.head(url)).status_code == 200
            plain = url.partition("?")[0]
            assert (await client.get(plain)).status_code == 401
            assert (await client.get(url[:-2])).status_code == 401
            assert (await client.get(plain, headers=KEY)).status_code == 200
        # Nor does a signature open anything else.
        query = urls[0].partition("?")[2]
        assert (await client.get(f"/api/pools?{query}")).status_code == 401
    await service.jobs.close()


async def test_prompts_are_in_no_log_unless_asked_for(
    client: httpx.AsyncClient, service: FakeImageService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await client.post("/generate", json={"prompt": "a very private fox"})
    await client.post("/sdapi/v1/txt2img", json={"prompt": "a very private fox"})
    service.failure = ImagineError("it failed")
    await client.post("/generate", json={"prompt": "a very private fox"})
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("serve_app")]
    assert ours
    assert "private" not in "\n".join(ours)


async def test_files_say_how_they_were_drawn_only_where_they_may(tmp_path: Path) -> None:
    for told in (True, False):
        settings = Settings(store=StoreSettings(url=str(tmp_path)), picture_metadata=told)
        async with client_of(FakeImageService(settings)) as client:
            for kind in ("png", "jpeg", "webp"):
                answer = await client.get(f"/imagine?prompt=a+private+fox&format={kind}")
                with Image.open(io.BytesIO(answer.content)) as picture:
                    assert bool(picture.info.keys() & {"parameters", "exif"}) == told
                assert (b"private" in answer.content or b"p\0r\0i\0v" in answer.content) == told
