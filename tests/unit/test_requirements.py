"""The locked versions: one application spans environments of two generations."""

from __future__ import annotations

import re
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[2] / "requirements"

NEURONS_OWN = {
    "diffusers",
    "huggingface-hub",
    "numpy",
    "optimum",
    "optimum-neuron",
    "tokenizers",
    "transformers",
}
"""What optimum-neuron wants in versions of its own; all else must be the same everywhere, Ray above all."""


def pins(name: str) -> dict[str, str]:
    text = (REQUIREMENTS / name).read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", text, flags=re.M)
    return {re.sub(r"[._-]+", "-", package).lower(): version for package, version in found}


def test_the_neuron_environment_shares_the_services_own_packages() -> None:
    lock, neuron = pins("lock.txt"), pins("neuron.txt")
    assert neuron.keys() >= NEURONS_OWN | {"ray", "fastapi", "pydantic", "typer"}
    shared = {package: version for package, version in neuron.items() if package not in NEURONS_OWN}
    assert shared == {package: lock.get(package) for package in shared}
