"""Every overlay, every component on it, and the batch runs: rendered, and every object strictly checked."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.manifests.rendering import BATCH, COMPONENTS, OVERLAYS, Manifest, ray_service, render, render_with
from tests.manifests.strictness import problems

EITHER_OR = {"models-pvc", "models-oss", "models-hostpath"}
"""Components that say different things of the same volume."""


def check(objects: tuple[Manifest, ...]) -> None:
    found = {f"{item['kind']} {item['metadata']['name']}": problems(item) for item in objects}
    assert not {name: wrong for name, wrong in found.items() if wrong}
    identities = [
        (item["apiVersion"], item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
        for item in objects
    ]
    assert len(set(identities)) == len(identities)
    assert not any(item["apiVersion"].startswith("imagine/") for item in objects), "meant for kustomize alone"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay(overlay: str) -> None:
    check(render(f"overlays/{overlay}"))


@pytest.mark.parametrize("run", BATCH)
def test_batch_run(run: str) -> None:
    check(render(run))


def test_monitoring() -> None:
    objects = render("monitoring")
    assert {item["kind"] for item in objects} == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    check(objects)


def optional(overlay: str) -> set[str]:
    """Components that an overlay does not have: pools belong to overlays, and names are there once."""
    there = {item["metadata"]["name"] for item in render(f"overlays/{overlay}")}
    named = {
        "ui": "imagine-ui",
        "ingress-nginx": "imagine-serve",
        "model-cache-pvc": "imagine-model-cache",
        "output-pvc": "imagine-pictures",
    }
    return {name for name in COMPONENTS if not name.startswith("pool-") and named.get(name, "-") not in there}


@pytest.mark.parametrize("models", sorted(EITHER_OR))
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_with_every_component_it_could_have(overlay: str, models: str) -> None:
    check(render_with(overlay, *sorted(optional(overlay) - EITHER_OR), models))


def broken(**changes: Any) -> list[str]:
    service = copy.deepcopy(ray_service(render("overlays/cuda")))
    cluster = service["spec"]["rayClusterConfig"]
    container = cluster["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]
    places = {"spec": service["spec"], "cluster": cluster, "container": container}
    for place, change in changes.items():
        places[place].update(change)
    return problems(service)


def test_the_checks_see_what_is_wrong() -> None:
    assert broken() == []
    assert "imagePullPolcy" in broken(container={"imagePullPolcy": "Always"})[0]
    assert "rayVerson" in broken(cluster={"rayVerson": "2.60.0"})[0]
    assert broken(container={"resources": {"limits": {"cpu": "two"}}})
    assert broken(spec={"excludeHeadPodFromServeSvc": "yes"})
    assert broken(cluster={"headGroupSpec": {"rayStartParams": {"num-cpus": 0}, "template": {}}})
    deployment = copy.deepcopy(next(x for x in render("overlays/cuda") if x["kind"] == "Deployment"))
    assert problems(deployment) == []
    deployment["spec"]["replcas"] = 2
    assert "replcas" in problems(deployment)[0]
    assert problems({"apiVersion": "v1", "kind": "Pood", "metadata": {"name": "x"}})
    (route,) = [x for x in render_with("dev", "gateway-api") if x["kind"] == "HTTPRoute"]
    route = copy.deepcopy(route)
    route["spec"]["rules"][0]["timeouts"]["reqest"] = "1s"
    assert "reqest" in problems(route)[0]
    (monitor,) = [x for x in render("monitoring") if x["kind"] == "PodMonitor"]
    monitor = copy.deepcopy(monitor)
    monitor["spec"]["podMetricsEndpoints"][0]["scrapeTimout"] = "1s"
    assert "scrapeTimout" in problems(monitor)[0]
