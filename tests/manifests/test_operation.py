"""How clusters start, scale, drain and end, and that Ray and the service know each setting that they are given."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml

from serve_app.app import DRAIN_S
from serve_app.settings import Settings
from tests.manifests.rendering import (
    DOCUMENTED_SECRETS,
    KUBERAY,
    OVERLAYS,
    all_pod_templates,
    everything,
    groups,
    of_kind,
    quantity,
    ray_resources,
    ray_service,
    render,
    render_with,
)

UPGRADES = {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"}
EACH_OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)


@EACH_OVERLAY
def test_the_cluster_scales_as_asked(overlay: str) -> None:
    service = ray_service(render(f"overlays/{overlay}"))["spec"]
    cluster = service["rayClusterConfig"]
    assert service["upgradeStrategy"]["type"] in UPGRADES
    assert service["excludeHeadPodFromServeSvc"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] == 300
    for name, group in groups(ray_service(render(f"overlays/{overlay}"))).items():
        assert 0 <= group["minReplicas"] == group["replicas"] <= group["maxReplicas"], name
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert "aws.amazon.com/neuron" not in limits, "neither KubeRay nor Ray counts it"
        if "aws.amazon.com/neuroncore" in limits:
            declared = '"neuron_cores\\": ' + limits["aws.amazon.com/neuroncore"]
            assert declared.replace('"', '\\"', 1) in group["rayStartParams"]["resources"], name


@EACH_OVERLAY
def test_pods_leave_after_their_longest_picture(overlay: str) -> None:
    service = ray_service(render(f"overlays/{overlay}"))["spec"]
    config = yaml.safe_load(service["serveConfigV2"])["applications"][0]["args"]
    longest_s = max(
        [DRAIN_S, *(pool.graceful_shutdown_timeout_s for pool in Settings.model_validate(config).pools)]
    )
    assert service["rayClusterDeletionDelaySeconds"] > longest_s
    for name, group in groups(ray_service(render(f"overlays/{overlay}"))).items():
        spec = group["template"]["spec"]
        command, drain_s = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command == "drain-ray-node"
        assert longest_s < int(drain_s) < spec["terminationGracePeriodSeconds"], name


@EACH_OVERLAY
def test_probes_leave_minutes_to_load(overlay: str) -> None:
    cluster = ray_service(render(f"overlays/{overlay}"))["spec"]["rayClusterConfig"]
    for name, group in groups(ray_service(render(f"overlays/{overlay}"))).items():
        container = group["template"]["spec"]["containers"][0]
        assert (
            container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 600
        )
        # Only Ray itself is asked whether it lives: a replica that loads for an hour is no reason to kill its pod.
        assert container["livenessProbe"]["httpGet"] == {
            "path": "/api/local_raylet_healthz",
            "port": 52365,
        }, name
        assert container["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 8000}, name
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {head[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness")} == {8265}


def test_confidential_nodes_are_the_only_difference_of_tdx() -> None:
    without = copy.deepcopy(list(render("overlays/g8i-tdx")))
    templates = all_pod_templates(without)
    assert {template["metadata"]["labels"]["app.kubernetes.io/component"] for _, template in templates} == {
        *("head", "ingress", "g8i", "ui")
    }
    for name, template in templates:
        assert template["spec"].pop("nodeSelector") == {"nodepool-label": "tdx-vm-pool"}, name
    assert without == list(render("overlays/g8i"))


def test_dev_fits_on_two_cpus() -> None:
    objects = render("overlays/dev")
    service = ray_service(objects)["spec"]["rayClusterConfig"]
    pods = {"head": (1, service["headGroupSpec"]["template"]["spec"]["containers"])}
    pods |= {
        name: (group["minReplicas"], group["template"]["spec"]["containers"])
        for name, group in groups(ray_service(objects)).items()
    }
    pods["ui"] = (1, of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"])
    pods["autoscaler"] = (1, [{"resources": service["autoscalerOptions"]["resources"]}])
    total = {
        resource: sum(
            count * quantity(container["resources"]["requests"][resource])
            for count, containers in pods.values()
            for container in containers
        )
        for resource in ("cpu", "memory")
    }
    assert total["cpu"] <= 1.8, "what a 2-core node has left beside Kubernetes itself"
    assert total["memory"] <= 7 * 2**30


@EACH_OVERLAY
def test_settings_of_the_environment_are_settings(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for item in of_kind(everything(overlay), "ConfigMap"):
        for name, value in item["data"].items():
            monkeypatch.setenv(name, value)
            if name.startswith("IMAGINE_"):
                assert name.removeprefix("IMAGINE_").partition("__")[0].lower() in Settings.model_fields
    assert Settings().store.url.startswith("s3://")


def test_ray_start_knows_every_flag() -> None:
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for param in start.params for option in param.opts}
    for overlay in OVERLAYS:
        service = ray_service(render(f"overlays/{overlay}"))
        used = set(service["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"])
        for group in groups(service).values():
            used |= set(group["rayStartParams"])
            assert ray_resources(group)["CPU"] >= 1
        assert used <= known
    assert "num-cpu" not in known


def test_every_overlay_and_component_is_in_the_index() -> None:
    index = (KUBERAY / "README.md").read_text()
    for kind in ("overlays", "components", "batch"):
        for folder in sorted((KUBERAY / kind).iterdir()):
            if folder.is_dir() and folder.name != "inputs":
                assert f"`{kind}/{folder.name}`" in index, folder.name
    assert not [link for link in re.findall(r"\]\(([^)#:]+)\)", index) if not (KUBERAY / link).exists()]


@EACH_OVERLAY
def test_the_file_of_keys_is_where_the_ingress_looks_for_it(overlay: str) -> None:
    objects = render_with(overlay, "api-keys")
    (settings,) = [
        item for item in of_kind(objects, "ConfigMap") if item["metadata"]["name"] == "imagine-settings"
    ]
    file = Path(settings["data"]["IMAGINE_ACCESS__KEYS_FILE"])
    spec = groups(ray_service(objects))["ingress"]["template"]["spec"]
    (mounted,) = [m for m in spec["containers"][0]["volumeMounts"] if m["mountPath"] == str(file.parent)]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == mounted["name"]]
    secret = volume["secret"]["secretName"]
    assert f"secret generic {secret} --from-file={file.name}=" in DOCUMENTED_SECRETS.read_text()
    without = ray_service(render(f"overlays/{overlay}"))
    assert groups(without)["ingress"]["template"]["spec"]["volumes"] == spec["volumes"]
    assert volume["secret"]["optional"] is True  # a pod starts without it
