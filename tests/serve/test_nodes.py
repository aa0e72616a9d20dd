"""One application over three kinds of nodes: placement, routing, a lost node, and a pool that sleeps.

The nodes are separate raylets that declare a GPU, Neuron cores, and a custom resource for Intel CPUs. On each, the
bundled model draws on the accelerator ``cpu``, which is given the very placement that ``cuda``, ``neuron`` and ``cpu``
have on real nodes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from serve_app.settings import BUNDLED_MODEL, MODELS_DIR, PoolSettings, Settings, StoreSettings
from tests.picture_files import largest_difference
from tests.serve.cluster import Nodes, nodes_running

# Half a minute on two free cores; ten other programs on them make it minutes.
pytestmark = pytest.mark.timeout(600)

REQUESTS, CONCURRENCY = 200, 8
PER_HOUR = {"g8i": 0.1, "inf2": 10.0, "gpu": 1000.0}
"""So far apart that no measured speed of the same device turns their order around."""

SMALL, LARGE = (128, 128), (256, 256)
SIZES = {"g8i": [SMALL], "inf2": [LARGE], "gpu": []}
ANY_SIZE = [SMALL, LARGE, (192, 192), (128, 192)]


def _pool(name: str, model: str, **more: Any) -> PoolSettings:
    placement: dict[str, Any] = {
        "gpu": {"num_gpus": 1},
        "inf2": {"resources": {"neuron_cores": 2}},
        "g8i": {"resources": {"g8i": 1}},
        "sleeper": {"resources": {"spare": 1}},
    }
    values: dict[str, Any] = {
        "name": name,
        "accelerator": "cpu",
        "model": model,
        "num_threads": 1,
        "num_inference_steps": 1,
        "ray_actor_options": {"num_cpus": 0.1, **placement[name]},
        "price_per_hour": PER_HOUR.get(name, 0.0),
        "sizes": SIZES.get(name, []),
        "max_queued_images": REQUESTS,
    }
    return PoolSettings.model_validate(values | more)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For each pool the bundled model in a folder of its own, by whose name a client can ask for it."""
    folder = tmp_path_factory.mktemp("models")
    for name in (*SIZES, "sleeper"):
        (folder / name).symlink_to(MODELS_DIR / BUNDLED_MODEL)
    return {name: str(folder / name) for name in (*SIZES, "sleeper")}


