"""The manifests as ``kubectl kustomize`` renders them, and what is asked of them again and again."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "kuberay"
OVERLAYS = tuple(sorted(folder.name for folder in (KUBERAY / "overlays").iterdir()))
COMPONENTS = tuple(sorted(folder.name for folder in (KUBERAY / "components").iterdir()))
BATCH = ("batch/job", "batch/rayjob")
EVERYTHING = ("api-keys", "dashboard-nginx", "gateway-api", "gcs-fault-tolerance", "output-s3")
DOCUMENTED_SECRETS = ROOT / "docs" / "deploy" / "secrets.md"

Manifest = dict[str, Any]


def _kustomize() -> list[str]:
    if kustomize := shutil.which("kustomize"):
        return [kustomize, "build"]
    if kubectl := shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    if os.environ.get("CI"):
        pytest.fail("neither kustomize nor kubectl is here to render the manifests")
    pytest.skip("needs kubectl or kustomize", allow_module_level=True)


@functools.cache
def render(folder: str) -> tuple[Manifest, ...]:
    """Every object of a folder below ``kuberay/``."""
    return _objects(KUBERAY / folder)


@functools.cache
def render_with(overlay: str, *components: str) -> tuple[Manifest, ...]:
    """Every object of an overlay with more components, as if it had named them too."""
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(KUBERAY / "overlays" / overlay, folder)],
            "components": [os.path.relpath(KUBERAY / "components" / name, folder) for name in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(content))
        return _objects(Path(folder))


def everything(overlay: str) -> tuple[Manifest, ...]:
    """An overlay with all that can be added to any of them."""
    return render_with(overlay, *EVERYTHING)


def _objects(folder: Path) -> tuple[Manifest, ...]:
    done = subprocess.run([*_kustomize(), str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip(), done.stderr  # warnings of deprecated fields
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(objects: Sequence[Manifest], kind: str) -> list[Manifest]:
    """The objects of one kind, in order."""
    return [item for item in objects if item["kind"] == kind]


def ray_service(objects: Sequence[Manifest]) -> Manifest:
    """The one RayService."""
    (found,) = of_kind(objects, "RayService")
    return found


def groups(service: Manifest) -> dict[str, Manifest]:
    """Worker groups of a RayService by name."""
    found = {group["groupName"]: group for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    assert len(found) == len(service["spec"]["rayClusterConfig"]["workerGroupSpecs"]), (
        "a group is there twice"
    )
    return found


def pod_templates(item: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Every pod template in an object, with a name for messages."""
    spec = item.get("spec", {})
    name = f"{item['kind']} {item['metadata']['name']}"
    if item["kind"] in ("Deployment", "StatefulSet", "Job"):
        yield name, spec["template"]
    cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec")
    if cluster:
        yield f"{name} head", cluster["headGroupSpec"]["template"]
        for group in cluster.get("workerGroupSpecs", []):
            yield f"{name} {group['groupName']}", group["template"]
    if "submitterPodTemplate" in spec:
        yield f"{name} submitter", spec["submitterPodTemplate"]


def all_pod_templates(objects: Sequence[Manifest]) -> list[tuple[str, Manifest]]:
    """`pod_templates` of all objects."""
    return [found for item in objects for found in pod_templates(item)]


def quantity(text: str | int | float) -> float:
    """A Kubernetes quantity as a number."""
    text = str(text)
    suffixes = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
    for suffix in sorted(suffixes, key=len, reverse=True):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * suffixes[suffix]
    return float(text)


def ray_resources(group: Manifest) -> dict[str, float]:
    """What a pod of the group declares to Ray, as KubeRay and ``ray start`` make it of limits and rayStartParams."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    params = group["rayStartParams"]
    found = {"CPU": float(params.get("num-cpus", int(quantity(limits["cpu"]))))}
    if "nvidia.com/gpu" in limits:
        found["GPU"] = float(limits["nvidia.com/gpu"])
    if "aws.amazon.com/neuroncore" in limits:
        found["neuron_cores"] = float(limits["aws.amazon.com/neuroncore"])
    # The value is a shell word that holds JSON.
    custom: dict[str, float] = json.loads(json.loads(params.get("resources", '"{}"')))
    return found | custom
