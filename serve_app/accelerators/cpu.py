"""The accelerator ``cpu``: any processor, by PyTorch with oneDNN or by Intel's extension of it."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import weakref
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from serve_app import cpu_topology
from serve_app.accelerators.base import Accelerator
from serve_app.capabilities import ModelDefaults
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import ConfigurationError
from serve_app.settings import PoolSettings

if TYPE_CHECKING:
    import torch

    from serve_app.pipelines.shared_cores import SharedCores

log = logging.getLogger(__name__)

Layers = Literal["fused", "ipex", "compiled", "plain"]

_EXACT_MATMULS = ("MKL_CBWR", "AVX2,STRICT")
"""MKL's sums else depend on where a row lies in memory (seen in tiny attentions with two threads). Read by MKL once,
before its first call."""

_MANY_PRIMITIVES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")
"""What oneDNN keeps of the code that it writes for each layer, size and number of rows. Its 1024 are used up by three
sizes in up to 8 rows each: from then on it writes all of them anew, milliseconds for each layer (24 such steps: 10 s
instead of 2 s). Read by oneDNN once, before its first call; more of them took no more memory."""

_MALLOC_OPTIONS = {-1: 2**31 - 1, -2: 2**28, -3: 2**30, -8: 1}
"""glibc's M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD (bytes) and M_ARENA_MAX: memory of big tensors is kept instead
of being given back and faulted in again by every layer (a tenth of a decode's time)."""

_FAST_BF16_FLAGS = {"amx_bf16", "bf16"}
"""AMX, and Arm's name of its own instructions: bfloat16 is faster than float32 wherever they are."""

_AMD_BF16_FLAG = "avx512_bf16"
"""Faster on AMD's processors (Zen 4: twice). Intel's do not multiply more numbers by it than by float32's instructions:
on a Xeon whose AMX was hidden, oneDNN's products and convolutions took 1.4 to 1.6 times as long as in float32."""


class _Cpu:
    @property
    def name(self) -> str:
        return "cpu"

    def available(self) -> bool:
        return True

    def ray_actor_options(self, pool: PoolSettings) -> dict[str, Any]:
        return {"num_cpus": pool.num_threads or _default_threads(), **pool.ray_actor_options}

    def host_bytes_per_weight(self, pool: PoolSettings) -> int:
        copies = 2 if pool.cpu.layers == "compiled" else 1  # the compiler's frozen weights are its own
        return copies * (4 if _dtype_name(pool) == "float32" else 2)

    def load_pipeline(self, pool: PoolSettings) -> StepPipeline:
        if pool.exact_batches:
            os.environ.setdefault(*_EXACT_MATMULS)
        os.environ.setdefault(*_MANY_PRIMITIVES)
        _keep_memory()
        import torch

        from serve_app.pipelines.loading import load_sdxl
        from serve_app.pipelines.sdxl import SdxlPipeline

        dtype = getattr(torch, _dtype_name(pool))
        layers = _layers(pool, dtype)
        cores = _cores(pool)
        # This thread only loads, on the cores whose memory the model is to lie in; see SharedCores.
        torch.set_num_threads(1)
        with cpu_topology.running_on(cores.cpus):
            pipeline: SdxlPipeline = load_sdxl(
                pool,
                device=torch.device("cpu"),
                dtype=dtype,
                cores=cores,
                concurrent_decodes=partial(_concurrent_decodes, pool, cores.cores),
                tune=lambda stock: _tune(stock, layers, dtype),
            )
        _give_back_free_memory()
        if layers == "compiled":
            _limit_to_compiled(pipeline)
        log.info("pool %s: %s layers, %d threads, pinned to %s", pool.name, layers, cores.cores, cores.cpus)
        return pipeline


def _keep_memory() -> None:
    """Asks the allocator to keep freed memory; does nothing where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in _MALLOC_OPTIONS.items():
        mallopt(option, value)


def _give_back_free_memory() -> None:
    """What was only needed to load, which the allocator was told to keep."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def _dtype_name(pool: PoolSettings) -> str:
    """As set, else the fastest that this processor computes without emulation."""
    if pool.dtype != "auto":
        return pool.dtype
    return "bfloat16" if has_fast_bf16() else "float32"


def has_fast_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 faster than float32.

    Args:
        cpuinfo: The kernel's description of the processor; where there is none the answer is no.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    entries = [
        (name.strip().lower(), value.split()) for name, _, value in (line.partition(":") for line in lines)
    ]
    flags = {flag for name, values in entries if name in ("flags", "features") for flag in values}
    amd = any(name == "vendor_id" and values == ["AuthenticAMD"] for name, values in entries)
    return bool(flags & _FAST_BF16_FLAGS) or (amd and _AMD_BF16_FLAG in flags)


