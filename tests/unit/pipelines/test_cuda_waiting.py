"""A denoising step on a GPU never waits for it: on torch's meta device, and on a real one where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from serve_app.accelerators import cuda
from serve_app.engine.state import ImageState
from serve_app.pipelines.cuda_parts import CudaWork
from serve_app.pipelines.noise_schedulers import NoiseSchedulers
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.pipelines.sdxl_conditioning import Conditioning
from serve_app.settings import PoolSettings
from tests.unit.pipelines.cuda_stand_in import NAMES, load, small

pytestmark = pytest.mark.usefixtures("one_thread")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


class _Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where values go from host to device or back. The device is torch's meta device, which has none to read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.allowed = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        given = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, torch.Tensor)]
        if isinstance(answer, torch.Tensor) and not self.allowed:
            # A host's number beside a device's tensor goes along with the kernel's start, so it is no copy.
            places = {one.device.type for one in given if one.dim() or len(given) == 1}
            copies = func.name().startswith("aten::copy_") and len({one.device for one in given}) > 1
            assert not copies, f"{func} waits for the device"
            assert places <= {answer.device.type}, f"{func} waits for the device"
        return answer


class _MetaWork(CudaWork):
    """`CudaWork` whose device is the meta device; its own `send` is the only allowed way there."""

    waits = _Waits()

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        self.waits.allowed = True
        try:
            return tensor.to("meta")
        finally:
            self.waits.allowed = False


class _DiffusersOwnSteps(_MetaWork):
    def noise_schedulers(self, own: Any) -> Any:
        return NoiseSchedulers(own)


def on_meta(pipeline: SdxlPipeline, kind: type[_MetaWork]) -> SdxlPipeline:
    work = kind(torch.device("meta"), pipeline._work._graphs, None)  # type: ignore[attr-defined]
    own = pipeline._schedulers._own
    pipeline._work, pipeline._device = work, work.device
    pipeline._schedulers = work.noise_schedulers(own)
    pipeline._unet._unet.to("meta")
    pipeline._unet._graphs.clear()
    return pipeline


def state_on_meta(pipeline: SdxlPipeline, name: str, steps: int) -> ImageState:
    schedule = pipeline._schedulers.schedule(name, steps, 0)
    return ImageState(
        request=small(scheduler_name=name),
        index=0,
        batch_key=(8, 12),
        rows=2,
        total_steps=steps,
        latents=torch.empty(1, 4, 8, 12, device="meta"),
        conditioning=Conditioning(
            torch.empty(2, 77, 64, device="meta"),
            torch.empty(2, 32, device="meta"),
            torch.empty(2, 6, device="meta"),
            None,
        ),
        noise_scheduler=schedule,
    )


def _all_steps(pipeline: SdxlPipeline, batch: list[ImageState]) -> None:
    with _MetaWork.waits:
        while not batch[0].finished:
            pipeline.denoise_step(batch)
            for state in batch:
                state.step += 1


@pytest.mark.parametrize("name", NAMES)
def test_a_step_reads_nothing_back_and_copies_nothing_but_by_send(tiny_sdxl: Path, name: str) -> None:
    pipeline = on_meta(load(tiny_sdxl, text_states_once=False), _MetaWork)
    batch = [state_on_meta(pipeline, name, 4), state_on_meta(pipeline, name, 4)]
    _all_steps(pipeline, batch)
    assert batch[0].latents.shape == (1, 4, 8, 12)


@pytest.mark.parametrize("name", ["unipc", "euler_a", "lcm"])
def test_the_check_notices_a_step_that_waits(tiny_sdxl: Path, name: str) -> None:
    pipeline = on_meta(load(tiny_sdxl, text_states_once=False), _DiffusersOwnSteps)
    state = state_on_meta(pipeline, name, 4)
    with pytest.raises((AssertionError, NotImplementedError, RuntimeError)):
        _all_steps(pipeline, [state])


@on_cuda
@pytest.mark.parametrize("name", NAMES)
def test_a_step_does_not_wait_on_a_device(tiny_sdxl: Path, name: str) -> None:
    pool = PoolSettings(model=str(tiny_sdxl), accelerator="cuda")
    pipeline = cuda.ACCELERATOR.load_pipeline(pool)
    states = [pipeline.prepare(small(scheduler_name=name, num_inference_steps=6), 0) for _ in range(2)]
    for step in range(states[0].total_steps):
        # The first calls of a shape are made ready, which waits.
        torch.cuda.set_sync_debug_mode("error" if step >= 3 else "default")
        try:
            pipeline.denoise_step(states)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for state in states:
            state.step += 1
