"""The dashboards and alerts as their files say them, and a real Prometheus to ask them of."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.running_service import free_port

MONITORING = Path(__file__).parents[2] / "kuberay" / "monitoring"

_VARIABLES = {
    "$__rate_interval": "1m",
    "$application": ".*",
    "$pool": ".*",
}


def panels() -> list[tuple[str, str]]:
    """(dashboard, panel and query's letter; PromQL with its variables filled in) of every panel's query."""
    found = []
    for file in sorted((MONITORING / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"]
                for name, value in _VARIABLES.items():
                    query = query.replace(name, value)
                found.append((f"{file.stem}: {panel['title']} {target['refId']}", query))
    return found


def variable_queries() -> list[str]:
    """PromQL that holds the metrics of the dashboards' own variables."""
    boards = [json.loads(file.read_text()) for file in (MONITORING / "dashboards").glob("*.json")]
    return [
        variable["query"]["query"]
        for board in boards
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    ]


def alert_rules() -> dict[str, Any]:
    """The rule groups, as Prometheus itself reads them."""
    spec: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus-rule.yaml").read_text())["spec"]
    return spec


def alerts() -> list[tuple[str, str]]:
    """(name, PromQL) of every alert."""
    return [(rule["alert"], rule["expr"]) for group in alert_rules()["groups"] for rule in group["rules"]]


def metric_names(query: str) -> set[str]:
    """Names of the series a query asks for."""
    return set(re.findall(r"\bray_[a-zA-Z0-9_]+(?=[{\[) ,]|$)", query)) - {"ray_io_cluster", "ray_io_group"}


class Prometheus:
    """A running one.

    Args:
        url: Its address.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=10.0)

    def ready(self) -> bool:
        """Whether it answers queries."""
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def values(self, query: str) -> list[float]:
        """Of every series that `query` gives now.

        Raises:
            AssertionError: The query is wrong.
        """
        answer = self._client.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        return [float(series["value"][1]) for series in answer["data"]["result"]]


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[Prometheus]:
    """Runs Prometheus over one scrape target, every second, with the project's alerts loaded.

    Args:
        target: Address of the metrics.
        folder: Where it keeps its configuration and data.
    """
    address = f"127.0.0.1:{free_port()}"
    (folder / "rules.yaml").write_text(yaml.safe_dump(alert_rules()))
    host, path = re.fullmatch(r"http://([^/]+)(/.*)", target).groups()  # type: ignore[union-attr]
    scrape = {"job_name": "ray", "metrics_path": path, "static_configs": [{"targets": [host]}]}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [scrape],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        running = Prometheus(f"http://{address}")
        deadline = time.monotonic() + 30
        while not running.ready():
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        process.wait(20)
