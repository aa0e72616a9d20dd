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


def threads_of_a_step(cores: SharedCores) -> int:
    with cores.denoising():
        return torch.get_num_threads()


def threads_of_a_decode(cores: SharedCores) -> int:
    with cores.decoding():
        return torch.get_num_threads()


def test_alone_a_call_has_all_cores() -> None:
    cores = SharedCores(4)
    assert threads_of_a_step(cores) == threads_of_a_decode(cores) == 4
    cores.at_once = 3
    assert threads_of_a_step(cores) == threads_of_a_decode(cores) == 4


@pytest.mark.parametrize(
    ("at_once", "beside", "of_a_decode", "of_a_step"),
    [(2, 1, 2, 2), (2, 2, 2, None), (3, 1, 1, 3), (3, 2, 1, 2), (3, 3, 1, None), (4, 3, 1, 1)],
)
def test_all_parts_together_are_no_more_than_the_cores(
    at_once: int, beside: int, of_a_decode: int, of_a_step: int | None
) -> None:
    cores = SharedCores(4)
    cores.at_once, cores.beside = at_once, beside
    with ThreadPoolExecutor(1) as decoder:
        assert decoder.submit(threads_of_a_decode, cores).result(WAIT_S) == of_a_decode
        if of_a_step is not None:
            with cores.denoising():
                assert decoder.submit(threads_of_a_decode, cores).result(WAIT_S) == of_a_decode
                assert torch.get_num_threads() == of_a_step  # of this thread, whatever the other one set
    assert beside * of_a_decode + (of_a_step or 0) <= 4


def test_what_was_shared_is_given_back() -> None:
    cores = SharedCores(4)
    cores.at_once, cores.beside = 2, 1
    assert threads_of_a_step(cores) == 2
    cores.beside = 0
    assert threads_of_a_step(cores) == 4


def test_nobody_gets_less_than_one() -> None:
    cores = SharedCores(1)
    cores.at_once, cores.beside = 2, 1
    assert threads_of_a_step(cores) == threads_of_a_decode(cores) == 1


def test_a_call_under_way_keeps_its_threads() -> None:
    cores = SharedCores(4)
    begun, shared = threading.Event(), threading.Event()

    def call() -> tuple[int, int]:
        with cores.denoising():
            before = torch.get_num_threads()
            begun.set()
            assert shared.wait(WAIT_S)
            return before, torch.get_num_threads()

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(call)
        assert begun.wait(WAIT_S)
        cores.at_once, cores.beside = 2, 1
        shared.set()
        assert running.result(WAIT_S) == (4, 4)


def test_fixed_numbers_never_change() -> None:
    cores = SharedCores(4, fixed=True)
    cores.at_once, cores.beside = 2, 1
    assert threads_of_a_step(cores) == threads_of_a_decode(cores) == 4
