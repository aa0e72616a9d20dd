"""Jobs on real Ray: any ingress replica answers, and an accepted job outlives whatever process is killed."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.running_service import RunningService, free_port
from tests.serve.processes import running

IMAGINE = str(Path(sys.executable).parent / "imagine")
ENDED = ("finished", "failed", "cancelled")


def _submit(
    url: str, headers: dict[str, str] | None = None, *, statuses: tuple[int, ...] = (202,), **fields: Any
) -> dict[str, Any]:
    """Each on a connection of its own, so that all ingress replicas get their turn."""
    answer = httpx.post(
        f"{url}/api/jobs",
        json={"prompt": "slow", "seed": 7, **fields},
        headers=headers,
        timeout=60.0,
        trust_env=False,
    )
    assert answer.status_code in statuses, answer.text
    body: dict[str, Any] = answer.json()
    return body


def _get(url: str) -> dict[str, Any]:
    answer = httpx.get(url, timeout=60.0, trust_env=False)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def _until(job: dict[str, Any], reached: Callable[[dict[str, Any]], bool], within_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + within_s
    while True:
        body = _get(job["urls"]["status"])
        if reached(body):
            return body
        assert time.monotonic() < deadline, body
        time.sleep(0.05)


def _ended(job: dict[str, Any], within_s: float = 60.0) -> dict[str, Any]:
    return _until(job, lambda body: body["state"] in ENDED, within_s)


def _whole_again(service: RunningService, deployment: str, replicas: list[psutil.Process]) -> None:
    """Waits until others run in the place of the dead."""
    deadline = time.monotonic() + 60.0
    while len(service.replicas(deployment)) < len(replicas):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _picture(url: str) -> bytes:
    answer = httpx.get(url, timeout=60.0, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.content


def _drawn_directly(url: str, **fields: Any) -> bytes:
    query = {"prompt": "slow", "seed": 7, **fields}
    return _picture(str(httpx.URL(f"{url}/imagine", params=query)))


def _events(job: dict[str, Any], last_event_id: str = "") -> Iterator[tuple[int, str, dict[str, Any]]]:
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with httpx.stream("GET", job["urls"]["events"], headers=headers, timeout=60.0, trust_env=False) as answer:
        assert answer.status_code == 200
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                fields = {}


def test_any_ingress_replica_answers_for_any_job(service: RunningService) -> None:
    job = _submit(service.url, pool="slow", num_inference_steps=110, num_images=2, preview_every=1)
    events = []
    for event in _events(job):
        events.append(event)
        if event[2].get("preview"):
            break  # leaves the stream, to come back on another connection
    assert base64.b64decode(events[-1][2]["preview"]).startswith(b"\x89PNG")
    seen = [_get(job["urls"]["status"]) for _ in range(12)]
    assert {body["id"] for body in seen} == {job["id"]}
    assert [body["progress"] for body in seen] == sorted(body["progress"] for body in seen)
    events += _events(job, last_event_id=str(events[-1][0]))
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    kinds = [kind for _, kind, _ in events]
    assert kinds[0] == "queued"
    assert kinds[-1] == "finished"
    assert kinds.count("step") == 2 * 111
    end = events[-1][2]
    assert end == _get(job["urls"]["status"])
    assert _get(job["urls"]["result"]) == end["result"]
    for image in end["result"]["images"]:
        direct = _drawn_directly(service.url, pool="slow", num_inference_steps=110, seed=image["seed"])
        assert _picture(image["url"]) == direct
    assert end["result"]["cost"] > 0


def test_any_ingress_replica_cancels_any_job_and_that_alone(service: RunningService) -> None:
    job, other = (_submit(service.url, pool="slow", num_inference_steps=150) for _ in range(2))
    _until(job, lambda body: body["state"] == "running", 20.0)
    kinds = []
    for _, kind, _ in _events(job):
        kinds.append(kind)
        if kinds.count("step") == 3:
            for _ in range(4):
                answer = httpx.delete(job["urls"]["cancel"], trust_env=False, timeout=60.0)
                assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert kinds[-1] == "cancelled"
    deadline = time.monotonic() + 5.0
    while True:
        stats = service.stats("slow")
        if stats.queued_images + stats.running_images <= 1:
            break
        assert time.monotonic() < deadline, stats
        time.sleep(0.05)
    assert _ended(other)["state"] == "finished"


def test_retries_with_a_key_make_one_job_whichever_replica_gets_them(service: RunningService) -> None:
    key = {"Idempotency-Key": "the same order"}
    with ThreadPoolExecutor(8) as threads:
        jobs = list(
            threads.map(
                lambda _: _submit(service.url, key, pool="slow", num_inference_steps=150, seed=1), range(8)
            )
        )
    assert len({job["id"] for job in jobs}) == 1
    assert httpx.delete(jobs[0]["urls"]["cancel"], trust_env=False, timeout=60.0).status_code == 200


@pytest.mark.parametrize("deployment", ["slow", "Ingress", "Jobs"])
def test_a_job_outlives_the_replica_that_is_killed(service: RunningService, deployment: str) -> None:
    expected = _drawn_directly(service.url, pool="slow", num_inference_steps=150)
    job = _submit(service.url, pool="slow", num_inference_steps=150)
    events: list[tuple[int, str]] = []

    def read() -> None:
        while not events or events[-1][1] not in ENDED:
            last = str(events[-1][0]) if events else ""
            try:
                events.extend((number, kind) for number, kind, _ in _events(job, last))
            except httpx.RemoteProtocolError:
                time.sleep(
                    0.5
                )  # it read through the ingress replica that was killed: as a browser, it comes back

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    _until(job, lambda body: body["step"] >= 10, 30.0)
    replicas = service.replicas(deployment)
    os.kill(replicas[0].pid, signal.SIGKILL)
    if deployment == "Jobs":
        # Orders are answered as soon as a new replica keeps the jobs.
        assert _ended(_submit(service.url, pool="slow", num_inference_steps=1))["state"] == "finished"
    if deployment == "Ingress":
        _whole_again(
            service, deployment, replicas
        )  # until then the proxy may choose the replica that is gone
    end = _ended(job)
    assert end["state"] == "finished", end
    assert _picture(end["result"]["images"][0]["url"]) == expected
    reader.join(30.0)
    assert events[-1][1] == "finished"
    numbers = [number for number, _ in events]
    assert numbers == sorted(set(numbers))
    if deployment != "Jobs":  # whoever keeps the jobs anew begins with the state as it is then
        assert numbers == list(range(1, len(numbers) + 1))
    _whole_again(service, deployment, replicas)  # the next test finds the service whole


def test_the_lines_of_the_readme(service: RunningService, tmp_path: Path) -> None:
    section = (Path(__file__).parents[2] / "README.md").read_text().split("\n## Jobs\n")[1]
    script = (
        section.split("```sh\n")[1].split("```")[0].replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
    )
    done = subprocess.run(
        ["sh", "-e"], input=script, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    events, job, cancelled = done.stdout.rpartition("\n\n")[0], *done.stdout.rpartition("\n\n")[2].split("}{")
    assert events.startswith("id: 1\nevent: queued\n")
    assert "event: finished" in events
    assert '"state":"finished"' in job
    assert '"state":"finished"' in cancelled  # what has ended stays as it is


def test_accepted_jobs_outlive_the_whole_service(tmp_path: Path) -> None:
    config = tmp_path / "settings.json"
    pool = {"name": "default", "accelerator": "fake"}
    store = {"url": str(tmp_path / "store")}
    config.write_text(
        json.dumps({"pools": [pool], "store": store, "jobs": {"max_running": 3}, "ingress_replicas": 2})
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        IMAGINE,
        "serve",
        "--config",
        str(config),
        "--port",
        str(port),
        "--no-dashboard",
        "--no-ui",
        "--json",
    ]
    orders: list[dict[str, Any]] = [{"num_inference_steps": 2, "seed": 0}] + [
        {"num_inference_steps": 150, "seed": seed, "num_images": 1 + seed % 2} for seed in range(1, 7)
    ]
    (tmp_path / "first").mkdir()
    with running(command, tmp_path / "first") as first:
        first.wait_for_text('"ready_s"', 120.0)
        jobs = [_submit(url, {"Idempotency-Key": f"order {order['seed']}"}, **order) for order in orders]
        assert _ended(jobs[0])["state"] == "finished"
        states = {_until(jobs[1], lambda body: body["step"] >= 10, 30.0)["state"]}
        states |= {_get(job["urls"]["status"])["state"] for job in jobs[1:]}
        assert states >= {"running", "queued"}
        # Leaving the block kills everything, as when the machine goes down.
    (tmp_path / "second").mkdir()
    with running(command, tmp_path / "second") as second:
        second.wait_for_text('"ready_s"', 120.0)
        # 200 where it is finished by now.
        again = _submit(url, {"Idempotency-Key": "order 1"}, statuses=(200, 202), **orders[1])
        assert again["id"] == jobs[1]["id"]
        drawn: list[tuple[str, int, int]] = []  # url, steps, seed
        for job, order in zip(jobs, orders, strict=True):
            end = _ended(job)
            assert end["state"] == "finished", end
            assert len(end["result"]["images"]) == order.get("num_images", 1)
            steps = order["num_inference_steps"]
            drawn += [(image["url"], steps, image["seed"]) for image in end["result"]["images"]]
        with ThreadPoolExecutor(len(drawn)) as threads:
            directly = threads.map(
                lambda it: _drawn_directly(url, num_inference_steps=it[1], seed=it[2]), drawn
            )
            for (address, *_), picture in zip(drawn, directly, strict=True):
                assert _picture(address) == picture
        assert list((tmp_path / "store" / "jobs" / "open").glob("*.json")) == []
