"""Each overlay's serveConfigV2, run for real: its nodes on a local Ray cluster, its rules in a real nginx.

Changed are documented settings alone: the model is the bundled one, accelerators are the CPU's, each with one thread,
and Serve listens on loopback.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.manifests.local_cluster import RAY, LocalCluster, local_cluster
from tests.manifests.nginx import locations_of_ingresses, locations_of_routes, nginx
from tests.manifests.rendering import OVERLAYS, ROOT, groups, ray_resources, ray_service, render, render_with
from tests.manifests.test_serve_config import serve_config
from tests.picture_files import largest_difference
from tests.running_service import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUN = [*(overlay for overlay in OVERLAYS if overlay not in ("dev", "g8i-tdx", "mixed")), "dev"]
"""g8i-tdx's configuration is g8i's to the letter, which the first test asserts; mixed runs in test_scale_to_zero.py.
The tests after it use dev's, so it is the last."""

CARD = {"prompt": "a red star on a blue background", "seed": "7"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with local_cluster(folder, folder / "pictures") as found:
        yield found


def stand_in(overlay: str, cluster: LocalCluster) -> dict[str, Any]:
    """The overlay's configuration, with what this machine has instead of accelerators and big models."""
    config = serve_config(overlay)
    config["http_options"] |= {"host": "127.0.0.1", "port": cluster.serve_port}
    # The proxies of all nodes would share the one port of this machine, and one that Serve ends, as its node has no
    # replica any more, takes its connections with it. In a cluster each has an address of its own.
    config["proxy_location"] = "HeadOnly"
    args = config["applications"][0]["args"]
    # More would be the same once more, and larger pictures too; a pool that starts at zero does so here too.
    args["ingress_replicas"] = 1
    for pool in args["pools"]:
        for setting in ("revision", "variant", "dtype"):
            pool.pop(setting, None)
        pool |= {"accelerator": "cpu", "model": "small-sdxl", "num_threads": 1, "default_size": [256, 256]}
        pool["min_replicas"] = min(1, pool.get("min_replicas", 1))
        pool["expected_start_s"] = 60
    return config


def test_tdx_runs_what_g8i_runs() -> None:
    assert serve_config("g8i-tdx") == serve_config("g8i")


@pytest.mark.parametrize("overlay", RUN)
def test_overlay(overlay: str, cluster: LocalCluster, tmp_path: Path) -> None:
    service = ray_service(render(f"overlays/{overlay}"))
    cluster.remove()
    cluster.deploy(stand_in(overlay, cluster))
    cluster.declare(service)
    cluster.wait_until_running(420.0)

    direct = httpx.Client(base_url=f"http://127.0.0.1:{cluster.serve_port}", trust_env=False, timeout=180.0)
    with direct:
        configured = stand_in(overlay, cluster)["applications"][0]["args"]["pools"]
        asleep = {pool["name"] for pool in configured if pool["min_replicas"] == 0}
        health = direct.get("/health").json()
        assert health == {"status": "asleep" if len(asleep) == len(configured) else "ready"}
        for pool in configured:
            drawn = direct.get(
                "/imagine", params={**CARD, "pool": pool["name"]}
            )  # wakes it, where it is at zero
            assert drawn.status_code == 200, drawn.text
            assert drawn.headers["x-pool"] == pool["name"]
        assert {pool["pool"] for pool in direct.get("/api/pools").json()} == {
            pool["name"] for pool in configured
        }
    check_placement(cluster.application(), cluster, service)

    rules = render_with(overlay, "ingress-nginx") if overlay == "dev" else render(f"overlays/{overlay}")
    backends = {"imagine-serve-svc": cluster.serve_port, "imagine-ui": cluster.dashboard_port}
    with nginx(locations_of_ingresses(rules, backends), tmp_path / "nginx", free_port()) as url:
        check_routes(url)


def check_placement(application: Any, cluster: LocalCluster, service: Any) -> None:
    """Every replica is on a node of its own group, and nothing is on the head."""
    nodes = cluster.nodes()
    expected = {name: ray_resources(group) for name, group in groups(service).items()}
    found: dict[str, int] = {}
    for name, deployment in application["deployments"].items():
        group = name if name in expected else "ingress"
        for replica in deployment["replicas"]:
            has = nodes[replica["node_id"]]
            assert {what: has.get(what) for what in expected[group]} == expected[group], name
            assert has.get("GPU", 0) == expected[group].get("GPU", 0), name
        found[name] = len(deployment["replicas"])
        assert found[name] >= 1, name
    assert {"Ingress", "Jobs"} < set(found)
    assert set(found) - {"Ingress", "Jobs", "LiveDrawings"} == set(expected) - {"ingress"}


def check_routes(url: str) -> None:
    """Behind the prefix: a picture, urls that open, events as they happen."""
    with httpx.Client(base_url=url, trust_env=False, timeout=180.0) as client:
        drawn = client.get("/serve/imagine", params=CARD)
        assert drawn.status_code == 200, drawn.text
        picture = Image.open(io.BytesIO(drawn.content))
        assert picture.format == "PNG"

        answer = client.post(
            "/serve/api/text2image", content=json.dumps({**CARD, "seed": 7, "number": 2})
        ).json()
        assert [entry["url"].startswith(f"{url}/serve/images/") for entry in answer["output"]] == [True] * 3
        for entry in answer["output"]:
            opened = client.get(entry["url"])
            assert opened.headers["content-type"] == "image/png"
        # Drawn beside another one: the same within 1 of 255, which is what is promised without exact_batches.
        assert largest_difference(client.get(answer["output"][0]["url"]).content, drawn.content) <= 1

        job = client.post("/serve/api/jobs", json={**CARD, "seed": 7, "num_inference_steps": 30})
        assert job.status_code == 202, job.text
        assert job.headers["location"].startswith(f"{url}/serve/api/jobs/")
        arrived: list[tuple[str, float]] = []
        with client.stream("GET", f"{job.headers['location']}/events") as events:
            for line in events.iter_lines():
                if line.startswith("event:"):
                    arrived.append((line.removeprefix("event:").strip(), time.monotonic()))
        names = [name for name, _ in arrived]
        assert names[-1] == "finished"
        assert names.count("step") >= 3
        # Buffered, all would come at once, at the end.
        assert arrived[-1][1] - arrived[0][1] > 0.1
        assert len({round(when, 2) for _, when in arrived}) >= 4

        # The page of the service works behind the prefix: its links are relative.
        assert 'action="imagine"' in client.get("/serve/", headers={"accept": "text/html"}).text


def test_gateway_routes(cluster: LocalCluster, tmp_path: Path) -> None:
    ensure_running(cluster)
    backends = {"imagine-serve-svc": cluster.serve_port, "imagine-ui": cluster.dashboard_port}
    locations = locations_of_routes(render_with("dev", "gateway-api"), backends)
    with nginx(locations, tmp_path / "nginx", free_port()) as url:
        check_routes(url)
        assert httpx.get(f"{url}/served", trust_env=False).headers.get("server", "").startswith("nginx")


def test_the_dashboard_is_behind_a_password(cluster: LocalCluster, tmp_path: Path) -> None:
    done = subprocess.run(
        ["openssl", "passwd", "-apr1", "secret"], capture_output=True, text=True, check=True
    )
    users = tmp_path / "auth"
    users.write_text(f"me:{done.stdout.strip()}\n")
    objects = [item for item in render_with("dev", "dashboard-nginx") if item["kind"] == "Ingress"]
    locations = locations_of_ingresses(objects, {"imagine-head-svc": cluster.dashboard_port}, users)
    with nginx(locations, tmp_path / "nginx", free_port()) as url:
        assert httpx.get(f"{url}/dashboard/", trust_env=False).status_code == 401
        page = httpx.get(f"{url}/dashboard/", auth=("me", "secret"), trust_env=False)
        assert page.status_code == 200
        script = page.text.split('src="./')[1].split('"')[0]
        asset = httpx.get(f"{url}/dashboard/{script}", auth=("me", "secret"), trust_env=False)
        assert asset.status_code == 200, "the page's own links hold behind the prefix"


def test_rolling_update_under_load(cluster: LocalCluster) -> None:
    """A changed configuration replaces every replica, ingress and pool, while clients draw: not one request fails."""
    ensure_running(cluster)
    before = replica_ids(cluster)
    url = f"http://127.0.0.1:{cluster.serve_port}"
    answers: list[int | str] = []
    stop = threading.Event()

    def draw(number: int) -> None:
        with httpx.Client(base_url=url, trust_env=False, timeout=300.0) as client:
            while not stop.is_set():
                try:
                    if number % 2:
                        answer = client.get("/imagine", params={**CARD, "num_inference_steps": 2})
                    else:
                        body = {**CARD, "seed": 7, "step": 2}
                        answer = client.post("/api/text2image", content=json.dumps(body))
                    answers.append(answer.status_code)
                except httpx.HTTPError as error:
                    answers.append(f"{type(error).__name__}: {error}")

    clients = [threading.Thread(target=draw, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    try:
        wait_for_answers(answers, 4)
        changed = stand_in("dev", cluster)
        changed["applications"][0]["args"]["pools"][0]["max_queued_images"] = 48
        cluster.deploy(changed)
        deadline = time.monotonic() + 300.0
        while replica_ids(cluster) & before or cluster.application()["status"] != "RUNNING":
            assert time.monotonic() < deadline, cluster.application()
            time.sleep(0.5)
        wait_for_answers(answers, len(answers) + 4)
    finally:
        stop.set()
        for client in clients:
            client.join(300.0)
    assert set(answers) == {200}, answers


def test_a_pod_that_stops_hands_on_its_replicas(cluster: LocalCluster) -> None:
    """The preStop hook of the pods: the replica moves to another node of its group, and every request is answered."""
    ensure_running(cluster)
    group = groups(ray_service(render("overlays/dev")))["cpu"]
    (leaving,) = nodes_of_replicas(cluster, "cpu")
    cluster.add_node(ray_resources(group))
    url = f"http://127.0.0.1:{cluster.serve_port}/imagine"
    answers: list[int | str] = []
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            try:
                answers.append(httpx.get(url, params=CARD, trust_env=False, timeout=300.0).status_code)
            except httpx.HTTPError as error:
                answers.append(f"{type(error).__name__}: {error}")

    client = threading.Thread(target=draw)
    client.start()
    hook = [str(ROOT / "docker" / "drain-ray-node"), "240", leaving]
    environment = {"RAY_ADDRESS": cluster.address, "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}"}
    # It sees the replicas of all nodes here, so it is ended when the one of this node is gone.
    draining = subprocess.Popen(hook, env=os.environ | environment)
    try:
        deadline = time.monotonic() + 240.0
        while leaving in (nodes := nodes_of_replicas(cluster, "cpu")) or not nodes:
            assert draining.poll() is None, "the hook gave up"
            assert time.monotonic() < deadline, cluster.application()
            time.sleep(0.5)
        wait_for_answers(answers, len(answers) + 2)
    finally:
        stop.set()
        client.join(300.0)
        draining.kill()
        draining.wait(10)
    assert set(answers) == {200}, answers


def nodes_of_replicas(cluster: LocalCluster, deployment: str) -> set[str]:
    """Ids of the nodes of a deployment's replicas that run."""
    replicas = cluster.application()["deployments"][deployment]["replicas"]
    return {replica["node_id"] for replica in replicas if replica.get("node_id")}


def wait_for_answers(answers: list[int | str], count: int) -> None:
    deadline = time.monotonic() + 180.0
    while len(answers) < count:
        assert time.monotonic() < deadline, answers
        time.sleep(0.1)


def replica_ids(cluster: LocalCluster) -> set[str]:
    """Ids of all replicas that answer requests."""
    deployments = cluster.application()["deployments"]
    return {
        replica["replica_id"]
        for name, deployment in deployments.items()
        for replica in deployment["replicas"]
        if name != "LiveDrawings"
    }


def ensure_running(cluster: LocalCluster) -> None:
    """The smallest overlay, unless it runs already: each test can run alone."""
    application = cluster.application()
    if application is None or "cpu" not in application["deployments"]:
        cluster.remove()
        cluster.deploy(stand_in("dev", cluster))
        cluster.declare(ray_service(render("overlays/dev")))
    cluster.wait_until_running(420.0)
