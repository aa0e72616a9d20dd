"""The structured log of the running service: one request's way through ingress and replica, and what is not said."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import httpx

from serve_app.engine.fake import POISON_STEP
from tests.running_service import RunningService

Line = dict[str, Any]


def _lines(service: RunningService, deployment: str) -> list[Line]:
    # Of this application alone: others of the same cluster may log otherwise.
    found: list[Line] = []
    for file in (service.log_dir / "serve").glob(f"replica_imagine_{deployment}_*.log"):
        found += [json.loads(line) for line in file.read_text().splitlines()]
    return found


def _wait_for(service: RunningService, deployment: str, wanted: Callable[[Line], bool]) -> list[Line]:
    deadline = time.monotonic() + 20
    while not (found := [line for line in _lines(service, deployment) if wanted(line)]):
        assert time.monotonic() < deadline, f"no such line of {deployment}"
        time.sleep(0.2)
    return found


def test_a_request_is_followed_from_the_ingress_to_the_replica(
    service: RunningService, client: httpx.Client
) -> None:
    request_id, prompt = str(uuid.uuid4()), f"secret-{uuid.uuid4()}"
    client.get(
        "/imagine", params={"prompt": prompt, "pool": "slow"}, headers={"X-Request-Id": request_id}
    ).raise_for_status()
    begun = _wait_for(
        service, "Ingress", lambda line: line.get("request_id") == request_id and "drawing_id" in line
    )
    drawing_id = begun[0]["drawing_id"]
    ended = _wait_for(
        service, "Ingress", lambda line: line.get("drawing_id") == drawing_id and "outcome" in line
    )
    assert (ended[0]["outcome"], ended[0]["pool"], ended[0]["request_id"]) == ("finished", "slow", request_id)
    assert ended[0]["seconds"] > 0
    in_replica = _wait_for(service, "slow", lambda line: line.get("drawing_id") == drawing_id)
    assert in_replica[0]["outcome"] == "finished"
    assert in_replica[0]["deployment"] == "imagine_slow"
    assert not any(prompt in json.dumps(line) for line in _lines(service, "*"))


def test_a_failure_is_found_by_the_id_of_its_answer(service: RunningService, client: httpx.Client) -> None:
    answer = client.get("/imagine", params={"prompt": POISON_STEP, "pool": "slow"})
    request_id = answer.json()["error"]["request_id"]
    begun = _wait_for(
        service, "Ingress", lambda line: line.get("request_id") == request_id and "drawing_id" in line
    )
    drawing_id = begun[0]["drawing_id"]
    ended = _wait_for(
        service, "slow", lambda line: line.get("drawing_id") == drawing_id and "outcome" in line
    )
    assert (ended[0]["levelname"], ended[0]["outcome"]) == ("WARNING", "generation_failed")
    (engine,) = _wait_for(
        service, "slow", lambda line: line.get("drawing_id") == drawing_id and line["levelname"] == "ERROR"
    )
    assert "poisoned in step" in engine["exc_text"]