def _layers(pool: PoolSettings, dtype: torch.dtype) -> Layers:
    """As set, or the fastest that can be had.

    Raises:
        ConfigurationError: What is set cannot be had here; says what is missing.
    """
    import torch

    from serve_app.pipelines import onednn

    wanted = pool.cpu.layers
    if wanted == "auto":
        if dtype == torch.float16 or not onednn.usable():
            return "plain"
        if dtype == torch.float32:
            return "fused"
        # That the extension's sums are the same wherever a row lies was not seen; of oneDNN's it was.
        return "fused" if pool.exact_batches or _ipex_problem() else "ipex"
    problem = None
    if wanted == "ipex":
        problem = _ipex_problem()
    elif wanted == "compiled":
        problem = _compiler_problem(pool)
    if wanted != "plain" and not onednn.usable():
        problem = "this build of PyTorch has no oneDNN"
    if wanted != "plain" and dtype == torch.float16:
        problem = "it does not compute in float16; set dtype to bfloat16 or float32"
    if problem:
        raise ConfigurationError(f"cpu.layers={wanted} cannot be used: {problem}, or set cpu.layers to auto")
    return wanted


def _ipex_problem() -> str | None:
    """Why Intel's extension for PyTorch cannot be used, or None. It ends the process where versions differ."""
    try:
        ipex = metadata.version("intel-extension-for-pytorch")
    except metadata.PackageNotFoundError:
        return "intel-extension-for-pytorch is not installed (requirements/ipex.txt has a pair that fits)"
    torch_version = metadata.version("torch")
    if ipex.split(".")[:2] != torch_version.split(".")[:2]:
        return f"intel-extension-for-pytorch {ipex} does not fit torch {torch_version}"
    return None


def _compiler_problem(pool: PoolSettings) -> str | None:
    """Why PyTorch's compiler cannot be used, or None."""
    if pool.exact_batches:
        return (
            "exact_batches fills every step up to max_rows rows, and only one picture at a time is compiled"
        )
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if not any(shutil.which(compiler) for compiler in compilers):
        return f"it needs a C++ compiler and there is no {' or '.join(compilers)}: install one, or set CXX"
    return None


def _tune(stock: Any, layers: Layers, dtype: torch.dtype) -> None:
    """Changes the loaded `StableDiffusionXLPipeline` in place."""
    import torch

    from serve_app.pipelines.group_norm import use_channels_last
    from serve_app.pipelines.onednn import fuse_decoder, fuse_unet

    if layers == "plain":
        use_channels_last(stock.vae)
        return
    stock.vae.to(memory_format=torch.channels_last)
    fuse_decoder(stock.vae)
    if layers == "fused":
        fuse_unet(stock.unet)
    elif layers == "ipex":
        import intel_extension_for_pytorch as ipex

        # Folding batch norms only costs time: there are none.
        ipex.optimize(stock.unet, dtype=dtype, inplace=True, conv_bn_folding=False, linear_bn_folding=False)


