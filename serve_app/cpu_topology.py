"""Which physical cores a replica computes on: `physical_cores` reads the machine, `claim_cores` takes some of them.

Several replicas of one node must not compute on the same cores, nor on both hyperthreads of one: a core multiplies
matrices no faster for two threads. So each replica claims whole cores, by a lock on a file per core that the kernel
releases when the process ends, however it ends; and it takes them from one NUMA node, where its memory is.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

SYSTEM = Path("/sys/devices/system")
CGROUP = Path("/sys/fs/cgroup")

_CLAIM_S = 10.0
"""How long another process may take to choose its cores; it takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Core:
    """One physical core, as far as this process may use it.

    Attributes:
        node: NUMA node.
        cpus: Its logical CPUs (hyperthreads) that this process may run on, ascending.
    """

    node: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Cores that this process alone computes on, until `release` or its end.

    Attributes:
        cores: The cores, ascending.
        locks: Open files that hold the locks.
    """

    cores: tuple[Core, ...]
    locks: tuple[int, ...]

    @property
    def cpus(self) -> frozenset[int]:
        """One logical CPU of each core, so that no two threads share one."""
        return frozenset(core.cpus[0] for core in self.cores)

    @property
    def nodes(self) -> tuple[int, ...]:
        """The NUMA nodes, ascending."""
        return tuple(sorted({core.node for core in self.cores}))

    def release(self) -> None:
        """Gives the cores back; once."""
        for lock in self.locks:
            os.close(lock)


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The kernel's list of CPUs, such as ``0-3,8,10-11``; empty text is no CPU.

    Raises:
        ValueError: It is no such list.
    """
    cpus: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus += range(int(first), int(last or first) + 1)
    return tuple(cpus)


def allowed_cpus() -> frozenset[int]:
    """Logical CPUs that this process may run on: those of its container's cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def physical_cores(system: Path = SYSTEM, allowed: frozenset[int] | None = None) -> tuple[Core, ...]:
    """The physical cores of this machine, ordered by NUMA node and CPU.

    Args:
        system: The kernel's description; where it says nothing, every CPU counts as a core of node 0.
        allowed: Logical CPUs to look at; None for `allowed_cpus`.
    """
    cpus = allowed_cpus() if allowed is None else allowed
    node_of = _numa_nodes(system)
    siblings: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for cpu in sorted(cpus):
        siblings[_siblings(system, cpu)].append(cpu)
    cores = (Core(node_of.get(group[0], 0), tuple(group)) for group in siblings.values())
    return tuple(sorted(cores, key=lambda core: (core.node, core.cpus)))


def largest_node(cores: Sequence[Core]) -> int:
    """How many cores the NUMA node has that has most of them."""
    counts: dict[int, int] = defaultdict(int)
    for core in cores:
        counts[core.node] += 1
    return max(counts.values(), default=1)


def threads_for(cores: Sequence[Core], reserved_cpus: float) -> int:
    """Computing threads for `reserved_cpus` logical CPUs, the unit in which Ray and Kubernetes count.

    Args:
        cores: The machine's.
        reserved_cpus: Logical CPUs; where a core has two, each thread takes two of them.
    """
    per_core = max((len(core.cpus) for core in cores), default=1)
    return max(1, min(math.floor(reserved_cpus / per_core), len(cores) or 1))


def quota_cpus(cgroup: Path = CGROUP) -> float | None:
    """CPUs' worth of time that this container may use in all, or None without a limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def claim_cores(
    count: int,
    *,
    cores: Sequence[Core] | None = None,
    folder: Path | None = None,
) -> Claim | None:
    """Takes `count` free cores, of one NUMA node where one has so many.

    Of several nodes that have room, the one that it fills best is taken, so that larger replicas find room too.

    Args:
        count: Cores.
        cores: To choose from; None for `physical_cores`.
        folder: Of the locks, the same for all processes that share the cores; None for one in the temporary folder.

    Returns:
        The claim, or None when fewer cores are free or the locks cannot be used.
    """
    cores = physical_cores() if cores is None else cores
    folder = folder or Path(tempfile.gettempdir()) / f"imagine-cores-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(folder / "choosing"):
            return _claim(count, cores, folder)
    except OSError as error:
        log.warning("cores cannot be claimed in %s: %s", folder, error)
        return None


@contextmanager
def running_on(cpus: frozenset[int] | None) -> Iterator[None]:
    """The calling thread, and threads that it starts meanwhile, run on `cpus` alone; None for no change."""
    if cpus is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _claim(count: int, cores: Sequence[Core], folder: Path) -> Claim | None:
    free: dict[int, list[tuple[Core, int]]] = defaultdict(list)
    for core in cores:
        # Named by its lowest CPU: the siblings of a core lie in the same cpuset or the locks would not tell it.
        lock = _try_lock(folder / f"core-{core.cpus[0]}")
        if lock is not None:
            free[core.node].append((core, lock))
    chosen: list[tuple[Core, int]] = []
    roomy = [node for node, found in free.items() if len(found) >= count]
    if roomy:
        node = min(roomy, key=lambda one: (len(free[one]), one))
        chosen = free[node][:count]
    elif sum(len(found) for found in free.values()) >= count:
        nodes = sorted(free, key=lambda one: (-len(free[one]), one))  # as few nodes as possible
        chosen = [pair for node in nodes for pair in free[node]][:count]
    taken = {lock for _, lock in chosen}
    for found in free.values():
        for _, lock in found:
            if lock not in taken:
                os.close(lock)
    if not chosen:
        return None
    chosen.sort(key=lambda pair: pair[0].cpus)
    return Claim(tuple(core for core, _ in chosen), tuple(lock for _, lock in chosen))


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One process at a time, so that two never see half of each other's choice.

    Raises:
        TimeoutError: Another one takes longer than `_CLAIM_S`.
    """
    until = time.monotonic() + _CLAIM_S
    while (lock := _try_lock(file)) is None:
        if time.monotonic() > until:
            raise TimeoutError(f"another process has held {file} for {_CLAIM_S:.0f} s")
        time.sleep(0.01)
    try:
        yield
    finally:
        os.close(lock)


def _try_lock(file: Path) -> int | None:
    # A child of this process must not keep the lock after its end.
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        os.close(handle)
        raise
    return handle


def _numa_nodes(system: Path) -> dict[int, int]:
    """The NUMA node of every logical CPU; empty where the kernel tells none."""
    nodes: dict[int, int] = {}
    for folder in (system / "node").glob("node[0-9]*"):
        try:
            cpus = parse_cpu_list((folder / "cpulist").read_text())
        except (OSError, ValueError):
            continue
        nodes |= dict.fromkeys(cpus, int(folder.name.removeprefix("node")))
    return nodes


def _siblings(system: Path, cpu: int) -> tuple[int, ...]:
    """All logical CPUs of the core that `cpu` belongs to, this process's or not."""
    topology = system / "cpu" / f"cpu{cpu}" / "topology"
    for name in ("core_cpus_list", "thread_siblings_list"):  # the second is the older name
        try:
            cpus = parse_cpu_list((topology / name).read_text())
        except (OSError, ValueError):
            continue
        if cpu in cpus:
            return cpus
    return (cpu,)
