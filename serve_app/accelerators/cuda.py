"""The accelerator ``cuda``: native PyTorch on one NVIDIA GPU per replica."""

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
        return any(Path("/dev").glob("nvidia[0-9]*"))

    def ray_actor_options(self, pool: PoolSettings) -> dict[str, Any]:
        return {"num_cpus": 1, "num_gpus": 1, **pool.ray_actor_options}

    def host_bytes_per_weight(self, pool: PoolSettings) -> int:
        return 0

    def load_pipeline(self, pool: PoolSettings) -> StepPipeline:
        import torch

        from serve_app.pipelines.loading import load_sdxl

        if not torch.cuda.is_available():
            raise ConfigurationError(
                "PyTorch finds no CUDA device: install its CUDA build and the driver, or use accelerator cpu"
            )
        dtype = "float16" if pool.dtype == "auto" else pool.dtype
        return load_sdxl(pool, device=torch.device("cuda"), dtype=getattr(torch, dtype))


ACCELERATOR: Accelerator = _Cuda()
