"""Starting and stopping real processes by their handle, and seeing that nothing of theirs is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil


class Running:
    """A process of ours and all it starts.

    Args:
        process: The process.
        log: File that its output goes to.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self._family: dict[int, psutil.Process] = {}

    def family(self) -> list[psutil.Process]:
        """The process and every descendant seen so far that still runs."""
        try:
            found = [psutil.Process(self.process.pid)]
            found += found[0].children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self._family |= {process.pid: process for process in found}
        return [process for process in self._family.values() if _alive(process)]

    def wait_for_text(self, text: str, timeout_s: float) -> str:
        """The output once it holds `text`.

        Raises:
            AssertionError: The process ended, or the time ran out, before that.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            output = self.log.read_text()
            if text in output:
                self.family()
                return output
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{output}"
            assert time.monotonic() < deadline, f"no {text!r} within {timeout_s} s:\n{output}"
            time.sleep(0.1)

    def interrupt(self, timeout_s: float, number: int = signal.SIGINT) -> tuple[int, float]:
        """Sends a signal as Ctrl-C does. Returns the exit status and the seconds it took."""
        self.family()
        started = time.monotonic()
        self.process.send_signal(number)
        status = self.process.wait(timeout_s)
        return status, time.monotonic() - started


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def running(command: Sequence[str], folder: Path, **environment: str) -> Iterator[Running]:
    """Runs a command; at the end it and all it started are killed, by pid.

    Args:
        command: The command line.
        folder: Working directory, and where the output is kept.
        environment: Added to this process's own.
    """
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    family = Running(process, log)
    try:
        yield family
    finally:
        for member in family.family():
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait(10)
