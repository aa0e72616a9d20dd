"""The cores of one CPU replica, shared by the denoising and the decodes beside it: `SharedCores`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from serve_app.cpu_topology import running_on


class SharedCores:
    """Gives the denoising thread and each decode beside it its part of the cores.

    Two calls on half of the cores each finish sooner than one after the other on all of them: the layers of a small
    model are too short to keep many cores busy. The parts never add up to more threads than there are cores, as long
    as `beside` is raised before the thread that denoises begins a call and not in its middle: with one thread too many
    OpenMP's threads, which wait awake, displace those that they wait for, and a decode on two cores beside another one
    took two to five times as long as on one. For the same reason nobody else in the process should run torch on several
    threads: whoever loads the model does it on one.

    Args:
        cores: Threads in all.
        fixed: Every call gets all of them, so that sums are always split alike (pictures are then bit-equal).
        cpus: Logical CPUs that the computing threads run on, one for each core; None for any. OpenMP's threads are
            started by the first call of a thread, and stay where it ran.

    Attributes:
        at_once: Calls that may run at once, at most one for each core.
        beside: Decodes that run beside the thread that denoises, those included that will start in a moment.
    """

    def __init__(self, cores: int, *, fixed: bool = False, cpus: frozenset[int] | None = None) -> None:
        self.cores = cores
        self.cpus = cpus
        self.at_once = 1
        self.beside = 0
        self._fixed = fixed

    @contextmanager
    def denoising(self) -> Iterator[None]:
        """Around a call that denoises: what the decodes beside it leave."""
        with self._on(self.cores - self.beside * (self.cores // self.at_once)):
            yield

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Around a decode: everything where it is on the thread that denoises, else an equal part."""
        with self._on(self.cores // self.at_once if self.beside else self.cores):
            yield

    @contextmanager
    def _on(self, threads: int) -> Iterator[None]:
        _use(self.cores if self._fixed else max(1, threads))
        with running_on(self.cpus):
            yield


def _use(threads: int) -> None:
    """Sets the calling thread's number, which is its own in torch's OpenMP build; asking is cheap, setting is not."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
