"""`whole_service`: Ray, Serve and the application for the time of a measurement; `read_processes`: what they take."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import psutil

from serve_app import accelerators
from serve_app.cpu_topology import largest_node, physical_cores, quota_cpus, threads_for
from serve_app.local_service import LocalService
from serve_app.settings import BUNDLED_MODEL, PoolSettings, Settings

FAKE = "fake"
"""As a model: the fake pipeline, which draws nothing and takes 20 ms a step however many pictures share it."""

_RAY_PARTS = {
    "gcs_server": "gcs_server",
    "raylet/raylet": "raylet",
    "dashboard/agent.py": "dashboard agent",
    "runtime_env/agent": "runtime env agent",
    "log_monitor.py": "log monitor",
    "monitor.py": "monitor",
    "dashboard/dashboard.py": "dashboard",
}


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """What one process of the service had at one time.

    Attributes:
        pid: Its id.
        name: What it is, such as ``ServeReplica:imagine:default`` or ``raylet``.
        rss_bytes: Resident memory.
        threads: Threads.
        files: Open file handles, sockets among them.
        cpu_s: Processor seconds in its life.
    """

    pid: int
    name: str
    rss_bytes: int
    threads: int
    files: int
    cpu_s: float


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pool_for(model: str, **settings: object) -> PoolSettings:
    """A pool named ``default`` that draws with `model`.

    Args:
        model: The bundled model's name, a folder, a hub id, or `FAKE`.
        settings: Of the pool beside these.
    """
    accelerator = FAKE if model == FAKE else "auto"
    given = {"model": model, "accelerator": accelerator, "ray_actor_options": {"num_cpus": 0.1}} | settings
    return PoolSettings.model_validate({"name": "default"} | given)


def drawing_threads(pool: PoolSettings) -> int | None:
    """CPU threads with which `pool` draws beside a whole service on this machine; None where no CPU draws.

    One core is left to those who pass requests and pictures on, where there are several: on a cluster they are on nodes
    of their own, and a service that shares every core with what it serves tells how much it takes from it, not what
    it adds to it.
    """
    if accelerators.of_pool(pool).name != "cpu":
        return None
    cores, quota = physical_cores(), quota_cpus()
    available = len(cores) if quota is None else min(len(cores), threads_for(cores, quota))
    return max(1, min(largest_node(cores), available - 1))


@contextmanager
def whole_service(settings: Settings) -> Iterator[str]:
    """Starts the service and stops all that it started.

    Yields:
        Its address, without a slash at the end.

    Raises:
        ConfigurationError: It cannot work as configured.
    """
    port = free_port()
    service = LocalService(settings, host="127.0.0.1", port=port)
    try:
        service.start()
        yield f"http://127.0.0.1:{port}"
    finally:
        service.stop()


def http_client(url: str, timeout_s: float = 600.0) -> httpx.AsyncClient:
    """A client with as many connections as it needs, whatever proxies the environment names."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout_s, trust_env=False)


def read_processes() -> list[ProcessReading]:
    """Every process that this one started, and those that they started."""
    readings = []
    for process in psutil.Process().children(recursive=True):
        try:
            with process.oneshot():
                cpu = process.cpu_times()
                readings.append(
                    ProcessReading(
                        process.pid,
                        process_name(process.cmdline()),
                        process.memory_info().rss,
                        process.num_threads(),
                        process.num_fds(),
                        cpu.user + cpu.system,
                    )
                )
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has just ended
    return readings


def process_name(command: Sequence[str]) -> str:
    """What a process of Ray is, from its command line."""
    line = " ".join(command)
    if worker := re.match(r"ray::([\w:]+)", line):
        return worker[1]
    for part, name in _RAY_PARTS.items():
        if part in line:
            return name
    return command[0].rpartition("/")[2] if command else "ended"


def serve_actors(readings: Sequence[ProcessReading]) -> Counter[str]:
    """How many processes run each of Ray Serve's actors, by name."""
    return Counter(one.name for one in readings if one.name.startswith(("Serve", "Proxy")))


def default_request(model: str) -> dict[str, int | float]:
    """Size, steps and guidance that the benchmarks ask `model` for.

    The bundled model's own; 40 steps of the fake pipeline, whose 8 rows then make 10 pictures a second, which is far
    less than the HTTP side bears.
    """
    if model == FAKE:
        return {"width": 64, "height": 64, "num_inference_steps": 40, "guidance_scale": 0.0}
    side = 512 if model == BUNDLED_MODEL else 1024
    return {"width": side, "height": side, "num_inference_steps": 4, "guidance_scale": 0.0}
