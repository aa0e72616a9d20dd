"""Keys, limits and Ray's own request headers on a real cluster: a second application with two ingress replicas."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.api_keys import key_line, new_key
from serve_app.settings import AccessSettings, CallerLimits, PoolSettings, Settings, StoreSettings
from tests.running_service import RunningService

WEB, PAGE, OLD = new_key(), new_key(), new_key()
STEP_S = 0.02  # of the fake pipeline, whatever the rows
LONG: dict[str, Any] = {
    "prompt": "a",
    "num_inference_steps": 150,
    "guidance_scale": 0,
    "width": 64,
    "height": 64,
}
SHORT: dict[str, Any] = {**LONG, "num_inference_steps": 1}


@dataclass(frozen=True)
class Guarded:
    """The second application.

    Attributes:
        url: Its address.
        keys: The file of keys.
    """

    url: str
    keys: Path

    def get(
        self, path: str, key: str | None, headers: dict[str, str] | None = None, **query: Any
    ) -> httpx.Response:
        sent = {**(headers or {}), **({"Authorization": f"Bearer {key}"} if key else {})}
        return httpx.get(f"{self.url}/{path}", params=query, headers=sent, timeout=60.0, trust_env=False)


@pytest.fixture(scope="module")
def guarded(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    from ray import serve

    from serve_app.app import build

    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys"
    keys.write_text("\n".join([key_line("web", WEB), key_line("page", PAGE), key_line("web", OLD)]))
    settings = Settings(
        pools=[
            PoolSettings(
                name="guarded",
                accelerator="fake",
                model="fake",
                max_rows=2,
                ray_actor_options={"num_cpus": 0.01},
            )
        ],
        store=StoreSettings(url=str(folder / "pictures")),
        access=AccessSettings(
            keys_file=str(keys),
            limits=CallerLimits(max_images_in_flight=2),
            limits_by_name={"page": CallerLimits()},
        ),
        ingress_replicas=2,
        max_ongoing_requests=8,
        max_queued_requests=8,  # Serve counts those that it is just handing on, as the six at once below
        request_timeout_s=15.0,
    )
    serve.run(build(settings), name="guarded", route_prefix="/guarded")
    try:
        yield Guarded(f"{service.url}/guarded", keys)
    finally:
        serve.delete("guarded")


def test_limits_hold_over_both_ingress_replicas(guarded: Guarded) -> None:
    with ThreadPoolExecutor(6) as pool:
        long = [pool.submit(guarded.get, "imagine", key, **LONG) for key in (WEB, OLD) * 3]
        statuses = sorted(answer.result().status_code for answer in long)
    assert statuses == [200, 200, 429, 429, 429, 429]  # both keys are of the same caller
    assert guarded.get("imagine", WEB, **SHORT).status_code == 200
    with ThreadPoolExecutor(4) as pool:
        short = [pool.submit(guarded.get, "imagine", PAGE, **SHORT) for _ in range(4)]
        assert {answer.result().status_code for answer in short} == {200}


def test_what_no_queue_has_room_for_is_refused_by_the_proxy(guarded: Guarded) -> None:
    asked = {**SHORT, "num_inference_steps": 20}
    # One client for all: each would take its time to be made, and they are to come at once.
    limits = httpx.Limits(max_connections=80)
    key = {"Authorization": f"Bearer {PAGE}"}
    with (
        httpx.Client(headers=key, timeout=60.0, trust_env=False, limits=limits) as client,
        ThreadPoolExecutor(80) as pool,
    ):
        answers = list(pool.map(lambda _: client.get(f"{guarded.url}/imagine", params=asked), range(80)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(503, "5")}
    assert len(refused) < 80
    assert guarded.get("imagine", PAGE, **SHORT).status_code == 200


def test_a_key_is_needed_until_it_is_taken_out(guarded: Guarded) -> None:
    assert guarded.get("health", None).status_code == 200
    assert guarded.get("docs", None).status_code == 200
    refused = guarded.get("api/pools", None)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert guarded.get("api/pools", OLD).status_code == 200
    guarded.keys.write_text("\n".join([key_line("web", WEB), key_line("page", PAGE)]))
    deadline = time.monotonic() + 30.0
    while any(guarded.get("api/pools", OLD).status_code == 200 for _ in range(6)):  # of either replica
        assert time.monotonic() < deadline
    assert guarded.get("api/pools", WEB).status_code == 200


def test_clients_do_not_lift_the_services_time_limit(guarded: Guarded) -> None:
    # 16 guided pictures of 150 steps, one after the other, take 48 s or more.
    body = {"prompt": "a", "number": 16, "step": 150, "guidance_scale": 5, "size": "64x64"}
    for told in ("0", "3600"):
        headers = {"X-Request-Timeout-Seconds": told, "Authorization": f"Bearer {PAGE}"}
        began = time.monotonic()
        answer = httpx.post(
            f"{guarded.url}/api/text2image", json=body, headers=headers, timeout=120.0, trust_env=False
        )
        # Refused at the door where the engine knows that it would not be done in time.
        assert answer.status_code in (503, 504), answer.text
        assert time.monotonic() - began < 16 * 150 * STEP_S


def test_clients_do_not_keep_drawings_that_they_left(guarded: Guarded) -> None:
    answer = guarded.get("imagine", PAGE, {"X-Request-Disconnect-Disabled": "?1"}, **SHORT)
    assert answer.status_code == 400
    assert "on_disconnect" in answer.json()["error"]["message"]
    assert guarded.get("imagine", PAGE, {"X-Request-Disconnect-Disabled": "?0"}, **SHORT).status_code == 200


def test_a_model_named_to_ray_is_ignored(guarded: Guarded) -> None:
    answer = guarded.get("imagine", PAGE, {"Serve-Multiplexed-Model-Id": "other"}, **SHORT)
    assert (answer.status_code, answer.headers["x-model"]) == (200, "fake")
