"""Placement of graphs on cores."""

from __future__ import annotations

import os

import torch


def set_neuron_cores(module: torch.jit.ScriptModule, start_nc: int = 0, nc_count: int = 1) -> None:
    """Refuses cores that this process does not have; all of them are the CPU.

    Raises:
        RuntimeError: As the runtime does when it is asked for more than ``NEURON_RT_VISIBLE_CORES``.
    """
    cores = visible_cores()
    if start_nc + nc_count > cores:
        raise RuntimeError(f"cannot load onto core {start_nc + nc_count - 1}: this process has {cores} cores")


def visible_cores() -> int:
    """Cores of this process: as Ray says, else the two of one device."""
    listed = os.environ.get("NEURON_RT_VISIBLE_CORES", "0,1")
    count = 0
    for part in listed.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count
