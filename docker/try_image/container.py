"""The image from inside one of its containers: its command, its health check, what it writes and leaves behind.

Needs Python's own library alone, since an image may have nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ANYWHERE = "127.0.0.2"
"""Answers here what listens on all addresses, not what listens on 127.0.0.1 alone."""

STOP_S = 30.0
"""What Kubernetes gives a pod by default between SIGTERM and SIGKILL."""

WRITABLE = ("/tmp", "/var/tmp", "/home/imagine")
"""The volumes of the pods, whose root file system is read-only."""

ROOT = "/"
_NOT_THE_IMAGES = ("/proc", "/sys", "/dev", "/run")
_TAIL_BYTES = 4000


class Fault(Exception):
    """The image is not what it should be; the message says what is wrong."""


@dataclass(frozen=True)
class Image:
    """What the image's configuration says.

    Attributes:
        user: Whom it runs as, such as ``1000:1000``.
        command: Entry point and command.
        ports: Those that it declares.
        health_check: Command of its HEALTHCHECK.
        health_check_timeout_s: Longest time of one.
        healthy_within_s: Start period and all retries, after which a container would be called unhealthy.
    """

    user: str
    command: tuple[str, ...]
    ports: frozenset[int]
    health_check: tuple[str, ...]
    health_check_timeout_s: float
    healthy_within_s: float

    @classmethod
    def read(cls, file: Path) -> Image:
        """Reads what ``buildah inspect --type image`` printed.

        Raises:
            Fault: It has no user, command or health check.
        """
        config = json.loads(file.read_text())["Docker"]["config"]
        check = config.get("Healthcheck") or {}
        test = check.get("Test") or ["NONE"]
        if test[0] not in ("CMD", "CMD-SHELL"):
            raise Fault("no HEALTHCHECK")
        start_s, every_s, timeout_s = (
            check.get(name, 0) / 1e9 for name in ("StartPeriod", "Interval", "Timeout")
        )
        return cls(
            user=config.get("User") or "",
            command=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
            ports=frozenset(int(port.partition("/")[0]) for port in config.get("ExposedPorts") or {}),
            health_check=tuple(test[1:]) if test[0] == "CMD" else ("/bin/sh", "-c", test[1]),
            health_check_timeout_s=timeout_s,
            healthy_within_s=start_s + check.get("Retries", 3) * (every_s + timeout_s),
        )


def passed(what: str) -> None:
    """Tells of one thing that holds."""
    print(f"ok  {what}", flush=True)


@contextmanager
def started(image: Image, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The image's own command, as a container starts it; stopped by SIGTERM at the end.

    Raises:
        Fault: It does not end in time, or leaves processes behind.
    """
    log = Path("/tmp/command.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            image.command,
            env={**os.environ, "TINI_SUBREAPER": "1", **environment},
            cwd="/home/imagine",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        except Exception:
            sys.stderr.write(log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace"))
            raise
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                _kill(own_processes())
                raise Fault(f"does not stop within {STOP_S:.0f} s of SIGTERM") from None
    deadline = time.monotonic() + STOP_S
    while (left := own_processes()) and time.monotonic() < deadline:
        time.sleep(0.5)  # Ray's own helpers end when they notice that their parent has
    if left:
        _kill(left)
        raise Fault(f"leaves processes behind: {sorted(left.values())}")


def own_processes() -> Mapping[int, str]:
    """Processes of this container but this one, by their ids, and what they are."""
    root, found = os.stat(ROOT), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            theirs = os.stat(folder / "root")
            running = "\nState:\tZ" not in (folder / "status").read_text()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # another user's, or ended meanwhile
        if (theirs.st_dev, theirs.st_ino) == (root.st_dev, root.st_ino) and running:
            found[int(folder.name)] = line.strip()
    ours = {os.getpid(), os.getppid()}
    return {pid: line for pid, line in found.items() if pid not in ours}


def _kill(processes: Mapping[int, str]) -> None:
    for pid in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def is_healthy(image: Image) -> bool:
    """What the image's health check says now."""
    try:
        done = subprocess.run(image.health_check, capture_output=True, timeout=image.health_check_timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def wait_until_healthy(image: Image, process: subprocess.Popen[bytes]) -> float:
    """Returns the seconds after which the health check passed.

    Raises:
        Fault: The command ended, or a container would be called unhealthy by now.
    """
    began = time.monotonic()
    while not is_healthy(image):
        if process.poll() is not None:
            raise Fault(f"the command ended with status {process.returncode}")
        if time.monotonic() - began > image.healthy_within_s:
            raise Fault(f"the health check does not pass within {image.healthy_within_s:.0f} s")
        time.sleep(0.5)
    return time.monotonic() - began


def get(url: str, *, timeout_s: float = 30.0) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers with names in lower case, and body.

    Raises:
        OSError: Nobody answers.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {}, error.read()


def wait_for(url: str, wanted_s: float, process: subprocess.Popen[bytes] | None = None) -> bytes:
    """The body of the first answer with status 200.

    Args:
        url: What is asked for.
        wanted_s: Longest wait.
        process: Who is to answer, if it is a process of this container.

    Raises:
        Fault: There is none in time, or the process ended.
    """
    deadline, last = time.monotonic() + wanted_s, "no answer"
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise Fault(f"the command ended with status {process.returncode}")
        try:
            status, _, body = get(url)
        except OSError as error:
            last = str(error)
        else:
            if status == 200:
                return body
            last = f"status {status}"
        time.sleep(0.5)
    raise Fault(f"{url} does not answer within {wanted_s:.0f} s: {last}")


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG.

    Raises:
        Fault: It is none.
    """
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[12:16] != b"IHDR":
        raise Fault(f"no PNG: {data[:60]!r}")
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def written_since(moment_s: float) -> list[str]:
    """Files and folders of the image that changed after a Unix time, outside what pods may write to."""
    changed = []
    left_out = {*_NOT_THE_IMAGES, *WRITABLE}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in left_out]
        for name in (*files, *folders):
            path = os.path.join(folder, name)
            try:
                found = os.lstat(path)
                # A folder's ctime also changes where only something below it was, as overlayfs copies it up.
                moment = found.st_mtime if stat.S_ISDIR(found.st_mode) else found.st_ctime
                if moment > moment_s:
                    changed.append(path)
            except OSError:
                continue  # not for this user, so it did not write it
    return changed
