"""Who computes with how many threads, and that the process never has more of them than it should."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from serve_app.pipelines.shared_cores import SharedCores

WAIT_S = 10.0


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class _Beside:
    """A decode on a thread of its own that stays until it is let go."""

    def __init__(self, cores: SharedCores) -> None:
        self.threads = 0
        self._begun, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._decode, args=(cores,))

    def _decode(self, cores: SharedCores) -> None:
        with cores.decoding():
            self.threads = torch.get_num_threads()
            self._begun.set()
            assert self._leave.wait(WAIT_S)

    def __enter__(self) -> _Beside:
        self._thread.start()
        assert self._begun.wait(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


def threads_of_a_step(cores: SharedCores) -> int:
    with cores.denoising():
        return torch.get_num_threads()


def test_alone_a_step_and_a_decode_have_all_cores() -> None:
    cores = SharedCores(4)
    assert threads_of_a_step(cores) == 4
    with cores.decoding():  # between two steps, on the thread that denoises
        assert torch.get_num_threads() == 4


def test_decodes_beside_get_their_part_and_give_it_back() -> None:
    cores = SharedCores(4)
    threads_of_a_step(cores)
    with _Beside(cores) as first:
        assert first.threads == 2
        assert threads_of_a_step(cores) == 2
        with _Beside(cores) as second:
            assert second.threads == 1
            assert threads_of_a_step(cores) == 1
    assert threads_of_a_step(cores) == 4


def test_nobody_gets_less_than_one() -> None:
    cores = SharedCores(1)
    threads_of_a_step(cores)
    with _Beside(cores) as beside:
        assert beside.threads == 1
        assert threads_of_a_step(cores) == 1


def test_a_decode_that_fails_gives_its_part_back() -> None:
    cores = SharedCores(2)
    threads_of_a_step(cores)

    def failing() -> None:
        with pytest.raises(ValueError, match="broken"), cores.decoding():
            raise ValueError("broken")

    thread = threading.Thread(target=failing)
    thread.start()
    thread.join(WAIT_S)
    assert threads_of_a_step(cores) == 2


def test_fixed_numbers_never_change() -> None:
    cores = SharedCores(4, fixed=True)
    threads_of_a_step(cores)
    with _Beside(cores) as beside:
        assert beside.threads == 4
        assert threads_of_a_step(cores) == 4
