"""What the images hold and answer, as their files say it. docker/try-image.sh tries them when they are built."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gradio_ui.settings import DEFAULT_PORT
from tests.manifests.rendering import ROOT
from tests.manifests.test_images import DOCKER, DOCKERFILES, EACH

NEVER = {"torch", "diffusers", "transformers", "accelerate", "torchvision", "triton"}
"""What loads models: not in the head's image, nor in the page's."""


def final_stage(file: Path) -> str:
    """The part that becomes the image, with continued lines as one."""
    text = file.read_text().replace("\\\n", " ")
    return text[text.rindex("FROM ${BASE}") :]


def instruction(stage: str, name: str) -> list[str]:
    """The arguments of every instruction of this name."""
    return re.findall(rf"^{name}\s+(.+)$", stage, re.M)


def environment(stage: str) -> Mapping[str, str]:
    """What ENV sets."""
    return dict(pair.split("=", 1) for line in instruction(stage, "ENV") for pair in line.split())


def closure(requirements: Iterable[str]) -> set[str]:
    """Names of all packages that pip would install for these, by what the installed ones say they need."""
    wanted, found = [Requirement(line) for line in requirements], set()
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        one = wanted.pop()
        name, extras = canonicalize_name(one.name), frozenset(one.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(str(name))
        for line in importlib.metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)
            ):
                wanted.append(needed)
    return found


@EACH
def test_the_base_is_pinned_to_a_release_of_python(file: Path) -> None:
    (version,) = re.findall(r"^ARG PYTHON_VERSION=(\S+)$", file.read_text(), re.M)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert ":latest" not in file.read_text()
    assert set(re.findall(r"^FROM (\S+)", file.read_text(), re.M)) <= {"${BASE}", "build"}


@EACH
def test_it_runs_without_rights_and_cannot_change_its_own_files(file: Path) -> None:
    stage = final_stage(file)
    assert instruction(stage, "USER") == ["1000:1000"]
    assert "--uid 1000 --gid 1000" in stage
    for raising in ("sudo", "setcap", "chmod u+s", "chmod 4", "chmod 777"):
        assert raising not in file.read_text()
    for copied in instruction(stage, "COPY"):
        assert "--chown" not in copied, "what runs cannot be changed by who runs it"


@EACH
def test_the_health_check_asks_what_the_command_answers(file: Path) -> None:
    stage = final_stage(file)
    (check,) = instruction(stage, "HEALTHCHECK")
    options, _, command = check.partition("CMD ")
    words = json.loads(command)  # no shell in between
    assert {option.partition("=")[0] for option in options.split()} == {
        "--interval",
        "--timeout",
        "--start-period",
        "--retries",
    }
    exposed = {int(port) for line in instruction(stage, "EXPOSE") for port in line.split()}
    (started,) = [json.loads(line) for line in instruction(stage, "CMD") if line.startswith("[")]
    if words == ["ray", "health-check"]:
        assert started[:3] == ["ray", "start", "--head"]
        assert 6379 in exposed
        return
    assert words[:2] == ["python", "-c"]
    compile(words[2], "HEALTHCHECK", "exec")
    (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", words[2])
    assert int(port) in exposed
    limit_s = int(re.findall(r"--timeout=(\d+)s", options)[0])
    assert int(re.findall(r"timeout=(\d+)\)", words[2])[0]) < limit_s
    if started[0] == "imagine":
        assert started[started.index("--port") + 1] == port
        assert started[started.index("--host") + 1] == "0.0.0.0"
    else:
        assert started == ["python", "-m", "gradio_ui"]
        assert int(port) == DEFAULT_PORT
        assert environment(stage)["UI_HOST"] == "0.0.0.0"


@EACH
def test_signals_reach_the_command(file: Path) -> None:
    stage = final_stage(file)
    assert instruction(stage, "ENTRYPOINT") == ['["tini", "--"]']
    assert re.search(r"apt-get install -y --no-install-recommends [^&]*\btini\b", stage)


def test_the_page_installs_its_own_list_and_all_of_it_is_pinned() -> None:
    text = (DOCKER / "ui.Dockerfile").read_text()
    assert re.findall(r"pip install (.+)", text) == ["--requirement requirements/ui.txt"]
    assert re.findall(r"^COPY (?!--)(.+)$", text, re.M) == [
        "requirements/ui.txt requirements/ui.txt",
        "gradio_ui /opt/app/gradio_ui",
    ]
    lines = [line for line in (ROOT / "requirements" / "ui.txt").read_text().splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s*]+", line) for line in lines)
    listed = {str(canonicalize_name(line.partition("==")[0])) for line in lines}
    assert closure(lines) == listed, "pip installs these and no other version of anything"
    assert not listed & (NEVER | {"ray"})


def test_the_head_installs_nothing_that_loads_models() -> None:
    text = (DOCKER / "head.Dockerfile").read_text()
    assert re.findall(r"pip install (.+?)(?: \\)?$", text, re.M) == [
        "--constraint requirements/lock.txt .",
        "--no-deps .",
    ], "the package without any extra"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = closure(project["dependencies"])
    assert {"ray", "fastapi", "obstore"} <= installed
    assert not installed & (NEVER | {"gradio"})
    # So that a walk that finds nothing would be noticed.
    assert closure(project["optional-dependencies"]["torch"]) >= NEVER - {"torchvision", "triton"}
    lock = (ROOT / "requirements" / "lock.txt").read_text()
    pinned = {str(canonicalize_name(name)) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.M)}
    assert installed <= pinned, "every package of the image is pinned"


@pytest.mark.parametrize("script", ["build-without-engine.sh", "try-image.sh"])
def test_the_scripts_know_every_image(script: str) -> None:
    text = (DOCKER / script).read_text()
    bake = (DOCKER / "docker-bake.hcl").read_text()
    targets = set(re.findall(r'^target "([^"]+)"', bake, re.M)) - {"common", "worker"}
    assert {file.name.partition(".")[0] for file in DOCKERFILES} <= targets
    (listed,) = set(re.findall(r"(?:\[|try-image\.sh )((?:[a-z-]+\|)+[a-z-]+)", text))
    assert set(listed.split("|")) == targets
