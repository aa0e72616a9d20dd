"""The accelerator ``cpu``: native PyTorch on any processor."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import psutil

from serve_app.accelerators.base import Accelerator
from serve_app.engine.pipeline import StepPipeline
from serve_app.settings import PoolSettings

_EXACT_MATMULS = ("MKL_CBWR", "AVX2,STRICT")
"""MKL's sums else depend on where a row lies in memory (seen in tiny attentions with two threads). Read by MKL once,
before its first call."""

_MALLOC_OPTIONS = {-1: 2**31 - 1, -2: 2**28, -3: 2**30, -8: 1}
"""glibc's M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD (bytes) and M_ARENA_MAX: memory of big tensors is kept instead
of being given back and faulted in again by every layer (a tenth of a decode's time)."""

_NATIVE_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is Arm's name


class _Cpu:
    @property
    def name(self) -> str:
        return "cpu"

    def available(self) -> bool:
        return True

    def ray_actor_options(self, pool: PoolSettings) -> dict[str, Any]:
        return {"num_cpus": _cores(pool), **pool.ray_actor_options}

    def host_bytes_per_weight(self, pool: PoolSettings) -> int:
        return 4 if _dtype_name(pool) == "float32" else 2

    def load_pipeline(self, pool: PoolSettings) -> StepPipeline:
        if pool.exact_batches:
            os.environ.setdefault(*_EXACT_MATMULS)
        _keep_memory()
        import torch

        from serve_app.pipelines.loading import load_sdxl
        from serve_app.pipelines.shared_cores import SharedCores

        cores = SharedCores(_cores(pool), fixed=pool.exact_batches)
        torch.set_num_threads(1)  # this thread only loads; see SharedCores
        return load_sdxl(
            pool,
            device=torch.device("cpu"),
            dtype=getattr(torch, _dtype_name(pool)),
            cores=cores,
            concurrent_decodes=0 if pool.exact_batches else pool.concurrent_decodes,
        )


def _keep_memory() -> None:
    """Asks the allocator to keep freed memory; does nothing where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in _MALLOC_OPTIONS.items():
        mallopt(option, value)


def _dtype_name(pool: PoolSettings) -> str:
    """As set, else the fastest that this processor computes without emulation."""
    if pool.dtype != "auto":
        return pool.dtype
    return "bfloat16" if has_native_bf16() else "float32"


def has_native_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 itself; emulated it is slower than float32.

    Args:
        cpuinfo: The kernel's description of the processor; where there is none the answer is no.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(
        _NATIVE_BF16_FLAGS & set(line.partition(":")[2].split())
        for line in lines
        if line.lower().startswith(("flags", "features"))
    )


def _cores(pool: PoolSettings) -> int:
    """Threads of a replica: as set, else what it reserves, else this machine's physical cores."""
    if pool.num_threads is not None:
        return pool.num_threads
    reserved = pool.ray_actor_options.get("num_cpus")
    if isinstance(reserved, (int, float)) and reserved >= 1:
        return int(reserved)
    # A container may be pinned to fewer cores than the machine has.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


ACCELERATOR: Accelerator = _Cpu()
