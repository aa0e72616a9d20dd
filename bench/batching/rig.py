"""`Rig`: one device with stock diffusers and this service's pipeline, the same weights, dtype and threads in both."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench.batching.servers import EngineServer, Server, StaticServer
from bench.batching.static import StaticBatching
from bench.batching.workloads import Job, Kind
from serve_app import accelerators
from serve_app.capabilities import PoolFacts
from serve_app.model_source import locate_model
from serve_app.settings import PoolSettings


class Rig:
    """Loads both.

    Args:
        device: ``cpu`` or ``cuda``: the accelerator's name and torch's.
        pool: Model, dtype, threads and rows.
    """

    def __init__(self, device: str, pool: PoolSettings) -> None:
        from diffusers import StableDiffusionXLPipeline

        self.device = device
        self.max_rows = pool.max_rows
        self._threads = pool.num_threads or len(os.sched_getaffinity(0))
        # Not StepPipeline: the dtype is for whoever compares.
        pipeline: Any = accelerators.get(device).load_pipeline(pool)
        self._pipeline = pipeline
        self._facts = PoolFacts(pool.name, pool.model, device, pipeline.defaults, pipeline.capabilities)
        source = locate_model(pool)
        self._stock: Any = StableDiffusionXLPipeline.from_pretrained(
            source.folder or pool.model, torch_dtype=pipeline.dtype, add_watermarker=False
        ).to(device)
        self._stock.set_progress_bar_config(disable=True)
        self.description = {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "model": pool.model,
            "dtype": str(pipeline.dtype),
            "threads": self._threads,
            "max_rows": pool.max_rows,
        }

    def draw(self, jobs: Sequence[Job]) -> list[bytes]:
        """One stock call for jobs of one kind, as a user of diffusers writes it."""
        kind = jobs[0].kind
        if torch.get_num_threads() != self._threads:  # each thread has a number of its own
            torch.set_num_threads(self._threads)
        pictures = self._stock(
            prompt=[job.prompt for job in jobs],
            width=kind.width,
            height=kind.height,
            num_inference_steps=kind.steps,
            guidance_scale=kind.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
        ).images
        return [picture.tobytes() for picture in pictures]

    def call_s(self, kind: Kind, pictures: int) -> float:
        """Seconds of one stock call."""
        jobs = [Job(n, 0.0, kind, f"a red star, {n}", n) for n in range(pictures)]

        def timed() -> float:
            began = time.perf_counter()
            self.draw(jobs)
            return time.perf_counter() - began

        # On a thread of its own, like every server: OpenMP's threads wait asleep, and cost everyone more, as soon as
        # the living threads of a process that ever computed outnumber the cores.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(timed).result()

    def static_server(self, batching: StaticBatching) -> Server:
        """A server with the stock pipeline."""
        return StaticServer(self.draw, batching)

    def engine_server(self) -> Server:
        """A server with this service's engine."""
        return EngineServer(self._pipeline, self._facts, self.max_rows)


def make_full_size_model(folder: Path) -> Path:
    """SDXL base's exact shapes with random weights, written once (7 GB; minutes without a GPU)."""
    from tools.make_sdxl import make_sdxl

    complete = folder / "complete"  # a run that was stopped while writing leaves it out
    if not complete.is_file():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        make_sdxl(folder, size="full", dtype=torch.float16, device=device)
        complete.touch()
    return folder
