"""The locked versions: one application spans environments of two generations."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).parents[2] / "requirements"

NEURONS_OWN = {
    "accelerate",
    "diffusers",
    "huggingface-hub",
    "numpy",
    "optimum",
    "optimum-neuron",
    "peft",
    "tokenizers",
    "transformers",
    "wheel",
}
"""What optimum-neuron wants in versions of its own; all else must be the same everywhere, Ray above all."""


def pins(name: str) -> dict[str, str]:
    text = (REQUIREMENTS / name).read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", text, flags=re.M)
    return {canonical(package): version for package, version in found}


def canonical(package: str) -> str:
    """A package's name as its index spells it."""
    return re.sub(r"[._-]+", "-", package).lower()


def test_the_neuron_environment_shares_the_services_own_packages() -> None:
    lock, neuron = pins("lock.txt"), pins("neuron.txt")
    assert neuron.keys() >= NEURONS_OWN | {"ray", "fastapi", "pydantic", "typer"}
    shared = {package: version for package, version in neuron.items() if package not in NEURONS_OWN}
    assert shared == {package: lock.get(package) for package in shared}
    # AWS's packages and their torch are pinned by optimum-neuron itself, in the image.
    assert not [package for package in neuron if "neuron" in package and package != "optimum-neuron"]
    assert "torch" not in neuron


def test_the_neuron_environment_has_all_of_the_services_own_packages_pinned() -> None:
    neuron = pins("neuron.txt")
    project = tomllib.loads((REQUIREMENTS.parent / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    # Installed here is the newer generation of its own, which brings others.
    brought = packages_of([one for one in wanted if canonical(one.name) not in NEURONS_OWN])
    assert len(brought) > 50
    assert brought - neuron.keys() == set()


@pytest.mark.parametrize("name", [file.name for file in sorted(REQUIREMENTS.glob("*.txt"))])
def test_every_line_is_one_exact_version(name: str) -> None:
    lines = [line.partition("#")[0].strip() for line in (REQUIREMENTS / name).read_text().splitlines()]
    wrong = [line for line in lines if line and not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9A-Za-z.+!]+", line)]
    assert wrong == []
    packages = [canonical(line.partition("==")[0]) for line in lines if line]
    assert len(packages) == len(set(packages))


def test_the_lock_pins_all_that_the_service_brings_along() -> None:
    lock = pins("lock.txt")
    project = tomllib.loads((REQUIREMENTS.parent / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    for extra in ("torch", "ui", "dev", "bench", "traces"):
        wanted += [Requirement(text) for text in project["optional-dependencies"][extra]]
    brought = packages_of(wanted)
    assert len(brought) > 100
    # CUDA's own packages come with the CUDA build of torch, in the versions that it names itself.
    not_ours = ("nvidia-", "cuda-", "triton", "setuptools")
    assert {package for package in brought - lock.keys() if not package.startswith(not_ours)} == set()


def packages_of(wanted: list[Requirement]) -> set[str]:
    """Names of all that these bring along, by what the installed packages say they need."""
    seen: set[tuple[str, str]] = set()
    wanted = list(wanted)
    while wanted:
        requirement = wanted.pop()
        package = canonical(requirement.name)
        for extra in ("", *requirement.extras):
            if (package, extra) in seen:
                continue
            seen.add((package, extra))
            try:
                brought = metadata.requires(requirement.name) or []
            except metadata.PackageNotFoundError:
                continue  # an extra that this environment goes without
            wanted += [
                needed
                for needed in map(Requirement, brought)
                if needed.marker is None or needed.marker.evaluate({"extra": extra})
            ]
    return {package for package, _ in seen}
