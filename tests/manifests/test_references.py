"""What a schema cannot see: names that must agree, and what pods are allowed and asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from serve_app import __version__
from tests.manifests.rendering import (
    BATCH,
    DOCUMENTED_SECRETS,
    EVERYTHING,
    OVERLAYS,
    ROOT,
    Manifest,
    all_pod_templates,
    everything,
    of_kind,
    quantity,
    ray_service,
    render,
    render_with,
)

MADE_BY_KUBERAY = {"imagine-serve-svc": 8000, "imagine-head-svc": 8265}

LOCK = dict(
    line.split("==") for line in (ROOT / "requirements" / "lock.txt").read_text().splitlines() if "==" in line
)


def rendered() -> Iterator[tuple[str, tuple[Manifest, ...]]]:
    for overlay in OVERLAYS:
        yield overlay, everything(overlay)
    for run in BATCH:
        yield run, render(run)


EACH = pytest.mark.parametrize("objects", [pytest.param(objects, id=name) for name, objects in rendered()])
EACH_OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)


def python_of_images() -> str:
    """The Python that the bake file gives to every image."""
    bake = (ROOT / "docker" / "docker-bake.hcl").read_text()
    found = re.search(r'variable "PYTHON_VERSION" \{\s*default = "([^"]+)"', bake)
    assert found
    return found.group(1)


@EACH
def test_versions_are_those_of_the_lock(objects: tuple[Manifest, ...]) -> None:
    major, minor, _ = python_of_images().split(".")
    tag = f"{__version__}-ray{LOCK['ray']}-py{major}{minor}"
    for item in objects:
        cluster = item.get("spec", {}).get("rayClusterConfig") or item.get("spec", {}).get("rayClusterSpec")
        if cluster:
            assert cluster["rayVersion"] == LOCK["ray"]
    images = {
        container["image"]
        for _, template in all_pod_templates(objects)
        for container in template["spec"]["containers"]
    }
    ours = {image for image in images if image.startswith("imagine-")}
    assert ours
    assert {image.rpartition(":")[2] for image in ours} == {tag}
    assert all(re.fullmatch(r"[a-z/.-]+:\d+\.\d+\.\d+[a-z-]*", image) for image in images - ours), "pinned"


@EACH
def test_every_image_of_ours_is_built(objects: tuple[Manifest, ...]) -> None:
    bake = (ROOT / "docker" / "docker-bake.hcl").read_text()
    for _, template in all_pod_templates(objects):
        for container in template["spec"]["containers"]:
            name = container["image"].partition(":")[0]
            assert not name.startswith("imagine-") or f'target "{name.removeprefix("imagine-")}"' in bake


@EACH
def test_pods_have_no_rights_that_they_do_not_need(objects: tuple[Manifest, ...]) -> None:
    templates = all_pod_templates(objects)
    assert templates
    for name, template in templates:
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] >= 999, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["serviceAccountName"] in ("imagine", "imagine-head"), name
        for container in spec["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False, name
            assert rights["readOnlyRootFilesystem"] is True, name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name
            assert set(container["resources"]) == {"requests", "limits"}, name
            for resource, asked in container["resources"]["requests"].items():
                assert quantity(asked) <= quantity(container["resources"]["limits"][resource]), name
        if template["metadata"]["labels"].get("imagine/ray"):
            # Ray writes there, and nowhere else.
            mounted = {m["mountPath"] for c in spec["containers"] for m in c["volumeMounts"]}
            assert {"/tmp", "/home/imagine"} <= mounted, name


@EACH
def test_what_is_mounted_is_a_volume_and_every_volume_is_mounted(objects: tuple[Manifest, ...]) -> None:
    claimed = {
        claim["metadata"]["name"]
        for item in of_kind(objects, "StatefulSet")
        for claim in item["spec"]["volumeClaimTemplates"]
    }
    for name, template in all_pod_templates(objects):
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
        mounts = {m["name"] for c in template["spec"]["containers"] for m in c.get("volumeMounts", [])}
        assert mounts - claimed == volumes, name


@EACH
def test_what_is_referred_to_is_made_or_documented(objects: tuple[Manifest, ...]) -> None:
    made: set[tuple[str, str]] = {(item["kind"], item["metadata"]["name"]) for item in objects}
    base = {(item["kind"], item["metadata"]["name"]) for item in render("overlays/dev")}
    documented = set(
        re.findall(r"^kubectl .*create secret \S+ (imagine-\S+)", DOCUMENTED_SECRETS.read_text(), re.M)
    )
    referred = set(references(list(objects)))
    assert referred
    for kind, name in referred:
        if kind == "Secret":
            assert name in documented or ("Secret", name) in made, f"Secret {name}"
        elif kind in ("ServiceAccount", "PriorityClass"):  # a batch run uses those of the service
            assert (kind, name) in made | base, f"{kind} {name}"
        else:
            assert (kind, name) in made, f"{kind} {name}"


def references(value: Any) -> Iterator[tuple[str, str]]:
    """(kind, name) of everything that is named anywhere in the objects."""
    if isinstance(value, list):
        for part in value:
            yield from references(part)
    if not isinstance(value, dict):
        return
    for key, part in value.items():
        if key == "secretKeyRef" or key in ("secretRef", "nodePublishSecretRef"):
            yield "Secret", part["name"]
        elif key == "nginx.ingress.kubernetes.io/auth-secret":
            yield "Secret", part
        elif key == "imagePullSecrets":
            yield from (("Secret", entry["name"]) for entry in part)
        elif key in ("configMapKeyRef", "configMapRef") or (key == "configMap" and "name" in part):
            yield "ConfigMap", part["name"]
        elif key == "persistentVolumeClaim":
            yield "PersistentVolumeClaim", part["claimName"]
        elif key == "serviceAccountName":
            yield "ServiceAccount", part
        elif key == "priorityClassName":
            yield "PriorityClass", part
        else:
            yield from references(part)


@EACH
def test_selectors_select_pods(objects: tuple[Manifest, ...]) -> None:
    pods = [template["metadata"]["labels"] for _, template in all_pod_templates(objects)]

    def selects(labels: dict[str, str]) -> bool:
        return any(labels.items() <= pod.items() for pod in pods)

    for item in objects:
        name, spec = f"{item['kind']} {item['metadata']['name']}", item.get("spec", {})
        if item["kind"] == "Service":
            assert selects(spec["selector"]), name
            named = {
                port["name"]
                for _, template in all_pod_templates(objects)
                if spec["selector"].items() <= template["metadata"]["labels"].items()
                for container in template["spec"]["containers"]
                for port in container["ports"]
            }
            assert {port["targetPort"] for port in spec["ports"]} <= named, name
        if item["kind"] in ("Deployment", "StatefulSet"):
            assert (
                spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
            ), name
        if item["kind"] in ("PodDisruptionBudget",):
            assert selects(spec["selector"]["matchLabels"]), name
            # Anything else is not understood for pods without a scale subresource.
            assert isinstance(spec["minAvailable"], int), name
        if item["kind"] == "NetworkPolicy":
            assert selects(spec["podSelector"].get("matchLabels", {})), name
    for name, template in all_pod_templates(objects):
        for spread in template["spec"].get("topologySpreadConstraints", []):
            assert spread["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items(), (
                name
            )


@EACH
def test_labels_are_labels(objects: tuple[Manifest, ...]) -> None:
    value = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
    key = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
    everywhere = [item["metadata"].get("labels", {}) for item in objects]
    everywhere += [template["metadata"]["labels"] for _, template in all_pod_templates(objects)]
    for labels in everywhere:
        for name, text in labels.items():
            assert key.fullmatch(name), name
            assert value.fullmatch(text), text


@EACH_OVERLAY
def test_everything_is_in_one_namespace(overlay: str) -> None:
    objects = everything(overlay)
    (namespace,) = {item["metadata"]["name"] for item in objects if item["kind"] == "Namespace"}
    cluster_wide = {"Namespace", "PriorityClass", "PersistentVolume"}
    for item in objects:
        expected = None if item["kind"] in cluster_wide else namespace
        assert item["metadata"].get("namespace") == expected, item["metadata"]["name"]
    for volume in of_kind(render_with("g8i", "models-oss"), "PersistentVolume"):
        assert volume["spec"]["csi"]["nodePublishSecretRef"]["namespace"] == namespace


@EACH_OVERLAY
def test_routes_lead_to_services(overlay: str) -> None:
    objects = render_with(overlay, *EVERYTHING, *(() if overlay != "dev" else ("ingress-nginx",)))
    ports = MADE_BY_KUBERAY | {
        item["metadata"]["name"]: item["spec"]["ports"][0]["port"] for item in of_kind(objects, "Service")
    }
    backends = [
        (path["backend"]["service"]["name"], path["backend"]["service"]["port"]["number"])
        for item in of_kind(objects, "Ingress")
        for rule in item["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    backends += [
        (backend["name"], backend["port"])
        for item in of_kind(objects, "HTTPRoute")
        for rule in item["spec"]["rules"]
        for backend in rule["backendRefs"]
    ]
    assert {name for name, _ in backends} == {"imagine-serve-svc", "imagine-ui", "imagine-head-svc"}
    assert all(ports[name] == port for name, port in backends)
    assert ray_service(objects)["metadata"]["name"] == "imagine", "KubeRay's services are called after it"


@EACH_OVERLAY
def test_the_dashboard_is_not_public(overlay: str) -> None:
    objects = render(f"overlays/{overlay}")
    head = ray_service(objects)["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert "imagine-head-svc" not in str(of_kind(objects, "Ingress"))
    assert ray_service(objects)["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    assert policies["imagine-default"] == {"podSelector": {}, "policyTypes": ["Ingress"]} | {
        key: value for key, value in policies["imagine-default"].items() if key == "ingress" and value == []
    }
    for rule in policies["imagine-ray"]["ingress"]:
        if "ingress-nginx" in str(rule):
            assert rule["ports"] == [{"port": 8000}]
    (published,) = [
        item
        for item in of_kind(render_with(overlay, "dashboard-nginx"), "Ingress")
        if "head-svc" in str(item["spec"])
    ]
    assert published["metadata"]["annotations"]["nginx.ingress.kubernetes.io/auth-type"] == "basic"
