"""A real Ray cluster on this machine whose nodes declare what the pods of the manifests would."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.manifests.rendering import ROOT, Manifest, groups, ray_resources
from tests.running_service import free_port
from tests.serve.processes import running

RAY = str(Path(sys.executable).parent / "ray")

# Several nodes share this machine, so each gets ports of its own. Their log monitors would read the same logs again and
# again, for drivers that there are none of: an eighth of all processor time.
SHARED_MACHINE = (
    *("--block", "--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0"),
    "--include-log-monitor=false",
)


# Several nodes start on one machine, so its proxies need more than Ray's 5 and 10 s, and workers would hardly
# get a turn where it does something else too: Ray gives them the lowest priority but four.
PATIENT = {
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}

START_S = 180.0
"""For one Ray process to start, on a machine that does a lot else."""

START_ATTEMPTS = 4


HEAD_NODE_ID, HEAD_NODE_TYPE = "f" * 51 + "00000", "ray.head.default"
"""What Ray's provider of made-up nodes calls the head and its kind."""

AUTOSCALED = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}


def node_types(service: Manifest, gcs_address: str) -> dict[str, Any]:
    """Autoscaler configuration with the worker groups of a RayService as types of nodes, all of them at zero."""
    kinds = {
        name: {
            "resources": ray_resources(group) | {"object_store_memory": 100_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": group["maxReplicas"],
        }
        for name, group in groups(service).items()
    }
    return {
        "cluster_name": "imagine",
        "max_workers": 8,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            # By its class: what Ray's own name for it needs beside is not in the wheel.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs_address,
            "head_node_id": HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        **{f"{who}setup_commands": [] for who in ("", "head_", "worker_")},
        "initialization_commands": [],
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "auth": {},
        "head_node_type": HEAD_NODE_TYPE,
        "available_node_types": {
            HEAD_NODE_TYPE: {"resources": {}, "node_config": {}, "max_workers": 0},
            **kinds,
        },
    }


class LocalCluster:
    """Head and nodes as processes; configurations are deployed as KubeRay's operator does it.

    Args:
        folder: For logs and Ray's session.
        environment: Of every node, as the ConfigMap imagine-settings gives it to every pod.
        autoscaled: A RayService. Then Ray's autoscaler starts and ends nodes of its worker groups, as they are needed.
    """

    def __init__(self, folder: Path, environment: dict[str, str], autoscaled: Manifest | None = None) -> None:
        self._folder = folder
        self._autoscaled = autoscaled
        self._environment = environment | PATIENT | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
        self._declared: list[dict[str, float]] = []
        self._numbers = itertools.count()
        self._stack = contextlib.ExitStack()
        self.gcs_port, self.dashboard_port, self.serve_port = free_port(), free_port(), free_port()
        # Ray's sockets lie there, whose paths must be short.
        self._temp_dir = Path(tempfile.mkdtemp(prefix="imagine-ray-"))

    def __enter__(self) -> LocalCluster:
        command = [RAY, "start", "--head", f"--port={self.gcs_port}", "--num-cpus=0"]
        command += [f"--dashboard-port={self.dashboard_port}", "--dashboard-host=127.0.0.1", *SHARED_MACHINE]
        command += [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={self._temp_dir}"]
        self._stack.callback(shutil.rmtree, self._temp_dir, ignore_errors=True)
        if self._autoscaled is not None:
            config = self._folder / "autoscaling.yaml"
            config.write_text(json.dumps(node_types(self._autoscaled, self.address)))
            command.append(f"--autoscaling-config={config}")
            self._environment |= AUTOSCALED
        self._start(command, "head")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        """For ``RAY_ADDRESS``."""
        return f"127.0.0.1:{self.gcs_port}"

    def declare(self, service: Manifest) -> None:
        """Adds a node of each of the RayService's worker groups, where there is none that declares the same.

        Nodes of other overlays stay; what a replica asks for keeps it off them, which the tests see.
        """
        missing = [
            resources
            for resources in map(ray_resources, groups(service).values())
            if resources not in self._declared
        ]
        with ThreadPoolExecutor() as starts:  # a start mostly waits
            list(starts.map(self.add_node, missing))

    def add_node(self, declared: dict[str, float]) -> None:
        """Adds a node that declares these resources."""
        resources = dict(declared)
        command = [RAY, "start", f"--address={self.address}", *SHARED_MACHINE]
        command += [f"--num-cpus={resources.pop('CPU')}".removesuffix(".0")]
        command += [f"--num-gpus={resources.pop('GPU', 0)}".removesuffix(".0")]
        command += [f"--resources={json.dumps(resources)}", f"--dashboard-agent-listen-port={free_port()}"]
        self._start(command, f"node-{next(self._numbers)}")
        self._declared.append(declared)

    def _start(self, command: list[str], name: str) -> None:
        """Starts a part of the cluster. Ray allows it 30 s, which are too few on a machine that does a lot else."""
        for attempt in range(START_ATTEMPTS):
            folder = self._folder / f"{name}-{attempt}"
            folder.mkdir(parents=True)
            with contextlib.ExitStack() as stack:
                process = stack.enter_context(running(command, folder, **self._environment))
                try:
                    process.wait_for_text("Ray runtime started", START_S)
                except AssertionError:
                    if "timed out during startup" in process.log.read_text() and attempt + 1 < START_ATTEMPTS:
                        continue
                    raise
                self._stack.push(stack.pop_all())
                return

    def nodes(self) -> dict[str, dict[str, float]]:
        """Resources of every living node by id."""
        rows = self.ask("/api/v0/nodes?detail=true")["data"]["result"]["result"]
        return {row["node_id"]: row["resources_total"] for row in rows if row["state"] == "ALIVE"}

    def ask(self, path: str) -> Any:
        """An answer of the dashboard."""
        answer = httpx.get(f"{self._dashboard}{path}", headers=self._token, trust_env=False, timeout=60.0)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def deploy(self, config: dict[str, Any]) -> None:
        """Sets the Serve configuration; returns at once."""
        answer = httpx.put(
            f"{self._dashboard}/api/serve/applications/",
            json=config,
            headers=self._token,
            trust_env=False,
            timeout=180.0,
        )
        assert answer.status_code == 200, answer.text

    def remove(self) -> None:
        """Takes away what was deployed, if anything was."""
        if self.application() is None:
            return
        self.deploy({"applications": []})
        deadline = time.monotonic() + 150.0
        while self.application() is not None:
            assert time.monotonic() < deadline, "the application does not go away"
            time.sleep(0.2)

    def application(self) -> Any:
        """State of the application ``imagine``; None when there is none."""
        return self.ask("/api/serve/applications/").get("applications", {}).get("imagine")

    def wait_until_running(self, timeout_s: float) -> Any:
        """The application's state once all of it runs.

        Raises:
            AssertionError: It failed, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            application = self.application()
            status = application and application["status"]
            if status == "RUNNING":
                return application
            assert status != "DEPLOY_FAILED", application["message"]
            assert time.monotonic() < deadline, json.dumps(application)
            time.sleep(0.3)

    @property
    def _dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def _token(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}


@contextlib.contextmanager
def local_cluster(folder: Path, pictures: Path, autoscaled: Manifest | None = None) -> Iterator[LocalCluster]:
    """A cluster whose pods store pictures in a folder."""
    with LocalCluster(folder, {"IMAGINE_STORE__URL": str(pictures)}, autoscaled) as cluster:
        yield cluster
