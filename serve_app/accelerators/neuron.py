"""The accelerator ``neuron``: a model compiled for AWS Inferentia2 or Trainium, on two cores per replica."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_app.accelerators.base import Accelerator
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import ConfigurationError
from serve_app.neuron_model import CORES
from serve_app.settings import PoolSettings

RESOURCE = "neuron_cores"
"""Ray's name. Ray counts the cores of a node and tells each replica its own, in `VISIBLE_CORES`."""

VISIBLE_CORES = "NEURON_RT_VISIBLE_CORES"
"""The cores of this process, as Ray writes them and the Neuron runtime reads them: ``0,1`` or ``0-1``."""


class _Neuron:
    @property
    def name(self) -> str:
        return "neuron"

    def available(self) -> bool:
        return any(Path("/dev").glob("neuron[0-9]*"))

    def ray_actor_options(self, pool: PoolSettings) -> dict[str, Any]:
        """One CPU and two cores, beside resources of the pool's own: a replica without cores would take another's.

        Raises:
            ConfigurationError: The pool reserves fewer cores than a replica needs.
        """
        own = pool.ray_actor_options.get("resources")
        resources = {RESOURCE: CORES, **(own if isinstance(own, Mapping) else {})}
        if resources[RESOURCE] < CORES:
            raise ConfigurationError(
                f"pool {pool.name!r} reserves {resources[RESOURCE]:g} {RESOURCE}, but a replica needs {CORES}: set "
                f"ray_actor_options to {{resources: {{{RESOURCE}: {CORES}}}}} or leave it out"
            )
        return {"num_cpus": 1, **pool.ray_actor_options, "resources": resources}

    def host_bytes_per_weight(self, pool: PoolSettings) -> int:
        return 0

    def load_pipeline(self, pool: PoolSettings) -> StepPipeline:
        cores = visible_cores(os.environ.get(VISIBLE_CORES))
        if cores is not None and cores < CORES:
            raise ConfigurationError(
                f"this process has {cores} Neuron cores ({VISIBLE_CORES}={os.environ[VISIBLE_CORES]}), but a replica "
                f"needs {CORES}"
            )
        from serve_app.pipelines.neuron_sdxl import load_neuron_sdxl

        return load_neuron_sdxl(pool)


def visible_cores(listed: str | None) -> int | None:
    """How many cores a list such as ``0,1`` or ``2-5`` names; None where there is no list and so no limit.

    Raises:
        ConfigurationError: It is no such list.
    """
    if listed is None:
        return None
    try:
        ranges = [part.partition("-") for part in listed.split(",") if part.strip()]
        return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)
    except ValueError:
        raise ConfigurationError(
            f"{VISIBLE_CORES}={listed} is no list of cores such as 0,1 or 0-3: correct or unset it"
        ) from None


ACCELERATOR: Accelerator = _Neuron()

AUTO_RANK: int = 30
"""The most specialised: a machine that has it was rented for it."""
