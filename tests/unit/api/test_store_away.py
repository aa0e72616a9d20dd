"""A store that is away or full: what needs no store goes on, what does is told so in its own shape, jobs wait."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.fake_service import FakeImageService

ID = "6f0c1b9e-0000-4000-8000-000000000000"


@pytest.fixture
def _away(service: FakeImageService, tmp_path: Path) -> None:
    """A file stands where the store's folder was: whatever is written or read there fails."""
    folder = tmp_path / "pictures"
    folder.rmdir()
    folder.write_text("no folder")


@pytest.mark.usefixtures("_away")
@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("GET", "/imagine", {"params": {"prompt": "a fox"}}),
        ("POST", "/generate", {"json": {"prompt": "a fox"}}),
        ("POST", "/v1/images/generations", {"json": {"prompt": "a fox"}}),
        ("POST", "/v1/images/generations", {"json": {"prompt": "a fox", "stream": True}}),
        ("POST", "/sdapi/v1/txt2img", {"json": {"prompt": "a fox"}}),
        ("POST", "/", {"json": {"inputs": "a fox"}}),
        ("GET", "/health", {}),
        ("GET", "/api/pools", {}),
    ],
)
async def test_what_needs_no_store_goes_on(
    client: httpx.AsyncClient, method: str, path: str, more: dict[str, Any]
) -> None:
    answer = await client.request(method, path, **more)
    assert answer.status_code == 200, answer.text


@pytest.mark.usefixtures("_away")
@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("POST", "/api/text2image", {"json": {"prompt": "a fox"}}),
        ("POST", "/v1/images/generations", {"json": {"prompt": "a fox", "response_format": "url"}}),
        ("POST", "/api/jobs", {"json": {"prompt": "a fox"}}),
    ],
)
async def test_what_needs_it_says_so_in_its_own_shape(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    more: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve_app.jobs.runner.RECOVERY_TIMEOUT_S", 0.1)
    answer = await client.request(method, path, **more)
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert error["code"] == "store_unavailable"
    assert "store does not answer" in error["message"]
    if path.startswith("/v1"):
        assert (error["type"], answer.headers["x-should-retry"]) == ("server_error", "true")


FULL = """
import asyncio, json, resource, sys
from serve_app.errors import StoreUnavailable
from serve_app.jobs.record_store import JobRecordStore
from serve_app.jobs.records import JobRecord
from serve_app.request import RequestDraft
from serve_app.settings import JobsSettings, StoreSettings
from serve_app.store import PictureStore

ID = "6f0c1b9e-0000-4000-8000-000000000000"

async def refused(attempt):
    try:
        await attempt
    except StoreUnavailable:
        return True
    return False

async def main(folder):
    settings = StoreSettings(url=folder)
    pictures, records = PictureStore(settings), JobRecordStore(settings, JobsSettings())
    # A write stops halfway with an error of the system, as on a disk that is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    await pictures.put(ID, "0_0.png", b"x" * 1000)
    record = JobRecord(id=ID, draft=RequestDraft("x" * 200_000), created_at=0.0)
    seen = [await refused(pictures.put(ID, "0_1.png", b"x" * 1_000_000)), await refused(records.put_open(record))]
    await pictures.put(ID, "0_2.png", b"y" * 1000)
    seen.append(sorted(info.path for info in await pictures.list()))
    seen.append(len(await records.open_jobs()))
    print(json.dumps(seen))

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    # A process of its own, since the limit holds for all that it writes.
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert f'[true, true, ["{ID}/0_0.png", "{ID}/0_2.png"], 0]' in done.stdout.replace("\n", "")
    files = [file.name for file in tmp_path.rglob("*") if file.is_file()]
    assert sorted(files) == ["0_0.png", "0_2.png"]
