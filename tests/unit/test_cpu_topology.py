"""Topology and claims of cores on made-up machines, and claims of several real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.cpu_topology import (
    Core,
    allowed_cpus,
    claim_cores,
    largest_node,
    parse_cpu_list,
    physical_cores,
    quota_cpus,
    running_on,
    threads_for,
)


def machine(folder: Path, *, sockets: int, cores: int, hyperthreads: int = 2) -> Path:
    """A /sys/devices/system with CPUs numbered as Linux does: one thread of every core first, then the others."""
    total = sockets * cores
    for socket in range(sockets):
        node = folder / "node" / f"node{socket}"
        node.mkdir(parents=True)
        first = socket * cores
        ranges = [f"{first + t * total}-{first + t * total + cores - 1}" for t in range(hyperthreads)]
        (node / "cpulist").write_text(",".join(ranges) + "\n")
    for cpu in range(total * hyperthreads):
        topology = folder / "cpu" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        siblings = ",".join(str(cpu % total + t * total) for t in range(hyperthreads))
        (topology / "core_cpus_list").write_text(siblings + "\n")
    return folder


@pytest.fixture
def two_sockets(tmp_path: Path) -> Path:
    """Two sockets of 4 cores with 2 hyperthreads: CPUs 0-3 and 8-11, 4-7 and 12-15."""
    return machine(tmp_path / "sys", sockets=2, cores=4)


ALL = frozenset(range(16))


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8,10-11\n", (0, 1, 2, 3, 8, 10, 11)), ("5", (5,)), ("\n", ()), ("0", (0,))],
)
def test_cpu_lists(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


def test_hyperthreads_are_one_core_and_sockets_are_nodes(two_sockets: Path) -> None:
    cores = physical_cores(two_sockets, ALL)
    assert cores == (
        *(Core(0, (cpu, cpu + 8)) for cpu in range(4)),
        *(Core(1, (cpu, cpu + 8)) for cpu in range(4, 8)),
    )
    assert largest_node(cores) == 4


def test_a_containers_cpuset_is_respected(two_sockets: Path) -> None:
    cores = physical_cores(two_sockets, frozenset({2, 3, 4, 10, 13}))
    assert cores == (Core(0, (2, 10)), Core(0, (3,)), Core(1, (4,)), Core(1, (13,)))
    assert largest_node(cores) == 2


def test_a_kernel_that_tells_nothing(tmp_path: Path) -> None:
    assert physical_cores(tmp_path, frozenset({0, 1})) == (Core(0, (0,)), Core(0, (1,)))


def test_the_older_name_of_siblings(tmp_path: Path) -> None:
    for cpu in (0, 1):
        topology = tmp_path / "cpu" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text("0-1\n")
    assert physical_cores(tmp_path, frozenset({0, 1})) == (Core(0, (0, 1)),)


def test_this_machine_has_every_cpu_once() -> None:
    cpus = [cpu for core in physical_cores() for cpu in core.cpus]
    assert sorted(cpus) == sorted(allowed_cpus())


@pytest.mark.parametrize(("reserved", "threads"), [(8, 4), (16, 8), (3, 1), (1, 1), (64, 8), (9.5, 4)])
def test_ray_counts_hyperthreads_and_we_do_not(two_sockets: Path, reserved: float, threads: int) -> None:
    assert threads_for(physical_cores(two_sockets, ALL), reserved) == threads


def test_without_hyperthreads_a_cpu_is_a_core(tmp_path: Path) -> None:
    cores = physical_cores(machine(tmp_path, sockets=1, cores=4, hyperthreads=1), frozenset(range(4)))
    assert threads_for(cores, 3) == 3


@pytest.mark.parametrize(
    ("content", "cpus"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("nonsense", None), (None, None)]
)
def test_quota(tmp_path: Path, content: str | None, cpus: float | None) -> None:
    if content is not None:
        (tmp_path / "cpu.max").write_text(content)
    assert quota_cpus(tmp_path) == cpus


class TestClaims:
    def test_replicas_get_a_socket_each_and_the_third_gets_none(
        self, two_sockets: Path, tmp_path: Path
    ) -> None:
        cores = physical_cores(two_sockets, ALL)
        first, second = (claim_cores(4, cores=cores, folder=tmp_path / "locks") for _ in range(2))
        assert first is not None
        assert second is not None
        assert (first.nodes, first.cpus) == ((0,), frozenset({0, 1, 2, 3}))
        assert (second.nodes, second.cpus) == ((1,), frozenset({4, 5, 6, 7}))
        assert claim_cores(1, cores=cores, folder=tmp_path / "locks") is None
        first.release()
        again = claim_cores(4, cores=cores, folder=tmp_path / "locks")
        assert again is not None
        assert again.nodes == (0,)
        for claim in (second, again):
            claim.release()

    def test_small_ones_leave_room_for_large_ones(self, two_sockets: Path, tmp_path: Path) -> None:
        cores = physical_cores(two_sockets, ALL)
        claims = [claim_cores(count, cores=cores, folder=tmp_path / "locks") for count in (1, 2, 4)]
        assert [claim.nodes for claim in claims if claim] == [(0,), (0,), (1,)]
        for claim in claims:
            assert claim is not None
            claim.release()

    def test_more_than_a_node_has(self, two_sockets: Path, tmp_path: Path) -> None:
        claim = claim_cores(6, cores=physical_cores(two_sockets, ALL), folder=tmp_path / "locks")
        assert claim is not None
        assert claim.nodes == (0, 1)
        assert len(claim.cpus) == 6
        claim.release()

    def test_too_many_takes_nothing(self, two_sockets: Path, tmp_path: Path) -> None:
        cores = physical_cores(two_sockets, ALL)
        assert claim_cores(9, cores=cores, folder=tmp_path / "locks") is None
        claim = claim_cores(8, cores=cores, folder=tmp_path / "locks")
        assert claim is not None, "the refused claim must not have kept any"
        claim.release()

    def test_a_folder_that_cannot_be_made_means_no_claim(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert claim_cores(1, cores=[Core(0, (0,))], folder=tmp_path / "file" / "locks") is None

    def test_a_killed_process_gives_its_cores_back(self, tmp_path: Path) -> None:
        code = (
            "import sys, time; from pathlib import Path; from serve_app.cpu_topology import *\n"
            "claim = claim_cores(2, cores=[Core(0, (0,)), Core(0, (1,))], folder=Path(sys.argv[1]))\n"
            "print(sorted(claim.cpus), flush=True); time.sleep(60)"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "[0, 1]\n"
            assert claim_cores(1, cores=[Core(0, (0,))], folder=tmp_path) is None
            other.send_signal(signal.SIGKILL)
        claim = claim_cores(2, cores=[Core(0, (0,)), Core(0, (1,))], folder=tmp_path)
        assert claim is not None
        claim.release()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no threads")
def test_running_on_is_for_a_while() -> None:
    before = os.sched_getaffinity(0)
    one = frozenset({min(before)})
    with running_on(one):
        assert os.sched_getaffinity(0) == one
    assert os.sched_getaffinity(0) == before
    with running_on(None):
        assert os.sched_getaffinity(0) == before
