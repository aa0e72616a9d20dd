"""A whole service on this machine: Ray, Serve and the application, started and stopped by one process."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Self

import psutil

from serve_app.errors import ConfigurationError, PoolUnavailable
from serve_app.haproxy import INSIDE, haproxy_environment
from serve_app.ray_environment import environment_for_ray, environment_of_one_service
from serve_app.settings import Settings

APP_NAME = "imagine"
OBJECT_STORE_BYTES = 256 * 1024**2
"""Shared memory for answers between replicas and ingress; a picture is 1-5 MB and many containers have little."""

STOP_S = 9.0
"""Bound on stopping everything."""

_RAYS_OWN = ("gcs_server", "raylet")
"""Ray's processes that nothing replaces on a machine of its own."""


class LocalService:
    """Ray and the application as child processes of this one, and of nothing else on the machine.

    Args:
        settings: The application's settings.
        host: Address the HTTP proxy listens on.
        port: Its port.
        dashboard_port: Ray dashboard on loopback, or None for no dashboard.
        resources: Custom resources this machine declares to Ray (``neuron_cores``...).
        metrics_port: Ray's Prometheus endpoint on loopback, or None for any free port.

    Attributes:
        dashboard_url: Of the Ray dashboard, once started; None without one.
        metrics_url: Of the metrics for Prometheus, once started.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: str,
        port: int,
        dashboard_port: int | None = None,
        resources: dict[str, float] | None = None,
        metrics_port: int | None = None,
    ) -> None:
        self._settings = settings
        self._host, self._port = host, port
        self._dashboard_port = dashboard_port
        self._resources = resources
        self._metrics_port = metrics_port
        self._temp_dir: Path | None = None
        self._own: list[psutil.Process] = []
        self.dashboard_url: str | None = None
        self.metrics_url: str | None = None

    @property
    def log_dir(self) -> Path:
        """Ray's logs of this run."""
        assert self._temp_dir is not None, "not started"
        return self._temp_dir / "session_latest" / "logs"

    def start(self) -> None:
        """Starts Ray and deploys; returns when every pool drew its test picture.

        Raises:
            ConfigurationError: The application cannot work as configured (the replica's own sentence).
        """
        environment_for_ray()
        self._temp_dir = Path(tempfile.mkdtemp(prefix="imagine-"))
        front = haproxy_environment(self._temp_dir, self._host, self._port)
        import ray
        from ray import serve

        from serve_app.app import build

        application = build(self._settings)
        try:
            with environment_of_one_service(front):
                context = ray.init(
                    address="local",
                    _node_ip_address="127.0.0.1",  # where Ray's processes look for each other
                    include_dashboard=self._dashboard_port is not None,
                    dashboard_host="127.0.0.1",
                    dashboard_port=self._dashboard_port,
                    object_store_memory=OBJECT_STORE_BYTES,
                    num_cpus=self._num_cpus(),
                    resources=self._resources,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    namespace="serve",
                    _temp_dir=str(self._temp_dir),
                    _metrics_export_port=self._metrics_port,
                )
        except (RuntimeError, ConnectionError, OSError, ValueError) as error:
            raise ConfigurationError(f"Ray did not start: {error} (logs: {self._temp_dir})") from error
        self._own = [p for p in psutil.Process().children() if p.name() in _RAYS_OWN]
        self.dashboard_url = f"http://{context.dashboard_url}" if context.dashboard_url else None
        (node,) = ray.nodes()
        self.metrics_url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={
                    "host": INSIDE if front else self._host,
                    "port": self._port,
                    "keep_alive_timeout_s": 90,
                },
                logging_config={
                    "log_level": "INFO",
                    "enable_access_log": True,
                    "encoding": self._settings.log_format.upper(),
                },
            )
            serve.run(application, name=APP_NAME, route_prefix="/")
        except RuntimeError as error:
            raise ConfigurationError(self._deploy_failure(str(error))) from error

    def check(self) -> None:
        """Looks whether Ray still runs, without asking it.

        Raises:
            PoolUnavailable: It does not, so nothing is served and nothing will be.
        """
        if not all(_runs(process) for process in self._own):
            raise PoolUnavailable(f"a process of Ray has ended by itself (logs: {self.log_dir})")

    def _num_cpus(self) -> int:
        """What Ray hands out: this machine's cores, or more where the pools ask for more (it is only a count)."""
        from serve_app import accelerators

        asked = sum(
            pool.max_replicas * accelerators.of_pool(pool).ray_actor_options(pool).get("num_cpus", 1)
            for pool in self._settings.pools
        )
        return max(os.cpu_count() or 1, math.ceil(float(asked)))

    def _deploy_failure(self, message: str) -> str:
        """The replica's own sentence where it raised a `ConfigurationError`, else the last line of Ray's report."""
        from ray import serve

        status = serve.status().applications.get(APP_NAME)
        report = message
        if status is not None:
            report = "\n".join([message, status.message, *(d.message for d in status.deployments.values())])
        sentence = re.search(r"ConfigurationError: (.+)", report)
        if sentence:
            return sentence.group(1).strip()
        last = [line.strip() for line in report.splitlines() if line.strip()][-1]
        return f"the application did not start: {last} (logs: {self.log_dir / 'serve'})"

    def stop(self, *, keep_logs: bool = False) -> None:
        """Stops all that `start` started, within `STOP_S`; pictures in work are dropped.

        Args:
            keep_logs: Keep Ray's session folder for a look at the logs.
        """
        import ray

        deadline = time.monotonic() + STOP_S
        started = [p for p in psutil.Process().children(recursive=True) if p.is_running()]
        ray.shutdown()
        # Ray stops its own; whatever of ours is left by then is stopped by pid.
        _, alive = psutil.wait_procs(started, timeout=max(0.5, deadline - time.monotonic() - 4.0))
        for process in alive:
            _signal(process, "terminate")
        _, alive = psutil.wait_procs(alive, timeout=2.0)
        for process in alive:
            _signal(process, "kill")
        psutil.wait_procs(alive, timeout=1.0)
        if self._temp_dir is not None and not keep_logs:
            shutil.rmtree(self._temp_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, action: str) -> None:
    try:
        getattr(process, action)()
    except psutil.NoSuchProcess:
        return  # it ended by itself in between