@pytest.fixture(scope="module")
def nodes(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head for the ingress, and one node for each kind of accelerator, with the service on them."""
    sleeper = {
        "min_replicas": 0,
        "downscale_to_zero_delay_s": 0.5,
        "expected_start_s": 300.0,
        "guidance_scale": 0.0,
        "default_size": SMALL,
        "price_per_hour": 10_000.0,
    }
    settings = Settings(
        pools=[
            *(_pool(name, models[name]) for name in SIZES),
            _pool("sleeper", models["sleeper"], **sleeper),
        ],
        store=StoreSettings(url=str(tmp_path_factory.mktemp("pictures"))),
        ingress_ray_actor_options={"resources": {"ingress": 0.01}},
    )
    kinds: dict[str, dict[str, Any]] = {
        "gpu": {"num_cpus": 1, "num_gpus": 1},
        "inf2": {"num_cpus": 1, "resources": {"neuron_cores": 2, "spare": 1}},
        "g8i": {"num_cpus": 1, "resources": {"g8i": 1}},
    }
    with nodes_running(settings, kinds, tmp_path_factory.mktemp("nodes")) as started:
        yield started


@pytest.fixture
async def client(nodes: Nodes) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=2 * CONCURRENCY)
    async with httpx.AsyncClient(base_url=nodes.url, timeout=60.0, trust_env=False, limits=limits) as client:
        yield client


async def _pools(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    return {pool["pool"]: pool for pool in (await client.get("/api/pools")).json()}


async def _until(condition: Callable[[dict[str, Any]], bool], client: httpx.AsyncClient, name: str) -> None:
    deadline = time.monotonic() + 40.0
    while not condition(pool := (await _pools(client))[name]):
        assert time.monotonic() < deadline, pool
        await asyncio.sleep(0.2)


def _mixed(seed: int, count: int, models: dict[str, str]) -> list[dict[str, Any]]:
    """Requests of all kinds: any size, some that name a pool or a model."""
    chance = random.Random(seed)
    requests = []
    for number in range(count):
        width, height = chance.choice(ANY_SIZE)
        query: dict[str, Any] = {"prompt": f"{number}", "seed": number, "width": width, "height": height}
        pin = chance.random()
        if pin < 0.1:
            query["pool"] = "gpu"
        elif pin < 0.2 and (width, height) == SMALL:
            query["model"] = models["g8i"]
        requests.append(query)
    return requests


def _expected(query: dict[str, Any], models: dict[str, str]) -> str:
    """The policy once more, by hand: the cheapest of those that can draw it and are allowed to."""
    able = [
        name
        for name in SIZES
        if (not SIZES[name] or (query["width"], query["height"]) in SIZES[name])
        and query.get("pool", name) == name
        and query.get("model", models[name]) == models[name]
    ]
    return min(able, key=lambda name: PER_HOUR[name])


async def _draw_all(client: httpx.AsyncClient, queries: list[dict[str, Any]]) -> list[httpx.Response]:
    permits = asyncio.Semaphore(CONCURRENCY)

    async def one(query: dict[str, Any]) -> httpx.Response:
        async with permits:
            return await client.get("/imagine", params=query)

    return await asyncio.gather(*(one(query) for query in queries))


def test_each_replica_is_on_its_own_kind_of_node(nodes: Nodes) -> None:
    for name in ("gpu", "inf2", "g8i"):
        assert nodes.of_replicas(name) == [nodes.ids[name]], name
    assert nodes.of_replicas("Ingress") == nodes.of_replicas("Jobs") == [nodes.ids["ingress"]]
    assert nodes.of_replicas("sleeper") == []
    assert len(set(nodes.ids.values())) == 4


async def test_two_hundred_requests_go_where_the_policy_says(
    models: dict[str, str], client: httpx.AsyncClient
) -> None:
    queries = _mixed(1, REQUESTS, models)
    answers = await _draw_all(client, queries)
    assert Counter(answer.status_code for answer in answers) == {200: REQUESTS}
    expected = Counter(_expected(query, models) for query in queries)
    assert set(expected) == {"g8i", "inf2", "gpu"}
    assert Counter(answer.headers["x-pool"] for answer in answers) == expected
    for query, answer in zip(queries, answers, strict=True):
        headers = answer.headers
        assert headers["x-seed"] == str(query["seed"])
        assert headers["x-accelerator"] == "cpu"
        assert headers["x-model"] == models[headers["x-pool"]]
        assert float(headers["x-cost"]) > 0
        assert "denoise;dur=" in headers["server-timing"]
    pools = await _pools(client)
    assert {name: pool["state"] for name, pool in pools.items()} == {
        "g8i": "ready",
        "inf2": "ready",
        "gpu": "ready",
        "sleeper": "asleep",
    }
    assert all(pool["requests_in_flight"] == 0 for pool in pools.values())


async def test_a_pool_at_zero_starts_for_a_request_that_is_held_meanwhile(client: httpx.AsyncClient) -> None:
    await _until(lambda pool: pool["state"] == "asleep", client, "sleeper")
    assert (await client.get("/health")).json() == {"status": "ready"}
    job = (await client.post("/api/jobs", json={"prompt": "x", "seed": 1, "pool": "sleeper"})).json()
    held = await client.get("/imagine", params={"prompt": "x", "seed": 1, "pool": "sleeper"})
    assert held.status_code == 200, held.text
    start_ms = float(held.headers["server-timing"].split("start;dur=")[1].split(",")[0])
    assert start_ms > 100
    events = (await client.get(f"/api/jobs/{job['id']}/events")).text
    assert "starting an accelerator of pool sleeper" in events
    assert "event: finished" in events
    # It is up now: nobody waits for a start.
    again = await client.get("/imagine", params={"prompt": "x", "seed": 1, "pool": "sleeper"})
    assert "start;dur" not in again.headers["server-timing"]
    assert largest_difference(again.content, held.content) <= 1  # the job's was drawn beside it


async def test_a_node_that_is_lost_under_load_costs_no_request(
    nodes: Nodes, models: dict[str, str], client: httpx.AsyncClient
) -> None:
    queries = _mixed(2, REQUESTS // 2, models)
    expected = {query["seed"]: _expected(query, models) for query in queries}
    queries = [query for query in queries if "model" not in query]  # a pinned model has nowhere else to go
    drawing = asyncio.create_task(_draw_all(client, queries))
    deadline = time.monotonic() + 30.0
    while (await _pools(client))["g8i"]["requests_in_flight"] == 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await asyncio.to_thread(nodes.lose, "g8i")
    answers = await drawing
    assert Counter(answer.status_code for answer in answers) == {200: len(queries)}
    moved = 0
    for query, answer in zip(queries, answers, strict=True):
        assert answer.headers["x-seed"] == str(query["seed"])
        pool = answer.headers["x-pool"]
        if expected[query["seed"]] == "g8i":
            moved += pool == "gpu"
            assert pool in ("g8i", "gpu")
        else:
            assert pool == expected[query["seed"]]
    assert moved > 0
    # The same seed gave the same picture, whichever pool drew it and beside whatever.
    query = next(query for query in queries if expected[query["seed"]] == "g8i")
    again = await client.get("/imagine", params=query)
    first = answers[queries.index(query)]
    assert again.headers["x-pool"] == "gpu"
    assert largest_difference(again.content, first.content) <= 1
    health = await client.get("/health")
    assert (health.status_code, health.json()) == (200, {"status": "ready"})
    assert (await _pools(client))["g8i"]["state"] == "starting"


async def test_a_pinned_request_without_its_node_is_held_and_says_so(client: httpx.AsyncClient) -> None:
    job = (await client.post("/api/jobs", json={"prompt": "x", "pool": "g8i", "deadline_s": 600})).json()
    deadline = time.monotonic() + 20.0
    while "starting an accelerator of pool g8i" not in str(job["message"]):
        assert time.monotonic() < deadline, job
        await asyncio.sleep(0.2)
        job = (await client.get(f"/api/jobs/{job['id']}")).json()
    ended = (await client.delete(f"/api/jobs/{job['id']}")).json()
    assert ended["state"] == "cancelled"


async def test_it_sleeps_again_though_it_is_looked_at(client: httpx.AsyncClient) -> None:
    # The tests before took most of the half minute over which Ray looks back.
    await _until(lambda pool: pool["state"] == "asleep", client, "sleeper")
    pool = (await _pools(client))["sleeper"]
    assert pool["replicas_running"] == pool["replicas_wanted"] == 0
    assert pool["start_s"] < 300.0  # learned from the start that it made
    assert pool["assumed"] is False
