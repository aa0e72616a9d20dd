"""One real Ray cluster for the whole session of serve tests, with the bundled model on it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from ray import serve

from serve_app.engine import EngineStats
from serve_app.local_service import APP_NAME, LocalService
from serve_app.settings import PoolSettings, Settings, StoreSettings


@dataclass(frozen=True)
class RunningService:
    """The service under test.

    Attributes:
        url: Base url without a trailing slash.
        port: Its port on 127.0.0.1.
        pictures: Folder of the picture store.
        settings: What it was built from.
    """

    url: str
    port: int
    pictures: Path
    settings: Settings

    def stats(self, deployment: str) -> EngineStats:
        """The engine's counters of a deployment with one replica."""
        stats = serve.get_deployment_handle(deployment, APP_NAME).stats.remote().result(timeout_s=10.0)
        assert isinstance(stats, EngineStats)
        return stats

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of the deployment's replicas."""
        name = f"ServeReplica:imagine:{deployment}"
        return [
            process
            for process in psutil.Process().children(recursive=True)
            if process.is_running() and name in " ".join(process.cmdline())
        ]


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The application with two pools: the bundled model on two replicas, and the fake pipeline on one."""
    pictures = tmp_path_factory.mktemp("pictures")
    port = free_port()
    settings = Settings(
        pools=[
            PoolSettings(
                name="default",
                accelerator="cpu",
                min_replicas=2,
                max_replicas=2,
                num_threads=1,
                ray_actor_options={"num_cpus": 0.1},
            ),
            PoolSettings(
                name="slow",
                accelerator="fake",
                model="fake",
                ray_actor_options={"num_cpus": 0.1},
                max_queued_images=16,
                price_per_hour=1.0,
            ),
        ],
        store=StoreSettings(url=str(pictures)),
        ingress_replicas=2,
    )
    with LocalService(settings, host="127.0.0.1", port=port):
        yield RunningService(f"http://127.0.0.1:{port}", port, pictures, settings)


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    """A plain HTTP client of the service."""
    with httpx.Client(base_url=service.url, timeout=60.0, trust_env=False) as client:
        yield client
