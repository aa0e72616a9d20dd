"""The two kinds of subjects behind one interface: `Ours` and `Stock`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode

from bench.cuda.plan import GUIDANCE_SCALE, PLAIN, REFERENCE, TUNED, Subject, Task
from serve_app.pipelines.noise_schedulers import NoiseSchedulers
from serve_app.request import GenerationRequest
from serve_app.settings import PoolSettings

Drawn = tuple[npt.NDArray[np.float32], bytes]


class Side(Protocol):
    """Draws."""

    def draw(self, task: Task, prompts: list[str], seed: int) -> Drawn:
        """Pictures of a task together; the first one's last latents, and its RGB bytes."""
        ...


def timed_ms(call: Callable[[], Any], device: torch.device, repeats: int, warm_ups: int = 3) -> list[float]:
    """Each of `repeats` calls after `warm_ups` others, by the device's own clock where it has one."""
    for _ in range(warm_ups):
        call()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            events: Any = torch.cuda
            began, ended = events.Event(enable_timing=True), events.Event(enable_timing=True)
            began.record()
            call()
            ended.record()
            ended.synchronize()
            times.append(float(began.elapsed_time(ended)))
        else:
            start = time.perf_counter()
            call()
            times.append((time.perf_counter() - start) * 1e3)
    return times


class Ours:
    """This service's pipeline, driven as the engine drives it.

    Args:
        subject: Its options.
        model: Folder.
        device: ``cuda`` or ``cpu``.
        max_rows: Most rows of a step.
        sizes: (width, height) that are made ready.
    """

    def __init__(
        self, subject: Subject, model: str, device: torch.device, max_rows: int, sizes: list[tuple[int, int]]
    ) -> None:
        from serve_app.accelerators import cuda

        pool = PoolSettings.model_validate(
            {
                "accelerator": "cuda",
                "model": model,
                "dtype": subject.dtype,
                "max_rows": max_rows,
                "cuda": {"warm_up_sizes": sizes, **subject.cuda},
            }
        )
        load = cuda.ACCELERATOR.load_pipeline if device.type == "cuda" else cuda.stand_in
        # Not StepPipeline: what it is made of is compared.
        self._pipeline: Any = load(pool)
        self._device = device

    def draw(self, task: Task, prompts: list[str], seed: int) -> Drawn:
        """As `Side.draw`."""
        states = [self._prepared(task, prompt, seed + index) for index, prompt in enumerate(prompts)]
        while not states[0].finished:
            self._pipeline.denoise_step(states)
            for state in states:
                state.step += 1
        latents = (
            states[0].latents.float().cpu().numpy() if task.kind == "latents" else np.zeros(0, np.float32)
        )
        pictures = [self._pipeline.decode(state).rgb for state in states]
        return latents, pictures[0]

    def step_ms(self, task: Task, repeats: int) -> list[float]:
        """Milliseconds of single steps with `task.rows` rows."""
        long = Task(task.kind, task.side, repeats + 5, task.rows, task.guided)
        pictures = task.rows // (2 if task.guided else 1)
        states = [self._prepared(long, "a lighthouse", seed) for seed in range(pictures)]

        def step() -> None:
            self._pipeline.denoise_step(states)
            for state in states:
                state.step += 1

        return timed_ms(step, self._device, repeats)

    def decode_ms(self, task: Task, repeats: int) -> list[float]:
        """Milliseconds of single decodes."""
        state = self._prepared(task, "a lighthouse", 0)
        return timed_ms(lambda: self._pipeline.decode(state), self._device, repeats)

    def _prepared(self, task: Task, prompt: str, seed: int) -> Any:
        guidance_scale = GUIDANCE_SCALE if task.guided else 0.0
        request = GenerationRequest(
            "bench",
            prompt,
            "",
            task.side,
            task.side,
            task.steps,
            guidance_scale,
            seed,
            scheduler_name=task.scheduler,
        )
        return self._pipeline.prepare(request, 0)


class Stock:
    """Stock diffusers.

    Args:
        subject: Which kind.
        model: Folder.
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, subject: Subject, model: str, device: torch.device) -> None:
        from diffusers import StableDiffusionXLPipeline

        if subject.kind == REFERENCE:  # torch's own convolutions on a GPU are in 19 bits otherwise
            torch.backends.cudnn.allow_tf32 = False
        usual = "float16" if device.type == "cuda" and subject.kind == PLAIN else "float32"
        dtype = getattr(torch, usual if subject.dtype == "auto" else subject.dtype)
        self._pipe: Any = StableDiffusionXLPipeline.from_pretrained(
            model, torch_dtype=dtype, add_watermarker=False
        )
        self._pipe.set_progress_bar_config(disable=True)
        self._pipe.to(device)
        self._schedulers = NoiseSchedulers(self._pipe.scheduler)
        if subject.kind == TUNED:
            self._pipe.fuse_qkv_projections()
            self._pipe.unet.to(memory_format=torch.channels_last)
            self._pipe.vae.to(memory_format=torch.channels_last)
            self._pipe.unet = torch.compile(self._pipe.unet, mode="reduce-overhead", fullgraph=True)
            self._pipe.vae.decode = torch.compile(
                self._pipe.vae.decode, mode="reduce-overhead", fullgraph=True
            )

    def draw(self, task: Task, prompts: list[str], seed: int) -> Drawn:
        """As `Side.draw`."""
        self._pipe.scheduler = self._schedulers.make(task.scheduler)
        kept: list[Any] = []

        def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if step == pipe.num_timesteps - 1:
                kept.append(tensors["latents"][:1].float().cpu().numpy())
            return {}

        with Float32Noise():
            images = self._pipe(
                prompt=prompts,
                height=task.side,
                width=task.side,
                num_inference_steps=task.steps,
                guidance_scale=GUIDANCE_SCALE if task.guided else 0.0,
                generator=[torch.Generator("cpu").manual_seed(seed + index) for index in range(len(prompts))],
                callback_on_step_end=keep if task.kind == "latents" else None,
            ).images
        pictures = [image.tobytes() for image in images]
        return kept[-1] if kept else np.zeros(0, np.float32), pictures[0]


class Float32Noise(TorchFunctionMode):
    """Draws all noise in float32 and rounds it: in some releases of PyTorch a generator's 16-bit numbers are others."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn and kwargs.get("dtype") in (torch.float16, torch.bfloat16):
            return func(*args, **{**kwargs, "dtype": torch.float32}).to(kwargs["dtype"])
        return func(*args, **kwargs)


def median(values: list[float]) -> float:
    """Rounded to a microsecond of milliseconds."""
    return round(statistics.median(values), 3)
