"""Every metric that dashboards and alerts name exists in the running service, and every panel shows something."""

from __future__ import annotations

import asyncio
import math
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from serve_app.engine.fake import POISON_STEP
from serve_app.metrics import METRICS, Kind
from tests.running_service import RunningService
from tests.serve.monitoring import (
    alert_rules,
    alerts,
    metric_names,
    panels,
    prometheus,
    variable_queries,
)

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs Prometheus (Debian package prometheus)"
)


def _draw_all_kinds(client: httpx.Client) -> None:
    """What a day of a service sees: every contract, guided and not, a failure, a refusal, a full pool, a job."""
    client.get("/imagine", params={"prompt": "a star", "num_inference_steps": 2}).raise_for_status()
    client.get("/imagine", params={"prompt": "a", "pool": "slow", "guidance_scale": 5}).raise_for_status()
    assert client.get("/imagine", params={"prompt": POISON_STEP, "pool": "slow"}).status_code == 500
    assert client.get("/imagine", params={"prompt": "a", "width": 65}).status_code == 422
    client.post("/api/text2image", json={"prompt": "a", "step": 1}).raise_for_status()
    client.post("/api/jobs", json={"prompt": "a", "pool": "slow", "num_images": 2}).raise_for_status()
    asyncio.run(_fill(client))


async def _fill(client: httpx.Client) -> None:
    """Sends the slow pool more than it takes until it refuses somebody; then leaves, which empties it again."""
    params = {"prompt": "a", "pool": "slow", "num_inference_steps": "150"}
    async with httpx.AsyncClient(base_url=client.base_url, timeout=60.0, trust_env=False) as crowd:
        requests = [asyncio.ensure_future(crowd.get("/imagine", params=params)) for _ in range(80)]
        try:
            for answer in asyncio.as_completed(requests):
                if (await answer).status_code == 503:
                    return
            raise AssertionError("the pool was never full")
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)


@pytest.fixture
def traffic(client: httpx.Client) -> Iterator[None]:
    """Draws all the time while the test runs."""
    _draw_all_kinds(client)
    stopping, failures = threading.Event(), []

    def draw() -> None:
        while not stopping.wait(0.5):
            try:
                _draw_all_kinds(client)
            except Exception as error:  # noqa: BLE001 - told to the test, which is another thread
                failures.append(error)
                return

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    yield
    stopping.set()
    thread.join(60)
    assert not failures, failures


def _exported(service: RunningService) -> set[str]:
    text = httpx.get(service.metrics_url, trust_env=False, timeout=10.0).text
    return set(re.findall(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)[{ ]", text, flags=re.M))


def test_every_metric_named_exists_and_every_one_of_ours_is_shown(
    service: RunningService, traffic: None
) -> None:
    queries = [query for _, query in panels() + alerts()] + variable_queries()
    named = set().union(*map(metric_names, queries))
    assert len(named) > 25
    ours = {metric.exported + ("_bucket" if metric.kind is Kind.HISTOGRAM else "") for metric in METRICS}
    # Ray reports every ten seconds.
    deadline = time.monotonic() + 60
    while (missing := (named | ours) - _exported(service)) and time.monotonic() < deadline:
        time.sleep(1)
    assert not missing
    assert not ours - named, "no dashboard and no alert shows them"


@needs_prometheus
def test_every_panel_shows_data_and_no_alert_cries_wolf(
    service: RunningService, traffic: None, tmp_path: Path
) -> None:
    with prometheus(service.metrics_url, tmp_path) as running:
        empty = dict(panels())
        deadline = time.monotonic() + 120
        while empty and time.monotonic() < deadline:
            time.sleep(2)
            empty = {
                name: query
                for name, query in empty.items()
                if not any(math.isfinite(value) for value in running.values(query))
            }
        assert not empty
        # A step's rows are told exactly by the counters they are made of.
        rows = 'sum(ray_imagine_stepped_rows_total{pool="slow"}) / sum(ray_imagine_steps_total{pool="slow"})'
        assert 1.0 <= running.values(rows)[0] <= 8.0
        for name, query in alerts():
            running.values(query)  # a wrong one fails
            if name != "ImagineErrors" and name != "ImagineRefusing":
                firing = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
                assert running.values(firing) == [], name


@needs_prometheus
def test_alerts_pass_promtool_and_each_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(alert_rules()))
    subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yaml")], check=True, capture_output=True
    )
    for group in alert_rules()["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "description"}
            assert rule["labels"]["severity"] in ("warning", "critical")