def _limit_to_compiled(pipeline: Any) -> None:
    """Compiles the UNet at its first call, and offers only the one shape that this is done for.

    Every shape takes minutes to compile and a copy of the weights of its own.
    """
    import torch._inductor.config as inductor

    inductor.freezing = True
    defaults = pipeline.defaults
    guided = defaults.guidance_scale > 1.0
    rows = 2 if guided else 1
    pipeline.compile_unet()
    pipeline.limit(
        max_rows=rows,
        fixed_rows=(rows,),
        fixed_sizes=((defaults.width, defaults.height),),
        guidance=guided,
    )


def _cores(pool: PoolSettings) -> SharedCores:
    """The replica's cores: claimed and pinned where that is possible and wanted.

    Raises:
        ConfigurationError: ``pin_cores`` is ``on``, and the cores cannot be had.
    """
    from serve_app.pipelines.shared_cores import SharedCores

    cores = cpu_topology.physical_cores()
    threads = _threads(pool, cores)
    claim = None
    if pool.cpu.pin_cores != "off":
        problem = _quota_problem()
        if problem is None:
            claim = cpu_topology.claim_cores(threads, cores=cores)
            problem = f"{threads} of {len(cores)} physical cores are not free"
        if claim is None:
            if pool.cpu.pin_cores == "on":
                raise ConfigurationError(
                    f"cpu.pin_cores=on: {problem}; run fewer replicas on this node, set num_threads, or set it to auto"
                )
            log.warning("pool %s computes on no cores of its own: %s", pool.name, problem)
        elif len(claim.nodes) > 1:
            log.warning(
                "pool %s: %d cores lie on %d NUMA nodes; a replica for each node would draw more",
                pool.name,
                threads,
                len(claim.nodes),
            )
    shared = SharedCores(threads, fixed=pool.exact_batches, cpus=claim.cpus if claim else None)
    if claim:
        weakref.finalize(shared, claim.release)
    return shared


def _quota_problem() -> str | None:
    """Why this container's CPUs are not its own, or None: containers pinned to the same ones would halve each other."""
    quota, allowed = cpu_topology.quota_cpus(), len(cpu_topology.allowed_cpus())
    if quota is None or quota >= allowed:
        return None
    return f"the container may use {quota:g} CPUs' time of {allowed} CPUs that it shares with others"


def _threads(pool: PoolSettings, cores: tuple[cpu_topology.Core, ...]) -> int:
    """Threads of a replica on this node: as set, else for what it reserves, else one NUMA node's physical cores."""
    if pool.num_threads is not None:
        return pool.num_threads
    reserved = pool.ray_actor_options.get("num_cpus")
    if isinstance(reserved, (int, float)) and reserved >= 1:
        return cpu_topology.threads_for(cores, reserved)
    return _default_threads(cores)


def _concurrent_decodes(pool: PoolSettings, cores: int, defaults: ModelDefaults) -> int:
    """As set; else one for a model of few unguided steps, where decodes are most of the work.

    Two calls on half of the cores each then do more than one after the other on all, above all where neighbours want
    the cores too. With many guided steps of many rows there is little to gain. Sums are split by the number of threads,
    so a picture is bit-equal only where that never changes.
    """
    if pool.exact_batches:
        return 0
    if pool.concurrent_decodes is not None:
        return min(pool.concurrent_decodes, cores - 1)
    return int(cores > 1 and defaults.guidance_scale == 0)


def _default_threads(cores: tuple[cpu_topology.Core, ...] | None = None) -> int:
    """One NUMA node's physical cores, or less where a container has a smaller CPU quota."""
    cores = cpu_topology.physical_cores() if cores is None else cores
    quota = cpu_topology.quota_cpus()
    threads = cpu_topology.largest_node(cores)
    return threads if quota is None else min(threads, cpu_topology.threads_for(cores, quota))


ACCELERATOR: Accelerator = _Cpu()

AUTO_RANK: int = 10
"""Taken where there is nothing else."""
