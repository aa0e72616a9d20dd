"""The service on a Ray cluster of several nodes on this machine: separate raylets, in a process family of its own.

The process is apart from the tests' own, which may be connected to another cluster; it is told what to do by lines on
its standard input, and answers on its standard output.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serve_app.settings import Settings
from tests.running_service import free_port
from tests.serve.processes import Running, running

OBJECT_STORE_BYTES = 100 * 1024**2
START_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 30.0
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray gives its workers 15: beside other programs they would starve
    # Four raylets and their agents start at once: on two busy cores the HTTP proxy needs more than Ray's 5 s.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
HEAD = "ingress"
"""The head's custom resource, and its name among the nodes."""


@dataclass
class Nodes:
    """The running cluster, as tests see it.

    Attributes:
        url: The service.
        ids: Ray's id of each node by its name.
    """

    url: str
    ids: dict[str, str]
    process: Running
    _asked: int = field(default=0)

    def of_replicas(self, deployment: str) -> list[str]:
        """Ids of the nodes of a deployment's living replicas."""
        return sorted(self._ask(f"replicas {deployment}"))

    def lose(self, name: str) -> None:
        """Kills all processes of a node at once."""
        self._ask(f"lose {name}")

    def _ask(self, line: str) -> Any:
        self._asked += 1
        stdin = self.process.process.stdin
        assert stdin is not None
        stdin.write(f"{self._asked} {line}\n".encode())
        stdin.flush()
        return answer(self.process, self._asked, ANSWER_TIMEOUT_S)


def answer(process: Running, number: int, timeout_s: float) -> Any:
    """The process's answer to its line of that number."""
    output = process.wait_for_text(f"answer {number} ends\n", timeout_s)
    return json.loads(output.split(f"answer {number} is ")[1].split(f"answer {number} ends\n")[0])


@contextmanager
def nodes_running(settings: Settings, kinds: dict[str, dict[str, Any]], folder: Path) -> Iterator[Nodes]:
    """Starts a head for the ingress and further nodes, and deploys the service on them.

    Args:
        settings: Of the service.
        kinds: Arguments of each further node (``num_cpus``, ``num_gpus``, ``resources``...) by a name of its own.
        folder: For logs.
    """
    orders = folder / "orders.json"
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "tests.serve.cluster", str(orders)]
    with ExitStack() as stack:
        # Short, since Ray's sockets lie in it; here, so that it goes whatever becomes of the process.
        ray_folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True)
        )
        orders.write_text(json.dumps({"settings": settings.model_dump(mode="json"), "kinds": kinds}))
        process = stack.enter_context(
            running(command, folder, PYTHONPATH=root, RAY_TMPDIR=ray_folder, **ENVIRONMENT)
        )
        started = answer(process, 0, START_TIMEOUT_S)
        yield Nodes(started["url"], started["ids"], process)


def main(orders: Path) -> None:
    """Starts what `orders` says, then obeys lines of standard input until it is killed with all that it started."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from serve_app.app import build

    order = json.loads(orders.read_text())
    store = {"object_store_memory": OBJECT_STORE_BYTES}
    head = {
        "num_cpus": 1,
        "resources": {HEAD: 1},
        "gcs_server_port": free_port(),
        "include_dashboard": False,
        "dashboard_port": free_port(),  # a part of it runs all the same
    }
    cluster = Cluster(initialize_head=True, head_node_args=head | store)
    started = {name: cluster.add_node(wait=False, **kind, **store) for name, kind in order["kinds"].items()}
    cluster.wait_for_nodes(timeout=START_TIMEOUT_S)
    ray.init(address=cluster.address, namespace="serve", log_to_driver=False, logging_level=logging.ERROR)
    port = free_port()
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
            break
        except TimeoutError:  # the proxy has a minute to start, which a machine at its limits may not give it
            if time.monotonic() > deadline:
                raise
    serve.run(build(Settings.model_validate(order["settings"])), name="imagine", route_prefix="/")
    told = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
    ids = {HEAD: next(key for key, has in told.items() if HEAD in has)}
    for name, kind in order["kinds"].items():
        resource = next(iter(kind.get("resources", {"GPU": 1})))
        ids[name] = next(key for key, has in told.items() if resource in has)
    _say(0, {"url": f"http://127.0.0.1:{port}", "ids": ids})
    for line in sys.stdin:
        number, verb, name = line.split()
        if verb == "lose":
            cluster.remove_node(started[name], allow_graceful=False)
            _say(int(number), None)
        else:
            _say(int(number), _nodes_of_replicas(name))


def _nodes_of_replicas(deployment: str) -> list[str]:
    from ray._private.state import actors  # what is public asks the dashboard, which this cluster has none of

    prefix = f"SERVE_REPLICA::imagine#{deployment}#"
    return [
        actor["Address"]["NodeID"]
        for actor in actors().values()
        if str(actor["Name"]).startswith(prefix) and actor["State"] == "ALIVE"
    ]


def _say(number: int, content: Any) -> None:
    os.write(1, f"\nanswer {number} is {json.dumps(content)}answer {number} ends\n".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
