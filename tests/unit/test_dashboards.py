"""The monitoring manifests as files: they render, and the dashboards are ones that Grafana shows as meant."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.api import build_app
from serve_app.settings import Settings
from tests.serve.monitoring import MONITORING, panels

FILES = sorted((MONITORING / "dashboards").glob("*.json"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    file: Path = request.param
    content: dict[str, Any] = json.loads(file.read_text())
    assert content["uid"] == file.stem
    return content


def test_panels_are_explained_and_do_not_cover_each_other(board: dict[str, Any]) -> None:
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]
    for one, other in itertools.combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_every_query_uses_the_boards_own_variables(board: dict[str, Any]) -> None:
    variables = {variable["name"] for variable in board["templating"]["list"]}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert "$pool" not in target["expr"] or "pool" in variables
            assert target["expr"].count("(") == target["expr"].count(")")


def test_panels_about_pictures_count_the_routes_that_draw_alone() -> None:
    """Clients ask how far a drawing or a job is again and again: in milliseconds, which are no picture's."""
    draws = {"/imagine", "/api/text2image", "/generate", "/api/replay", "/v1/images/generations"}
    draws |= {"/sdapi/v1/txt2img", "/", "/models/{model}"}
    routes = set(build_app(Settings()).openapi()["paths"])
    assert draws | {"/api/jobs"} < routes
    about_answers = ("Seconds of an answer with pictures", "p95 by contract", "Share refused")
    queries = [query for name, query in panels() if name.split(": ")[1].startswith(about_answers)]
    assert len(queries) == 5
    for query in queries:
        selectors = re.findall(r'route=~"([^"]*)"', query)
        assert len(selectors) == query.count("ray_imagine_http_request")
        for selector in selectors:
            chosen = {route for route in routes if re.fullmatch(selector, route)}
            assert chosen == draws | ({"/api/jobs"} if "http_requests" in query else set())


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_the_manifests_render() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(MONITORING)], capture_output=True, text=True, timeout=60, check=True
    )
    assert not done.stderr.strip()
    objects = {item["kind"]: item for item in yaml.safe_load_all(done.stdout)}
    assert set(objects) == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    assert {item["metadata"]["namespace"] for item in objects.values()} == {"imagine"}
    assert objects["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in objects["ConfigMap"]["data"].items()} == {
        file.name: json.loads(file.read_text()) for file in FILES
    }
    # Kubernetes takes no larger ConfigMap.
    assert sum(len(text) for text in objects["ConfigMap"]["data"].values()) < 1_000_000
    (endpoint,) = objects["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
