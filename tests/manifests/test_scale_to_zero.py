"""The overlay `mixed` on an autoscaling cluster: Ray's own autoscaler starts a node of a worker group where a replica
needs one, holds a request meanwhile, and gives the node back when the pool has gone to sleep again.

Nodes are Ray's made-up ones: real raylets on this machine that declare what the pods of their group would.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.manifests.local_cluster import LocalCluster, local_cluster
from tests.manifests.nginx import locations_of_ingresses, nginx
from tests.manifests.rendering import Manifest, groups, ray_resources, ray_service, render
from tests.manifests.test_overlays_run import CARD, check_placement, check_routes, stand_in
from tests.running_service import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OVERLAY, SLEEPER = "mixed", "cuda"


@pytest.fixture(scope="module")
def service() -> Manifest:
    return ray_service(render(f"overlays/{OVERLAY}"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, service: Manifest) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("autoscaling")
    with local_cluster(folder, folder / "pictures", autoscaled=service) as found:
        config = stand_in(OVERLAY, found)
        for pool in config["applications"][0]["args"]["pools"]:
            if pool["name"] == SLEEPER:
                pool["downscale_to_zero_delay_s"] = 1.0
        found.deploy(config)
        found.wait_until_running(600.0)
        yield found


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{cluster.serve_port}"
    with httpx.Client(base_url=url, trust_env=False, timeout=300.0) as client:
        yield client


def nodes_of_groups(cluster: LocalCluster, service: Manifest) -> Counter[str]:
    """How many nodes of each worker group there are now."""
    declared = {name: ray_resources(group) for name, group in groups(service).items()}
    return Counter(
        name
        for node in cluster.nodes().values()
        for name, resources in declared.items()
        if all(node.get(what) == amount for what, amount in resources.items())
    )


def states(client: httpx.Client) -> dict[str, str]:
    """The state of each pool."""
    return {pool["pool"]: pool["state"] for pool in client.get("/api/pools").json()}


def test_there_are_nodes_for_what_runs_and_none_for_what_sleeps(
    cluster: LocalCluster, service: Manifest, client: httpx.Client
) -> None:
    # All groups began at zero here, so Ray saw what each replica asks for: neuron_cores and custom resources too.
    assert nodes_of_groups(cluster, service) == {"ingress": 1, "g8i": 1, "inf2": 1}
    assert client.get("/health").json() == {"status": "ready"}
    assert states(client) == {"g8i": "ready", "inf2": "ready", SLEEPER: "asleep"}


def test_a_request_is_held_while_its_node_comes(
    cluster: LocalCluster, service: Manifest, client: httpx.Client
) -> None:
    query = {**CARD, "pool": SLEEPER}
    held: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(base_url=client.base_url, trust_env=False, timeout=300.0) as another:
            held.append(another.get("/imagine", params=query))

    waiting = threading.Thread(target=ask)
    job = client.post("/api/jobs", json=query | {"seed": 7}).json()
    waiting.start()
    try:
        _until(lambda: nodes_of_groups(cluster, service)[SLEEPER], 180.0)
        assert not held, "nobody could have drawn it"
    finally:
        waiting.join(300.0)
    (answer,) = held
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-pool"] == SLEEPER
    assert float(answer.headers["server-timing"].split("start;dur=")[1].split(",")[0]) > 1000
    events = client.get(f"/api/jobs/{job['id']}/events").text
    assert f"starting an accelerator of pool {SLEEPER}" in events
    assert "event: finished" in events
    assert nodes_of_groups(cluster, service)[SLEEPER] == 1
    check_placement(cluster.application(), cluster, service)


def test_the_others_draw_behind_the_ingress(cluster: LocalCluster, tmp_path: Path) -> None:
    backends = {"imagine-serve-svc": cluster.serve_port, "imagine-ui": cluster.dashboard_port}
    locations = locations_of_ingresses(render(f"overlays/{OVERLAY}"), backends)
    with nginx(locations, tmp_path / "nginx", free_port()) as url:
        check_routes(url)


def test_the_node_is_given_back(cluster: LocalCluster, service: Manifest, client: httpx.Client) -> None:
    _until(lambda: states(client)[SLEEPER] == "asleep", 240.0)
    _until(lambda: not nodes_of_groups(cluster, service)[SLEEPER], 120.0)
    assert nodes_of_groups(cluster, service) == {"ingress": 1, "g8i": 1, "inf2": 1}


def _until(condition: Callable[[], object], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.3)
