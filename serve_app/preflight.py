"""Checks before anything is started: each failure is one sentence with its remedy.

Torch-free and Ray-free, so that a refusal comes within a second.
"""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Collection
from pathlib import Path

import psutil

from serve_app.errors import ConfigurationError

MIN_FREE_DISK_BYTES = 1 * 1024**3
"""Room for Ray's session folder and the first pictures."""

SERVICE_BYTES = 1_400_000_000
"""Memory of Ray's own processes (0.96-1.1 GB measured with Ray 2.60 on two cores) and the ingress."""


def check_port(host: str, port: int, *, setting: str = "PORT") -> None:
    """Refuses a port that something already listens on.

    Two Ray clusters can silently share one port (SO_REUSEPORT) and split the requests, so binding alone proves
    nothing: the port is also asked for a listener.

    Args:
        host: Address to listen on.
        port: The port.
        setting: What a person changes to get another one.

    Raises:
        ConfigurationError: The port is taken, not allowed, or the address is not this machine's.
    """
    remedy = f"choose another with {setting}=... or --{setting.lower().replace('_', '-')}"
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror:
        raise ConfigurationError(f"{host!r} is no address of this machine; set HOST=... or --host") from None
    family, kind, protocol, _, address = infos[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigurationError(f"port {port} on {host} is taken; {remedy}") from None
            if error.errno == errno.EACCES:
                raise ConfigurationError(f"port {port} needs root; {remedy}") from None
            raise ConfigurationError(f"cannot listen on {host}:{port} ({error.strerror}); {remedy}") from None
    target = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    with socket.socket(family if target == host else socket.AF_INET, kind) as probe:
        probe.settimeout(0.5)
        if probe.connect_ex((target, port)) == 0:
            raise ConfigurationError(f"port {port} on {target} is taken; {remedy}")


def different_ports(**ports: int | None) -> set[int]:
    """The ports that were asked for, each by the name of its setting.

    Raises:
        ConfigurationError: Two are the same: all are free until the first of them is listened on.
    """
    asked: dict[int, str] = {}
    for setting, port in ports.items():
        if port is None:
            continue
        if port in asked:
            raise ConfigurationError(
                f"{asked[port]} and {setting} are both {port}; choose another for one of them"
            )
        asked[port] = setting
    return set(asked)


def free_port(wanted: int | None, first: int, host: str, setting: str, asked: Collection[int]) -> int:
    """The wanted port, or the first free one of twenty from the usual one on.

    Args:
        wanted: What was asked for; None leaves the choice.
        first: The usual one.
        host: Address to listen on.
        setting: What a person changes to get another one.
        asked: Ports that were asked for, here or for another part: not to be chosen, though nothing listens there yet.

    Raises:
        ConfigurationError: The wanted port, or every one of twenty, is taken.
    """
    if wanted is not None:
        check_port(host, wanted, setting=setting)
        return wanted
    for port in range(first, first + 20):
        if port in asked:
            continue
        try:
            check_port(host, port)
        except ConfigurationError:
            continue
        return port
    raise ConfigurationError(f"ports {first} to {first + 19} are all taken; choose one with {setting}=...")


def check_memory(model_bytes: int) -> None:
    """Refuses a machine whose free memory cannot hold Ray, the ingress and the model.

    Args:
        model_bytes: Peak bytes one replica needs for its weights.

    Raises:
        ConfigurationError: Too little memory is available now.
    """
    needed = SERVICE_BYTES + model_bytes
    available = available_memory_bytes()
    if available < needed:
        raise ConfigurationError(
            f"needs about {needed / 1e9:.1f} GB of free memory, this machine has {available / 1e9:.1f} GB; "
            "stop other programs, use a smaller model, or a machine with more memory"
        )


def available_memory_bytes() -> int:
    """Bytes a new process may take: the machine's available memory, or less where a cgroup limits us."""
    available = int(psutil.virtual_memory().available)
    limit_file, used_file = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit_file.exists() and used_file.exists():
        limit = limit_file.read_text().strip()
        if limit != "max":
            available = min(available, int(limit) - int(used_file.read_text()))
    return available


def check_disk(*folders: Path) -> None:
    """Refuses folders on a disk that is nearly full, or that cannot be written.

    Raises:
        ConfigurationError: Less than `MIN_FREE_DISK_BYTES` are free, or a folder cannot be made.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot make the folder {folder} ({error.strerror})") from None
        free = shutil.disk_usage(folder).free
        if free < MIN_FREE_DISK_BYTES:
            raise ConfigurationError(
                f"only {free / 1e6:.0f} MB are free where {folder} lies, at least "
                f"{MIN_FREE_DISK_BYTES / 1e6:.0f} MB are needed; make room or set another folder"
            )
