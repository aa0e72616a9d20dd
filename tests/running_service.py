"""The service under test, as the tests that need a real one see it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from serve_app.local_service import APP_NAME
from serve_app.settings import Settings

if TYPE_CHECKING:
    from serve_app.engine import EngineStats


@dataclass(frozen=True)
class RunningService:
    """The service under test.

    Attributes:
        url: Base url without a trailing slash.
        port: Its port on 127.0.0.1.
        pictures: Folder of the picture store.
        settings: What it was built from.
        metrics_url: Where Prometheus scrapes it.
        log_dir: Ray's logs.
    """

    url: str
    port: int
    pictures: Path
    settings: Settings
    metrics_url: str
    log_dir: Path

    def stats(self, deployment: str) -> EngineStats:
        """The engine's counters of a deployment with one replica."""
        from ray import serve

        handle = serve.get_deployment_handle(deployment, APP_NAME)
        stats: EngineStats = handle.stats.remote().result(timeout_s=10.0)
        return stats

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of the deployment's replicas."""
        name = f"ServeReplica:{APP_NAME}:{deployment}"
        return [process for process in psutil.Process().children(recursive=True) if name in _command(process)]


def _command(process: psutil.Process) -> str:
    """Its command line; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie too
        return ""


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
