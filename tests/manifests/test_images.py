"""The Dockerfiles: linted, and what the linter does not know of them. Building them: docker/build-without-engine.sh."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from serve_app import __version__
from tests.manifests.rendering import ROOT
from tests.manifests.test_references import LOCK, python_of_images

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
HADOLINT = shutil.which(
    "hadolint", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
)
BAKE = (DOCKER / "docker-bake.hcl").read_text()

EACH = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name.partition(".")[0])


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    assert HADOLINT, "the dev extra is not installed"
    config = ROOT / ".hadolint.yaml"
    return subprocess.run(
        [HADOLINT, "--no-color", "--config", str(config), str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )


@EACH
def test_the_linter_has_nothing_to_say(file: Path) -> None:
    done = lint(file)
    assert done.returncode == 0, done.stdout


def test_the_linter_would_say_something(tmp_path: Path) -> None:
    bad = tmp_path / "bad.Dockerfile"
    bad.write_text("FROM debian\nRUN cd /tmp && sudo apt-get install x\n")
    assert "DL3006" in lint(bad).stdout


@EACH
def test_an_image_is_small_pinned_and_without_rights(file: Path) -> None:
    text = file.read_text()
    stages = re.findall(r"^FROM (\S+)", text, re.M)
    assert len(stages) >= 2, "built in one stage, run in another"
    assert stages[-1] == stages[0] == "${BASE}", "the same system in both"
    assert "ARG BASE=python:${PYTHON_VERSION}-slim-bookworm" in text
    final = text[text.rindex("FROM ${BASE}") :]
    assert re.findall(r"^USER (\S+)", final, re.M) == ["1000:1000"]
    assert final.index("USER 1000:1000") > final.rindex("RUN "), "nothing runs as root after it"
    assert "HEALTHCHECK" in final
    assert f'org.opencontainers.image.version="{__version__}"' in final
    for label in ("title", "description", "licenses"):
        assert f"org.opencontainers.image.{label}=" in final
    assert not re.search(r"(TOKEN|SECRET|PASSWORD|KEY)=[^$]", text.replace("HF_TOKEN=$(cat", ""))
    assert "<<" not in text, "not every builder knows heredocs"
    assert text.index("requirements/") < text.index(
        "COPY serve_app serve_app" if "serve_app" in text else "COPY gradio"
    )


@EACH
def test_the_bake_file_builds_it_with_the_same_versions(file: Path) -> None:
    name = file.name.partition(".")[0]
    target = BAKE.split(f'target "{name}" {{')[1].split("\n}")[0]
    assert f'dockerfile = "docker/{file.name}"' in target
    assert f'imagine-{name}:${{TAG}}"' in target
    assert f"ARG PYTHON_VERSION={python_of_images()}" in file.read_text()


def test_the_tag_says_what_is_inside() -> None:
    (tag,) = re.findall(r'variable "TAG" \{\s*default = "([^"]+)"', BAKE)
    major, minor, _ = python_of_images().split(".")
    assert tag == f"{__version__}-ray{LOCK['ray']}-py{major}{minor}"


def test_neurons_image_takes_its_own_list_and_the_torch_it_is_made_for() -> None:
    text = (DOCKER / "neuron.Dockerfile").read_text()
    copied = re.findall(r"^COPY (requirements/\S+)", text, re.M)
    assert copied == ["requirements/neuron.txt"]
    first, second, package = re.findall(r"pip install (.+)", text)
    for line in (first, second):
        assert "--constraint constraints.txt" in line
    assert first.endswith(" torch torchvision")  # before AWS's packages, which take what is there
    assert second.endswith(' ".[neuron]"')
    assert package == "--no-deps ."
    assert "torch==2.8.0%s" in text
    assert "torchvision==0.23.0%s" in text
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (wanted,) = extras["neuron"]
    # Its version decides those of torch and of AWS's packages.
    assert wanted == "optimum-neuron[neuronx,diffusers]==0.4.5"


def test_no_build_needs_what_the_builder_does_not_get() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for file in DOCKERFILES:
        for words in re.findall(r"^COPY (.+)", file.read_text(), re.M):
            if "--from=" in words:
                continue
            for source in [word for word in words.split()[:-1] if not word.startswith("--")]:
                assert source.partition("/")[0] in allowed, source
                assert (ROOT / source).exists() or source in ("requirements/ui.txt", "gradio_ui"), source


def test_drain_ray_node_finds_its_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(DOCKER / "drain-ray-node"))
    lines = [b"python\0x", b"/venv/ray/core/src/ray/raylet/raylet\0--x=1\0--node_id=00ff\0"]
    monkeypatch.setitem(script["own_node_id"].__globals__, "command_lines", lambda: lines)
    assert script["own_node_id"]() == "00ff"
    monkeypatch.setitem(script["own_node_id"].__globals__, "command_lines", lambda: lines[:1])
    assert script["own_node_id"]() is None


def test_the_image_for_gpus_can_build_what_starts_its_kernels() -> None:
    text = (DOCKER / "cuda.Dockerfile").read_text()
    final = text[text.rindex("FROM ${BASE}") :]
    assert re.search(r"apt-get install .*\bgcc libc6-dev\b", final), "Triton needs a C compiler where it runs"
    group = (ROOT / "kuberay/components/pool-cuda/worker-group.yaml").read_text()
    for variable in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert re.search(rf"name: {variable}, value: /model-cache/\w+", group), "a place that can be written"
