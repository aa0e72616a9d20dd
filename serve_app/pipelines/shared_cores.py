"""The cores of one CPU replica, shared by the denoising and the decodes beside it: `SharedCores`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SharedCores:
    """Gives each of the calls that run at the same time an equal part of the cores, and all to one that runs alone.

    Two calls on half of the cores each finish sooner than one after the other on all of them: the parts of a
    small model are too short to keep many cores busy.

    Args:
        cores: Threads in all.
        fixed: Every call gets all of them, so that sums are always split alike (pictures are then bit-equal).
    """

    def __init__(self, cores: int, *, fixed: bool = False) -> None:
        self.cores = cores
        self._fixed = fixed
        self._active = 0
        self._lock = threading.Lock()

    @contextmanager
    def part(self) -> Iterator[None]:
        """Around a call; the number of threads holds for the calling thread alone."""
        with self._lock:
            self._active += 1
            threads = self.cores if self._fixed else max(1, self.cores // self._active)
        try:
            # Each thread has its own number in torch's OpenMP build; asking is cheap, setting it again is not.
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            yield
        finally:
            with self._lock:
                self._active -= 1
