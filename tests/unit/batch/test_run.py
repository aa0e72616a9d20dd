"""A batch against the real HTTP application over a fake service: all of it, again, edited, refused, interrupted."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
from PIL import Image

from serve_app.batch import (
    BatchOutput,
    BatchRun,
    JobsClient,
    ServiceUnreachable,
    Summary,
    client,
    read_prompts,
)
from serve_app.errors import GenerationFailed
from serve_app.fake_service import FakeImageService
from serve_app.object_store import open_store
from serve_app.settings import Settings, StoreSettings
from tests.unit.api.conftest import client_for
from tests.unit.test_store import make_bucket, s3_endpoint, s3_settings

__all__ = ["s3_endpoint"]  # a fixture


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[FakeImageService]:
    made = FakeImageService(Settings(store=StoreSettings(url=str(tmp_path / "pictures"))))
    yield made
    await made.jobs.close()


async def _run(service: FakeImageService, text: str, folder: Path, **options: Any) -> Summary:
    lines = read_prompts(text, defaults={"priority": "batch", "width": 64, "height": 64})
    async with client_for(service) as http:
        return await BatchRun(lines, JobsClient(http), BatchOutput(str(folder)), **options).run()


def _manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


async def test_pictures_and_manifest(service: FakeImageService, tmp_path: Path) -> None:
    text = '{"prompt": "a fox", "id": "fox", "seed": 5, "num_images": 2}\n{"prompt": "a boat", "format": "webp"}\n'
    summary = await _run(service, text, tmp_path / "out")
    assert (summary.lines, summary.drawn, summary.images, summary.complete) == (2, 2, 3, True)
    fox, boat = _manifest(tmp_path / "out")
    assert (fox["line"], fox["id"], fox["state"], fox["attempts"]) == (1, "fox", "finished", 1)
    assert [image["seed"] for image in fox["images"]] == [5, 6]
    assert boat["drawn"]["pool"] == "default"
    for image in [*fox["images"], *boat["images"]]:
        data = (tmp_path / "out" / image["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (image["bytes"], image["sha256"])
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == (image["width"], image["height"]) == (64, 64)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"manifest.jsonl", *(image["file"] for image in fox["images"] + boat["images"])}
    assert {draft.priority.value for draft in service.drafts} == {"batch"}


async def test_a_second_run_draws_what_is_missing_or_edited_and_no_more(
    service: FakeImageService, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    await _run(service, "a fox\na boat\na star\n", out)
    assert len(service.drafts) == 3
    again = await _run(service, "a fox\na boat\na star\n", out)
    assert (again.already, again.drawn, len(service.drafts)) == (3, 0, 3)
    lost = _manifest(out)[2]["images"][0]["file"]
    kept = (out / lost).read_bytes()
    (out / lost).unlink()
    changed = await _run(service, "a tree\na fox\na boat at sea\na star\n", out)
    assert (changed.already, changed.drawn) == (1, 3)
    # The star's job is known by its key: its picture is fetched again, not drawn again.
    assert {draft.prompt for draft in service.drafts[3:]} == {"a tree", "a boat at sea"}
    assert len(service.drafts) == 5
    assert (out / lost).read_bytes() == kept
    assert [(one["line"], one["request"]["prompt"]) for one in _manifest(out)] == [
        *((1, "a tree"), (2, "a fox"), (3, "a boat at sea"), (4, "a star"), (None, "a boat"))
    ]


async def test_a_refused_line_is_told_with_its_field_and_the_others_are_drawn(
    service: FakeImageService, tmp_path: Path
) -> None:
    text = '{"prompt": "a fox", "width": 7}\n{"prompt": "a boat"}\n{"prompt": "a", "scheduler": "abacus"}\n'
    summary = await _run(service, text, tmp_path / "out")
    assert (summary.drawn, summary.failed, summary.complete) == (1, 2, False)
    narrow, boat, unknown = _manifest(tmp_path / "out")
    assert (narrow["error"]["field"], narrow["error"]["status"]) == ("width", 422)
    assert "greater than or equal to 64" in narrow["error"]["message"]
    assert boat["error"] is None
    assert unknown["error"]["field"] == "scheduler"
    assert len(service.drafts) == 1


async def test_a_failed_drawing_is_tried_again_now_and_in_the_next_run(
    service: FakeImageService, tmp_path: Path
) -> None:
    service.failure = GenerationFailed("the device hiccuped")
    summary = await _run(service, "a fox\n", tmp_path / "out", max_attempts=2)
    assert (summary.failed, _manifest(tmp_path / "out")[0]["attempts"]) == (1, 2)
    assert _manifest(tmp_path / "out")[0]["error"]["message"] == "the device hiccuped"
    service.failure = None
    summary = await _run(service, "a fox\n", tmp_path / "out")
    assert (summary.drawn, _manifest(tmp_path / "out")[0]["attempts"]) == (1, 3)


async def test_a_stopped_run_leaves_a_manifest_and_the_next_one_goes_on(
    service: FakeImageService, tmp_path: Path
) -> None:
    service.delay_s = 0.02
    text = "".join(f"prompt {number}\n" for number in range(12))
    running = asyncio.create_task(_run(service, text, tmp_path / "out", concurrency=2))
    async with asyncio.timeout(20):
        while len(list((tmp_path / "out").glob("*.png"))) < 3:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    drawn = len(_manifest(tmp_path / "out"))
    assert 2 <= drawn < 12
    summary = await _run(service, text, tmp_path / "out")
    assert (summary.already, summary.drawn) == (drawn, 12 - drawn)
    assert len(service.drafts) == 12


class _Moody(httpx.AsyncBaseTransport):
    """Answers from a list before it lets requests through."""

    def __init__(self, inner: httpx.AsyncBaseTransport, answers: list[httpx.Response | Exception]) -> None:
        self._inner, self.answers = inner, answers
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return await self._inner.handle_async_request(request)


def _moody(
    service: FakeImageService, answers: list[httpx.Response | Exception]
) -> tuple[httpx.AsyncClient, _Moody]:
    moody = _Moody(client_for(service)._transport, answers)
    return httpx.AsyncClient(transport=moody, base_url="http://127.0.0.1:5000/"), moody


async def test_refusals_that_pass_are_waited_out(
    service: FakeImageService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.01)
    answers: list[httpx.Response | Exception] = [
        httpx.Response(503, headers={"Retry-After": "0"}),
        httpx.ConnectError("refused"),
        httpx.Response(429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        httpx.Response(502, text="<html>"),
        httpx.Response(500),
    ]
    http, moody = _moody(service, answers)
    async with http:
        lines = read_prompts("a fox\n", defaults={})
        summary = await BatchRun(lines, JobsClient(http), BatchOutput(str(tmp_path / "out"))).run()
    assert summary.complete
    assert moody.asked > 5
    assert len(service.drafts) == 1


async def test_a_gateway_that_asks_for_no_pause_is_not_flooded(service: FakeImageService) -> None:
    http, moody = _moody(service, [httpx.Response(503, headers={"Retry-After": "0"}) for _ in range(10_000)])
    async with http:
        waiting = asyncio.create_task(JobsClient(http).submit({"prompt": "a"}, "first"))
        await asyncio.sleep(0.3)
        waiting.cancel()
        await asyncio.wait({waiting})
    assert moody.asked == 1


async def test_what_the_service_asks_of_one_call_holds_for_all(
    service: FakeImageService, tmp_path: Path
) -> None:
    http, moody = _moody(service, [httpx.Response(429, headers={"Retry-After": "1"})])
    async with http:
        jobs = JobsClient(http)
        first = asyncio.create_task(jobs.submit({"prompt": "a"}, "first"))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(jobs.submit({"prompt": "b"}, "second"))
        await asyncio.sleep(0.4)
        assert moody.asked == 1
        await asyncio.gather(first, second)
    assert moody.asked == 3


async def test_a_line_that_the_service_cannot_stomach_fails_alone(
    service: FakeImageService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)
    http, _ = _moody(service, [httpx.Response(500) for _ in range(client.MAX_FAULTS)])
    async with http:
        lines = read_prompts("a fox\na boat\n", defaults={})
        run = BatchRun(lines, JobsClient(http), BatchOutput(str(tmp_path / "out")), concurrency=1)
        summary = await run.run()
    assert (summary.failed, summary.drawn) == (1, 1)
    assert _manifest(tmp_path / "out")[0]["error"]["status"] == 500


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (httpx.ConnectError("nobody there"), "nobody there"),
        (httpx.Response(503), "has not taken a request for 0 s"),
        (
            httpx.Response(401, json={"error": {"code": "unauthorized", "message": "no key"}}),
            "does not let us in",
        ),
        (httpx.Response(404), "check --url"),
        (httpx.Response(200, text="hello"), "check --url"),
    ],
)
async def test_a_run_without_a_service_ends_and_says_why(
    service: FakeImageService, tmp_path: Path, answer: httpx.Response | Exception, sentence: str
) -> None:
    http, _ = _moody(service, [answer] * 100)
    async with http:
        run = BatchRun(
            read_prompts("a fox\n", defaults={}),
            JobsClient(http, patience_s=0.0),
            BatchOutput(str(tmp_path / "out")),
        )
        with pytest.raises(ServiceUnreachable, match=sentence):
            await run.run()
    assert run.summary.missing == 1


async def test_junk_of_a_killed_run_and_of_others_is_no_record(
    service: FakeImageService, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "manifest.parts").mkdir(parents=True)
    line = read_prompts("a fox\n", defaults={"priority": "batch", "width": 64, "height": 64})[0]
    (out / f"{line.picture_name(0)}#1").write_bytes(b"half")
    (out / "manifest.parts" / f"{line.key}.json").write_bytes(b'{"key": ')
    (out / "manifest.jsonl").write_text("no record\n")
    (out / "notes.txt").write_text("mine")
    summary = await _run(service, "a fox\n", out)
    assert summary.drawn == 1
    assert {path.name for path in out.iterdir()} == {"manifest.jsonl", "notes.txt", line.picture_name(0)}


async def test_an_object_store_is_gone_on_with_like_a_folder(
    service: FakeImageService, s3_endpoint: str
) -> None:
    make_bucket(s3_endpoint)
    settings = s3_settings(s3_endpoint, "batch-of-today")
    lines = read_prompts("a fox\na boat\n", defaults={"width": 64, "height": 64})
    for lines_now, drawn in ((lines[:1], 1), (lines, 1), (lines, 0)):
        async with client_for(service) as http:
            output = BatchOutput(settings.url, settings.options)
            assert (await BatchRun(lines_now, JobsClient(http), output).run()).drawn == drawn
    store = open_store(settings)
    found = {meta["path"]: meta["size"] async for chunk in obstore.list(store) for meta in chunk}
    manifest = bytes(await (await obstore.get_async(store, "manifest.jsonl")).bytes_async()).splitlines()
    images = [json.loads(line)["images"][0] for line in manifest]
    assert {image["file"]: image["bytes"] for image in images} == {
        path: size for path, size in found.items() if path != "manifest.jsonl"
    }
    assert len(service.drafts) == 2
