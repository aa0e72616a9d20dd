"""The cores of one CPU replica, shared by the denoising and the decodes beside it: `SharedCores`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from serve_app.cpu_topology import running_on


class SharedCores:
    """Gives the denoising thread and each decode beside it an equal part of the cores.

    Two calls on half of the cores each finish sooner than one after the other on all of them: the layers of a small
    model are too short to keep many cores busy. The parts are small enough that threads never outnumber cores by
    more than the decodes: OpenMP's threads then wait for each other asleep instead of awake, which made a step of a
    small model 2.3 times as long (seen with libgomp on two cores). For the same reason nobody else in the process
    should run torch on several threads: whoever loads the model does it on one.

    Args:
        cores: Threads in all.
        fixed: Every call gets all of them, so that sums are always split alike (pictures are then bit-equal).
        cpus: Logical CPUs that the computing threads run on, one for each core; None for any. OpenMP's threads are
            started by the first call of a thread, and stay where it ran.
    """

    def __init__(self, cores: int, *, fixed: bool = False, cpus: frozenset[int] | None = None) -> None:
        self.cores = cores
        self.cpus = cpus
        self._fixed = fixed
        self._denoiser: int | None = None  # its thread
        self._beside = 0
        self._lock = threading.Lock()

    @contextmanager
    def denoising(self) -> Iterator[None]:
        """Around a call of the thread that denoises."""
        with self._lock:
            self._denoiser = threading.get_ident()
            threads = self._share()
        _use(threads)
        with running_on(self.cpus):
            yield

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Around a decode, on the thread that denoises or on another beside it."""
        if self._denoiser in (None, threading.get_ident()):
            _use(self._share())
            with running_on(self.cpus):
                yield
            return
        with self._lock:
            self._beside += 1
            threads = self._share()
        try:
            _use(threads)
            with running_on(self.cpus):
                yield
        finally:
            with self._lock:
                self._beside -= 1

    def _share(self) -> int:
        return self.cores if self._fixed else max(1, self.cores // (1 + self._beside))


def _use(threads: int) -> None:
    """Sets the calling thread's number, which is its own in torch's OpenMP build; asking is cheap, setting is not."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
