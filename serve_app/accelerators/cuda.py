"""The accelerator ``cuda``: native PyTorch on one NVIDIA GPU per replica; several GPUs are several replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve_app.accelerators.base import Accelerator
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import ConfigurationError
from serve_app.settings import PoolSettings


class _Cuda:
    @property
    def name(self) -> str:
        return "cuda"

    def available(self) -> bool:
        # The second is what containers on Windows' Linux have.
        return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()

    def ray_actor_options(self, pool: PoolSettings) -> dict[str, Any]:
        _check(pool)
        return {"num_cpus": 1, "num_gpus": 1, **pool.ray_actor_options}

    def host_bytes_per_weight(self, pool: PoolSettings) -> int:
        if pool.cuda.cpu_offload != "all":
            return 0
        return 4 if pool.dtype == "float32" else 2

    def load_pipeline(self, pool: PoolSettings) -> StepPipeline:
        _check(pool)
        import torch

        from serve_app.pipelines.cuda_loading import load_on

        if not torch.cuda.is_available():
            raise ConfigurationError(
                "PyTorch finds no CUDA device: install its CUDA build and the driver, or use accelerator cpu"
            )
        torch.set_num_threads(pool.num_threads or 1)  # the host only starts what the device computes
        gpus = _gpus(pool)
        if gpus < 1:
            torch.cuda.set_per_process_memory_fraction(gpus)
        return load_on(pool, torch.device("cuda"))


def _gpus(pool: PoolSettings) -> float:
    """GPUs of one replica, as Ray is asked for them."""
    asked = pool.ray_actor_options.get("num_gpus", 1)
    return float(asked) if isinstance(asked, (int, float)) else 0.0


def _check(pool: PoolSettings) -> None:
    """Refuses what would have no effect here.

    Raises:
        ConfigurationError: Names the setting.
    """
    if not 0 < _gpus(pool) <= 1:
        raise ConfigurationError(
            f"pool {pool.name}: num_gpus={pool.ray_actor_options.get('num_gpus')}, but a replica runs on one GPU or "
            "on a part of one; use more GPUs by max_replicas"
        )
    if pool.concurrent_decodes:
        raise ConfigurationError(
            f"pool {pool.name}: concurrent_decodes has no effect on accelerator cuda; remove it"
        )


def stand_in(pool: PoolSettings) -> StepPipeline:
    """The same pipeline with a CPU in the device's place, in float32 unless set: for tests and the benchmark's own."""
    import torch

    from serve_app.pipelines.cuda_loading import load_on

    _check(pool)
    return load_on(pool, torch.device("cpu"))


ACCELERATOR: Accelerator = _Cuda()

AUTO_RANK: int = 20
"""Before the processor, which every machine has."""
