"""``/api/jobs`` over a runner in this process."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serve_app.api.jobs import JobRequest
from serve_app.errors import GenerationFailed, JobsUnavailable, StoreUnavailable
from serve_app.fake_service import FakeImageService
from serve_app.settings import JobsSettings, Settings, StoreSettings
from tests.unit.api.conftest import ClientFor, client_for
from tests.unit.api.ordering import SMALL, end_of, post_job
from tests.unit.fuzzing import fuzzed


async def test_a_job_from_order_to_picture(client: httpx.AsyncClient, service: FakeImageService) -> None:
    fields = {"num_images": 2, "format": "webp", "num_inference_steps": 3, "priority": "batch"}
    accepted = await post_job(client, **fields, negative_prompt="x", guidance_scale=2, scheduler="ddim")
    assert accepted.status_code == 202
    body = accepted.json()
    assert (body["state"], body["position"], body["seed"], body["result"]) == ("queued", 0, 7, None)
    address = f"http://127.0.0.1:5000/api/jobs/{body['id']}"
    assert body["urls"] == {
        "status": address,
        "events": f"{address}/events",
        "cancel": address,
        "result": f"{address}/result",
    }
    assert accepted.headers["location"] == address
    ended = await end_of(client, body["id"])
    assert (ended["state"], ended["progress"], ended["step"], ended["num_inference_steps"]) == (
        "finished",
        1.0,
        3,
        3,
    )
    assert ended["created_at"] <= ended["started_at"] <= ended["ended_at"]
    result = ended["result"]
    assert [image["seed"] for image in result["images"]] == [7, 8]
    assert (result["pool"], result["model"], result["guidance_scale"]) == ("default", "small-sdxl", 2)
    assert (await client.get(body["urls"]["result"])).json() == result
    picture = await client.get(result["images"][1]["url"])
    assert picture.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(picture.content)).size == (64, 64)
    draft = service.drafts[0]
    assert (draft.negative_prompt, draft.scheduler_name, draft.priority) == ("x", "ddim", "batch")
    assert draft.deadline is None


async def test_urls_hold_behind_a_proxy(client: httpx.AsyncClient) -> None:
    headers = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "example.com",
        "X-Forwarded-Prefix": "/serve",
    }
    body = (await client.post("/api/jobs", json=SMALL, headers=headers)).json()
    assert body["urls"]["status"] == f"https://example.com/serve/api/jobs/{body['id']}"


async def test_cancelling(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.delay_s = 30.0
    job_id = (await post_job(client)).json()["id"]
    waiting = await client.get(f"/api/jobs/{job_id}/result")
    assert waiting.status_code == 202
    assert waiting.headers["retry-after"] == "1"
    for _ in range(2):
        answer = await client.delete(f"/api/jobs/{job_id}")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    result = await client.get(f"/api/jobs/{job_id}/result")
    assert result.status_code == 409
    assert "cancelled" in result.json()["error"]["message"]


async def test_a_failed_job_says_why(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.failure = GenerationFailed("the picture is not finite")
    job_id = (await post_job(client)).json()["id"]
    body = await end_of(client, job_id)
    assert body["error"] == {
        "code": "generation_failed",
        "message": "the picture is not finite",
        "field": None,
    }
    result = await client.get(f"/api/jobs/{job_id}/result")
    assert result.status_code == 409
    assert "not finite" in result.json()["error"]["message"]


async def test_idempotency_keys(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.delay_s = 0.02
    key = {"Idempotency-Key": "order-1"}

    async def post(body: dict[str, Any], **headers: str) -> httpx.Response:
        return await client.post("/api/jobs", json=body, headers={**key, **headers})

    first = await post(SMALL)
    again = await post({**SMALL, "negative_prompt": None})  # null means absent: the same request
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    await end_of(client, first.json()["id"])
    late = await post(SMALL)
    assert (late.status_code, late.json()["id"], late.json()["state"]) == (
        200,
        first.json()["id"],
        "finished",
    )
    other = await post({**SMALL, "seed": 8})
    assert (other.status_code, other.json()["error"]["field"]) == (422, "Idempotency-Key")
    stranger = await post(SMALL, Authorization="Bearer somebody else")
    assert stranger.json()["id"] != first.json()["id"]
    assert len(service.drafts) == 2
    for bad in ("", " ", "x" * 256):
        refused = await post(SMALL, **{"Idempotency-Key": bad})
        assert (refused.status_code, refused.json()["error"]["field"]) == (422, "Idempotency-Key")


async def test_a_key_with_a_random_seed_keeps_its_seed(client: httpx.AsyncClient) -> None:
    body = {"prompt": "a fox", "width": 64}
    answers = [
        (await client.post("/api/jobs", json=body, headers={"Idempotency-Key": "k"})).json() for _ in range(2)
    ]
    assert answers[0]["seed"] == answers[1]["seed"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"width": 65, "height": 64}, "width"),
        ({"width": "64"}, "width"),
        ({"width": 5000}, "width"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_images": 17}, "num_images"),
        ({"guidance_scale": True}, "guidance_scale"),
        ({"seed": -1}, "seed"),
        ({"scheduler": "abacus"}, "scheduler"),
        ({"format": "gif"}, "format"),
        ({"quality": 101}, "quality"),
        ({"priority": "urgent"}, "priority"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": 1e9}, "deadline_s"),
        ({"preview_every": -1}, "preview_every"),
        ({"pool": "nobody"}, "pool"),
        ({"model": "nothing"}, "model"),
        ({"webhook_url": "https://example.com"}, "webhook_url"),
        ({"promt": "a typing mistake"}, "promt"),
    ],
)
async def test_bad_input_names_the_field(
    client: httpx.AsyncClient, service: FakeImageService, fields: dict[str, Any], field: str
) -> None:
    answer = await post_job(client, **fields)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field), answer.text
    assert service.drafts == []


async def test_webhooks_to_the_own_network_are_refused(tmp_path: Path, make_client: ClientFor) -> None:
    jobs = JobsSettings.model_validate({"webhook_secret": "a secret of at least 16 bytes"})
    settings = Settings(store=StoreSettings(url=str(tmp_path)), jobs=jobs)
    async with make_client(FakeImageService(settings)) as client:
        for url in ("http://example.com/", "https://127.0.0.1/", "https://localhost/", "https://2130706433/"):
            answer = await post_job(client, webhook_url=url)
            assert (answer.status_code, answer.json()["error"]["field"]) == (422, "webhook_url")


_values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=10)
    | st.sampled_from(["64", 64, 7, "png", "batch", "euler", 0.5, 10**30, "https://127.0.0.1/", [], {}])
)


@fuzzed(60)
@given(fields=st.dictionaries(st.sampled_from(sorted(JobRequest.model_fields)), _values, max_size=4))
def test_no_body_is_answered_with_a_5xx(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    async def send() -> httpx.Response:
        store = StoreSettings(url=str(tmp_path_factory.getbasetemp() / "fuzzed"))
        service = FakeImageService(Settings(store=store))
        async with client_for(service) as client:
            answer = await client.post("/api/jobs", content=json.dumps({**SMALL, "num_images": 1, **fields}))
        await service.jobs.close()
        return answer

    answer = asyncio.run(send())
    assert answer.status_code in (202, 422), answer.text
    if answer.status_code == 422:
        assert answer.json()["error"]["field"] in {*SMALL, *fields}


async def test_bytes_that_are_no_json_object(client: httpx.AsyncClient) -> None:
    for body in (b"", b"{", b"[]", b'{"prompt": "\xff"}'):
        assert (await client.post("/api/jobs", content=body)).status_code == 400


async def test_json_without_its_content_type(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await client.post("/api/jobs", content=json.dumps(SMALL), headers=headers)
    assert answer.status_code == 202


async def test_too_many_jobs(tmp_path: Path, make_client: ClientFor) -> None:
    settings = Settings(store=StoreSettings(url=str(tmp_path)), jobs=JobsSettings(max_unfinished=1))
    async with make_client(FakeImageService(settings, delay_s=30.0)) as client:
        await post_job(client)
        refused = await post_job(client)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "too_many_jobs"


@pytest.mark.parametrize("failure", [JobsUnavailable("restarting", 2.0), StoreUnavailable("away")])
async def test_when_the_keeper_is_away(
    client: httpx.AsyncClient,
    service: FakeImageService,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
) -> None:
    async def refuse(*_: object) -> None:
        raise failure

    monkeypatch.setattr(service.jobs, "submit", refuse)
    monkeypatch.setattr(service.jobs, "get", refuse)
    for answer in (
        await post_job(client),
        await client.get("/api/jobs/x"),
        await client.get("/api/jobs/x/events"),
    ):
        assert answer.status_code == 503
        if isinstance(failure, JobsUnavailable):
            assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/result")]
)
@pytest.mark.parametrize("job_id", ["6f0c1b9e-0000-4000-8000-000000000000", "nope", "%2e%2e"])
async def test_unknown_jobs(client: httpx.AsyncClient, method: str, path: str, job_id: str) -> None:
    answer = await client.request(method, f"/api/jobs/{job_id}{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


async def test_a_deadline_is_kept(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.delay_s = 30.0
    job_id = (await post_job(client, deadline_s=0.1)).json()["id"]
    body = await end_of(client, job_id)
    assert (body["state"], body["error"]["code"]) == ("failed", "deadline_exceeded")
    assert body["ended_at"] < time.time() + 1
