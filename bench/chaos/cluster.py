"""`ChaosCluster`: the service on several Ray nodes of this machine, each a raylet of its own that can be lost."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, Self

import psutil

from bench.chaos import parts
from serve_app.local_service import APP_NAME
from serve_app.ray_environment import environment_for_ray
from serve_app.settings import JobsSettings, PoolSettings, Settings, StoreSettings

POOL = "drawing"
SPARE = "spare"
DEVICES = 2
WANTED = {POOL: DEVICES, SPARE: 1, "Ingress": 2, "Jobs": 1, "LiveDrawings": 1}
"""Replicas by deployment."""

MAX_STEP_S = 5.0
_START_TIMEOUT_S = 180.0
_OBJECT_STORE_BYTES = 100 * 1024**2
_HEAD, _DEVICE, _SPARE = "head", "device", "spare"


def chaos_settings(store: Path) -> Settings:
    """Two replicas of one pool on two nodes, a dearer pool with one replica on the head, two ingress replicas."""

    def pool(name: str, resource: str, replicas: int, price_per_hour: float) -> PoolSettings:
        return PoolSettings(
            name=name,
            accelerator="fake",
            model="fake",
            min_replicas=replicas,
            max_replicas=replicas,
            price_per_hour=price_per_hour,
            max_step_s=MAX_STEP_S,
            max_queued_images=512,
            ray_actor_options={"num_cpus": 0, "resources": {resource: 1}},
        )

    return Settings(
        pools=[pool(POOL, _DEVICE, DEVICES, 1.0), pool(SPARE, _SPARE, 1, 10.0)],
        store=StoreSettings(url=str(store)),
        jobs=JobsSettings(max_running=64),
        ingress_replicas=WANTED["Ingress"],
        ingress_ray_actor_options={"resources": {_HEAD: 0.01}},
    )


class ChaosCluster:
    """A head with HTTP proxy, ingress and jobs, and one further node for each replica of the pool `POOL`.

    Use it as a context. This process becomes a driver of the cluster; at the end all that it started is killed by pid.

    Attributes:
        url: The service.
        folder: Everything it writes.
    """

    def __init__(self) -> None:
        self.url = ""
        self._folder = tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._cluster: Any = None
        self._family: set[psutil.Process] = set()

    @property
    def log_dir(self) -> Path:
        """Serve's logs of all nodes."""
        return self.folder / "ray" / "session_latest" / "logs" / "serve"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        os.environ["RAY_TMPDIR"] = str(self.folder)
        os.environ["RAY_AUTH_MODE"] = "disabled"  # all of it listens on loopback for some minutes
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Ray's workers import the service, wherever they are started.
        root = str(Path(__file__).parents[2])
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment_for_ray()
        import ray
        from ray import serve
        from ray.cluster_utils import Cluster

        from serve_app.app import build

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "resources": {_HEAD: 1, _SPARE: 1},
                "gcs_server_port": _free_port(),
                "include_dashboard": False,
                "dashboard_port": _free_port(),  # a part of it runs all the same
                "object_store_memory": _OBJECT_STORE_BYTES,
            },
        )
        # Of these nodes `_stop` takes care: Ray's own signal handlers can be set on the main thread alone.
        self._cluster._shutdown_at_exit = False
        for _ in range(DEVICES):
            self.add_node()
        self._cluster.wait_for_nodes(timeout=_START_TIMEOUT_S)
        ray.init(
            address=self._cluster.address,
            namespace="serve",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        port = _free_port()
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(chaos_settings(self.folder / "pictures")), name=APP_NAME, route_prefix="/")
        self.url = f"http://127.0.0.1:{port}"
        self.remember()

    def add_node(self) -> None:
        """Starts a node with one device. Blocks for seconds."""
        self._cluster.add_node(
            wait=False, num_cpus=1, resources={_DEVICE: 1}, object_store_memory=_OBJECT_STORE_BYTES
        )

    def lose_node(self, node_id: str) -> frozenset[int]:
        """Kills all processes of a node that is not the head, at once as when its machine is switched off.

        Returns:
            The pids of the actors that were on it.
        """
        self.remember()
        node = next(node for node in self._cluster.worker_nodes if node.node_id == node_id)
        actors = [process for process in parts.living() if process.node_id == node_id]
        for process in actors:
            process.kill()
        self._cluster.remove_node(node, allow_graceful=False)
        return frozenset(process.pid for process in actors)

    def remember(self) -> None:
        """Notes all processes started so far, for the end: those of a lost node are no longer this one's children."""
        self._family |= set(psutil.Process().children(recursive=True))

    def _stop(self) -> None:
        import ray

        self.remember()
        ray.shutdown()
        if self._cluster is not None:
            with contextlib.suppress(AssertionError, psutil.Error, OSError):  # the rest is killed below
                self._cluster.shutdown()
        self.remember()
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):  # also when another one has its pid by now
                process.kill()
        psutil.wait_procs(list(self._family), timeout=5.0)
        self._folder.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
