"""One real Ray cluster for the whole session of the tests that need one, with the bundled model on it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from serve_app.local_service import LocalService
from serve_app.ray_environment import environment_for_ray
from serve_app.settings import PoolSettings, Settings, StoreSettings
from tests.running_service import RunningService, free_port

# Before any test module imports Ray, which reads this once.
environment_for_ray()


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
        log_format="json",
    )
    with LocalService(settings, host="127.0.0.1", port=port) as running:
        assert running.metrics_url is not None
        yield RunningService(
            f"http://127.0.0.1:{port}", port, pictures, settings, running.metrics_url, running.log_dir
        )


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    """A plain HTTP client of the service."""
    with httpx.Client(base_url=service.url, timeout=60.0, trust_env=False) as client:
        yield client
