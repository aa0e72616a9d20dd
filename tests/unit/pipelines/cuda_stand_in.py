"""The accelerator cuda's pipeline with a CPU in the device's place, and the small pictures it is asked for in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from serve_app.accelerators import cuda
from serve_app.noise_schedulers import NOISE_SCHEDULERS
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.request import GenerationRequest
from serve_app.settings import PoolSettings
from tests.unit.pipelines.drawing import Picture, ask

NAMES = [scheduler.name for scheduler in NOISE_SCHEDULERS]


def load(folder: Path, max_rows: int = 8, dtype: str = "auto", **options: Any) -> SdxlPipeline:
    pool = {
        "model": str(folder),
        "accelerator": "cuda",
        "max_rows": max_rows,
        "dtype": dtype,
        "cuda": options,
    }
    pipeline = cuda.stand_in(PoolSettings.model_validate(pool))
    assert isinstance(pipeline, SdxlPipeline)
    return pipeline


def small(**changes: Any) -> GenerationRequest:
    return ask(**{"width": 96, "height": 64, "guidance_scale": 5.0, **changes})


def worst(one: Picture, other: Picture) -> int:
    assert one.std() > 5, "a flat picture would prove nothing"
    return int(np.abs(one - other).max())
