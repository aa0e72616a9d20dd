"""Who computes with how many threads, and that the process never has more of them than it should."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from serve_app.pipelines.shared_cores import SharedCores

WAIT_S = 10.0


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def threads_of_a_call(cores: SharedCores) -> int:
    with cores.part():
        return torch.get_num_threads()


def test_alone_a_call_has_all_cores() -> None:
    assert threads_of_a_call(SharedCores(4)) == 4


@pytest.mark.parametrize(("beside", "threads"), [(0, 4), (1, 2), (2, 1), (3, 1)])
def test_calls_beside_each_other_have_an_equal_part(beside: int, threads: int) -> None:
    cores = SharedCores(4)
    cores.beside = beside
    with ThreadPoolExecutor(1) as decoder, cores.part():
        assert decoder.submit(threads_of_a_call, cores).result(WAIT_S) == threads
        assert torch.get_num_threads() == threads  # of this thread, whatever the other one set


def test_what_was_shared_is_given_back() -> None:
    cores = SharedCores(4)
    cores.beside = 1
    assert threads_of_a_call(cores) == 2
    cores.beside = 0
    assert threads_of_a_call(cores) == 4


def test_nobody_gets_less_than_one() -> None:
    cores = SharedCores(1)
    cores.beside = 1
    assert threads_of_a_call(cores) == 1


def test_a_call_under_way_keeps_its_threads() -> None:
    cores = SharedCores(4)
    begun, shared = threading.Event(), threading.Event()

    def call() -> tuple[int, int]:
        with cores.part():
            before = torch.get_num_threads()
            begun.set()
            assert shared.wait(WAIT_S)
            return before, torch.get_num_threads()

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(call)
        assert begun.wait(WAIT_S)
        cores.beside = 1
        shared.set()
        assert running.result(WAIT_S) == (4, 4)


def test_fixed_numbers_never_change() -> None:
    cores = SharedCores(4, fixed=True)
    cores.beside = 1
    assert threads_of_a_call(cores) == 4
