"""What optimum-neuron uses of torch-neuronx, on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from torch_neuronx import experimental
from torch_neuronx.data_parallel import DataParallel
from torch_neuronx.graph import compiled

__all__ = [
    "DataParallel",
    "async_load",
    "dynamic_batch",
    "experimental",
    "lazy_load",
    "move_trace_to_device",
    "trace",
]

# TorchScript else optimises a graph anew on its first calls: seconds each for a model that runs in milliseconds.
torch._C._jit_set_profiling_executor(False)


def trace(
    func: torch.nn.Module,
    example_inputs: tuple[torch.Tensor, ...],
    *,
    compiler_args: str | None = None,
    input_output_aliases: dict[Any, int] | None = None,
    inline_weights_to_neff: bool = True,
    cpu_backend: bool = False,
    compiler_workdir: str | None = None,
) -> torch.jit.ScriptModule:
    """`func` for inputs like the examples and no others."""
    assert cpu_backend, "optimum-neuron knows that there is no device"
    assert compiler_args is not None
    assert "--auto-cast" in compiler_args
    assert not input_output_aliases
    return compiled(func, example_inputs)


def dynamic_batch(module: torch.jit.ScriptModule, enable: bool = True) -> torch.jit.ScriptModule:
    """Lets `DataParallel` give a core several batches, one after another."""
    module.dynamic = enable
    return module


def async_load(module: torch.jit.ScriptModule, enable: bool = True) -> None:
    """Nothing to be had on a CPU."""


def lazy_load(module: torch.jit.ScriptModule, enable: bool = True) -> None:
    """Nothing to be had on a CPU."""


def move_trace_to_device(module: torch.jit.ScriptModule, device_id: int) -> None:
    """All of it is on the CPU."""
