"""Limits of callers on the wire: 429 with an honest Retry-After in each format's shape."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from serve_app.fake_service import FakeImageService
from serve_app.jobs import JobRecord
from serve_app.settings import AccessSettings, CallerLimits, Settings, StoreSettings
from tests.unit.api.conftest import ClientFor, ServedAt

ROUTES: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/imagine?prompt=a", {}),
    ("POST", "/api/text2image", {"prompt": "a"}),
    ("POST", "/generate", {"prompt": "a"}),
    ("POST", "/", {"inputs": "a"}),
    ("POST", "/v1/images/generations", {"prompt": "a"}),
    ("POST", "/v1/images/generations", {"prompt": "a", "stream": True}),
    ("POST", "/sdapi/v1/txt2img", {"prompt": "a"}),
    ("POST", "/api/jobs", {"prompt": "a"}),
]


def service_with(tmp_path: Path, delay_s: float = 0.0, **limits: float) -> FakeImageService:
    access = AccessSettings(limits=CallerLimits.model_validate(limits))
    settings = Settings(store=StoreSettings(url=str(tmp_path / "pictures")), access=access)
    return FakeImageService(settings, delay_s=delay_s)


def code_of(body: Any) -> str:
    error = body["error"]
    return str(error["code"] if isinstance(error, dict) else body.get("error_type", error))


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_every_route_that_draws_counts(
    tmp_path: Path, make_client: ClientFor, method: str, path: str, body: dict[str, Any]
) -> None:
    service = service_with(tmp_path, images_per_minute=2)
    async with make_client(service) as client:
        answers = [await client.request(method, path, json=body or None) for _ in range(3)]
        assert [answer.status_code for answer in answers][2] == 429, answers[2].text
        assert all(answer.is_success for answer in answers[:2])
        assert code_of(answers[2].json()) == "rate_limit_exceeded"
        assert 25 <= int(answers[2].headers["retry-after"]) <= 30
        if path.startswith("/v1"):
            assert answers[2].json()["error"]["type"] == "requests"
            assert answers[2].headers["x-should-retry"] == "true"
        other = await client.request(method, path, json=body or None, headers={"X-Api-Key": "another"})
        assert other.is_success
    await service.jobs.close()


@pytest.mark.parametrize(("method", "path", "body"), ROUTES[:-1])
async def test_a_second_drawing_waits_for_the_first(
    tmp_path: Path, make_client: ClientFor, method: str, path: str, body: dict[str, Any]
) -> None:
    service = service_with(tmp_path, delay_s=0.02, max_images_in_flight=1)
    async with make_client(service) as client:
        answers = await asyncio.gather(
            client.request(method, path, json=body or None),
            client.request(method, path, json=body or None),
            client.request(method, path, json=body or None, headers={"X-Api-Key": "another"}),
        )
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
        assert answers[2].status_code == 200
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert (await client.request(method, path, json=body or None)).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "field", "status"),
    [
        ("/api/text2image", {"prompt": "a", "number": 2, "batch": 2}, "batch", 422),
        ("/v1/images/generations", {"prompt": "a", "n": 4}, "n", 400),
        ("/sdapi/v1/txt2img", {"prompt": "a", "n_iter": 4}, "batch_size", 422),
    ],
)
async def test_a_request_that_could_never_be_granted_is_no_429(
    tmp_path: Path, make_client: ClientFor, path: str, body: dict[str, Any], field: str, status: int
) -> None:
    async with make_client(service_with(tmp_path, max_images_in_flight=3)) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    named = error.get("field", error.get("param")) if isinstance(error, dict) else answer.json()["field"]
    assert "3 pictures" in answer.text
    assert named == field


async def test_a_drawing_that_goes_on_without_its_caller_counts_on(
    tmp_path: Path, make_client: ClientFor
) -> None:
    service = service_with(tmp_path, delay_s=0.05, max_images_in_flight=1)
    async with make_client(service) as client:
        left = asyncio.create_task(client.get("/imagine?prompt=a&on_disconnect=finish"))
        async with asyncio.timeout(5):
            while not service.drafts:
                await asyncio.sleep(0.005)
        left.cancel()
        await asyncio.wait({left})
        assert (await client.get("/imagine?prompt=a")).status_code == 429
        async with asyncio.timeout(5):
            while not service.finished:
                await asyncio.sleep(0.005)
            while (await client.get("/imagine?prompt=a")).status_code == 429:
                await asyncio.sleep(0.005)


async def test_a_caller_has_no_more_unfinished_jobs_than_it_may(
    tmp_path: Path, make_client: ClientFor
) -> None:
    service = service_with(tmp_path, delay_s=60.0, max_unfinished_jobs=2, images_per_minute=100)
    named = {"Idempotency-Key": "same"}
    async with make_client(service) as client:
        first = await client.post("/api/jobs", json={"prompt": "a", "seed": 1}, headers=named)
        assert (await client.post("/api/jobs", json={"prompt": "a"})).status_code == 202
        refused = await client.post("/api/jobs", json={"prompt": "a"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_jobs")
        assert int(refused.headers["retry-after"]) >= 1
        # A repetition makes no job, so it is none too many; nor does it cost a picture.
        again = await client.post("/api/jobs", json={"prompt": "a", "seed": 1}, headers=named)
        assert again.json()["id"] == first.json()["id"]
        other = await client.post("/api/jobs", json={"prompt": "a"}, headers={"X-Api-Key": "another"})
        assert other.status_code == 202
        await client.delete(f"/api/jobs/{first.json()['id']}")
        async with asyncio.timeout(5):  # a job that is being drawn ends at its next step
            while (fresh := await client.post("/api/jobs", json={"prompt": "a"})).status_code == 429:
                await asyncio.sleep(0.005)
        assert fresh.status_code == 202
    await service.jobs.close()


async def test_a_caller_who_leaves_while_its_job_is_accepted_pays_for_it(
    tmp_path: Path, make_client: ClientFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = service_with(tmp_path, images_per_minute=2)
    records = service.jobs._records
    put_open = records.put_open

    async def slow(record: JobRecord) -> None:
        await put_open(record)
        await asyncio.sleep(0.1)

    monkeypatch.setattr(records, "put_open", slow)
    async with make_client(service) as client:
        await client.get("/api/jobs/unknown")  # from here on the runner runs
        leaving = asyncio.create_task(client.post("/api/jobs", json={"prompt": "a", "num_images": 2}))
        async with asyncio.timeout(5):
            while not list(tmp_path.glob("pictures/jobs/open/*.json")):
                await asyncio.sleep(0.005)
        leaving.cancel()
        await asyncio.wait({leaving})
        async with asyncio.timeout(5):
            while not service.finished:
                await asyncio.sleep(0.005)
        assert (await client.get("/imagine?prompt=a")).status_code == 429
    await service.jobs.close()


def test_openais_client_knows_the_refusal(tmp_path: Path, served_at: ServedAt) -> None:
    url = served_at(service_with(tmp_path, images_per_minute=1))
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    assert client.images.generate(prompt="a").data
    with pytest.raises(openai.RateLimitError) as caught:
        client.images.generate(prompt="a")
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) > 50


async def test_a_repetition_is_answered_though_the_minute_is_used_up(
    tmp_path: Path, make_client: ClientFor
) -> None:
    service = service_with(tmp_path, delay_s=60.0, images_per_minute=1)
    named = {"Idempotency-Key": "same"}
    async with make_client(service) as client:
        first = await client.post("/api/jobs", json={"prompt": "a", "seed": 1}, headers=named)
        again = await client.post("/api/jobs", json={"prompt": "a", "seed": 1}, headers=named)
        assert (again.status_code, again.headers.get("idempotent-replayed")) == (202, "true"), again.text
        assert again.json()["id"] == first.json()["id"]
        changed = await client.post("/api/jobs", json={"prompt": "b"}, headers=named)
        assert changed.json()["error"]["field"] == "Idempotency-Key"
        for headers in ({}, {"Idempotency-Key": "another"}):
            refused = await client.post("/api/jobs", json={"prompt": "a"}, headers=headers)
            assert (refused.status_code, code_of(refused.json())) == (429, "rate_limit_exceeded")
            assert int(refused.headers["retry-after"]) > 50
    await service.jobs.close()
