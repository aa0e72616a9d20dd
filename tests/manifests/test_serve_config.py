"""serveConfigV2 of every overlay: understood by Ray and by us, and fitting the nodes that the overlay asks for."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app import accelerators
from serve_app.settings import PoolSettings, Settings
from tests.manifests.rendering import KUBERAY, OVERLAYS, groups, ray_resources, ray_service, render

EACH = pytest.mark.parametrize("overlay", OVERLAYS)


def serve_config(overlay: str) -> dict[str, Any]:
    """What KubeRay would deploy."""
    config: dict[str, Any] = yaml.safe_load(
        ray_service(render(f"overlays/{overlay}"))["spec"]["serveConfigV2"]
    )
    return config


def settings(overlay: str) -> Settings:
    (application,) = ServeDeploySchema.model_validate(serve_config(overlay)).applications
    return Settings.model_validate(application.args)


def demand(pool: PoolSettings) -> dict[str, float]:
    """What a replica asks of a node."""
    options: dict[str, Any] = pool.ray_actor_options
    return {"CPU": options["num_cpus"], "GPU": options.get("num_gpus", 0), **options.get("resources", {})}


@EACH
def test_ray_and_we_understand_it(overlay: str) -> None:
    config = ServeDeploySchema.model_validate(serve_config(overlay))
    assert config.http_options.host == "0.0.0.0"
    assert config.http_options.port == 8000
    (application,) = config.applications
    assert application.route_prefix == "/"
    assert application.import_path == "serve_app.app:build"
    assert settings(overlay).pools


@EACH
def test_the_file_is_what_is_deployed(overlay: str) -> None:
    source = "g8i" if overlay == "g8i-tdx" else overlay
    assert serve_config(overlay) == yaml.safe_load((KUBERAY / "overlays" / source / "serve.yaml").read_text())


@EACH
def test_each_pool_fits_on_its_own_nodes_and_on_no_others(overlay: str) -> None:
    nodes = {
        name: ray_resources(group)
        for name, group in groups(ray_service(render(f"overlays/{overlay}"))).items()
    }
    for pool in settings(overlay).pools:
        fits = [
            name
            for name, has in nodes.items()
            if all(has.get(what, 0) >= n for what, n in demand(pool).items())
        ]
        assert fits == [pool.name]


@EACH
def test_there_are_nodes_for_every_replica(overlay: str) -> None:
    found = groups(ray_service(render(f"overlays/{overlay}")))
    for pool in settings(overlay).pools:
        group = found[pool.name]
        per_node = min(ray_resources(group)[what] // n for what, n in demand(pool).items() if n)
        assert group["minReplicas"] * per_node >= pool.min_replicas, "there from the start"
        assert group["maxReplicas"] * per_node >= pool.max_replicas
        assert (group["maxReplicas"] - 1) * per_node < pool.max_replicas, "no more nodes than replicas"


@EACH
def test_the_ingress_is_on_nodes_of_its_own(overlay: str) -> None:
    found = groups(ray_service(render(f"overlays/{overlay}")))
    asked: dict[str, Any] = settings(overlay).ingress_ray_actor_options
    assert set(asked) == {"resources"}
    (resource,) = asked["resources"]
    assert [name for name, group in found.items() if resource in ray_resources(group)] == ["ingress"]
    assert found["ingress"]["minReplicas"] >= settings(overlay).ingress_replicas


@EACH
def test_models_are_pinned_and_named_accelerators_exist(overlay: str) -> None:
    for pool in settings(overlay).pools:
        assert pool.accelerator in accelerators.names()
        if pool.accelerator == "neuron":
            assert pool.revision is None  # docs/deploy/eks-inf2.md tells how to pin what one has tried
        elif pool.model != "small-sdxl":
            assert re.fullmatch(r"[0-9a-f]{40}", pool.revision or ""), "a commit: a branch moves"
        assert pool.price_per_hour > 0 or overlay == "dev"
