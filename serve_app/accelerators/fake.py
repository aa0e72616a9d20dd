"""The accelerator ``fake``: the whole service without a model or torch, for tests and demonstrations."""

from __future__ import annotations

from typing import Any

from serve_app.accelerators.base import Accelerator
from serve_app.engine.fake import FakePipeline
from serve_app.engine.pipeline import StepPipeline
from serve_app.settings import PoolSettings


class _Fake:
    @property
    def name(self) -> str:
        return "fake"

    def available(self) -> bool:
        return True

    def ray_actor_options(self, pool: PoolSettings) -> dict[str, Any]:
        return {"num_cpus": 0.1, **pool.ray_actor_options}

    def host_bytes_per_weight(self, pool: PoolSettings) -> int:
        return 0

    def load_pipeline(self, pool: PoolSettings) -> StepPipeline:
        return FakePipeline(step_s=0.02, max_rows=pool.max_rows)


ACCELERATOR: Accelerator = _Fake()

AUTO_RANK: int | None = None
"""Never taken unasked: it draws no model's pictures."""
