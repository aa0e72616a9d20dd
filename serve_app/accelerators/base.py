"""The contract of one accelerator file; ``docs/accelerators.md`` says how to write one.

Importing this package never imports torch: `Accelerator.load_pipeline` does, on the replica's own node. A file has

- ``ACCELERATOR``, an `Accelerator`;
- ``AUTO_RANK``, an int: ``auto`` takes the highest that the machine has; None is taken by name only;
- where its device is rare, ``stand_in(pool)``: `Accelerator.load_pipeline` with a CPU in the device's place, in
  float32 unless set, which the contract test draws with.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from serve_app.engine.pipeline import StepPipeline
from serve_app.settings import PoolSettings


@runtime_checkable
class Accelerator(Protocol):
    """One kind of hardware. Each module of the folder has one, as ``ACCELERATOR``."""

    @property
    def name(self) -> str:
        """The module's file name, as used in `PoolSettings.accelerator`."""
        ...

    def available(self) -> bool:
        """Whether this machine has the hardware, found out without importing torch."""
        ...

    def ray_actor_options(self, pool: PoolSettings) -> dict[str, Any]:
        """What one replica reserves (``num_cpus``, ``num_gpus``, ``resources``), torch-free."""
        ...

    def host_bytes_per_weight(self, pool: PoolSettings) -> int:
        """Bytes of host memory that a loaded weight takes: 0 where the device has a memory of its own."""
        ...

    def load_pipeline(self, pool: PoolSettings) -> StepPipeline:
        """Loads the model on this node's device.

        Raises:
            ConfigurationError: The model or the device cannot work; the message names the remedy.
        """
        ...
