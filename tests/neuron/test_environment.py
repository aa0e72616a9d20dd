"""The environment itself: no package of it is of a version that requirements/neuron.txt leaves open."""

from __future__ import annotations

import importlib.metadata
import re
import sysconfig

from tests.unit.test_requirements import canonical, pins

NOT_PINNED = re.compile(
    r"torch|imagine-serve|pip|setuptools|triton|nvidia-.*|cuda-.*|(torch-)?neuronx.*|libneuronxla"
)
"""The service itself, what a virtual environment begins with, torch, and what stands in for AWS's packages."""


def test_every_installed_package_is_pinned() -> None:
    pinned = pins("neuron.txt")
    # Not what Ray has inside itself and puts on the path when it is imported.
    here = [sysconfig.get_path("purelib")]
    installed = {
        canonical(found.name): found.version
        for found in importlib.metadata.distributions(path=here)
        if not NOT_PINNED.fullmatch(canonical(found.name))
    }
    assert installed.keys() >= {"ray", "optimum-neuron", "diffusers", "transformers"}
    assert installed == {name: pinned.get(name) for name in installed}
