"""What is applied beside an overlay: its pods are the ones that are scraped, and batch runs call what there is."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer

from serve_app.batch.prompts import read_prompts
from serve_app.cli import app
from tests.manifests.rendering import BATCH, OVERLAYS, all_pod_templates, of_kind, ray_service, render
from tests.manifests.test_references import MADE_BY_KUBERAY


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_ray_pod_is_scraped(overlay: str) -> None:
    (monitor,) = of_kind(render("monitoring"), "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    selector = monitor["spec"]["selector"]["matchLabels"]
    templates = all_pod_templates([ray_service(render(f"overlays/{overlay}"))])
    assert len(templates) >= 3
    for name, template in templates:
        assert selector.items() <= template["metadata"]["labels"].items(), name
        ports = {
            port["name"]: port["containerPort"]
            for container in template["spec"]["containers"]
            for port in container["ports"]
        }
        assert ports[endpoint["port"]] == 8080, name  # where Ray reports


@pytest.mark.parametrize("run", BATCH)
def test_batch_runs_call_what_there_is(run: str, tmp_path: Path) -> None:
    """The command line is one that `imagine batch` takes, of files that are mounted, at the service's own address."""
    objects = render(run)
    if run == "batch/job":
        (template,) = [template for _, template in all_pod_templates(objects)]
        container = template["spec"]["containers"][0]
        words = [*container["command"], *container["args"]]
    else:
        (job,) = of_kind(objects, "RayJob")
        head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
        container = head["spec"]["containers"][0]
        words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["imagine", "batch"]
    (prompts,) = of_kind(objects, "ConfigMap")
    file = Path(words[2])
    assert file.name in prompts["data"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(file.parent), words[words.index("--output") + 1]} <= mounted
    url = urlsplit(words[words.index("--url") + 1])
    assert url.hostname is not None
    assert MADE_BY_KUBERAY[url.hostname] == url.port
    (tmp_path / file.name).write_text(prompts["data"][file.name])
    words[2] = str(tmp_path / file.name)
    commands: Any = typer.main.get_command(app)
    parsed = commands.commands["batch"].make_context("batch", words[2:])
    assert parsed.params["priority"] == "batch", "nobody waits for it"
    assert read_prompts(Path(words[2]).read_text(), defaults={})
    # With component api-keys it has a key.
    keys = [entry for entry in container["env"] if entry["name"] == "IMAGINE_API_KEY"]
    assert [entry["valueFrom"]["secretKeyRef"]["optional"] for entry in keys] == [True]
    for name, template in all_pod_templates(objects):
        assert template["spec"]["priorityClassName"] == "imagine-batch", name
