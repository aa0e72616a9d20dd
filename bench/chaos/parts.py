"""The processes of a running service, as Ray's own state tells them, and whether all of them are there."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONTROLLER = "SERVE_CONTROLLER_ACTOR"
PROXY = "SERVE_PROXY_ACTOR"


@dataclass(frozen=True, slots=True)
class Process:
    """A living actor.

    Attributes:
        name: The actor's name.
        pid: Its process on this machine.
        node_id: Ray's id of its node.
    """

    name: str
    pid: int
    node_id: str

    def kill(self) -> bool:
        """SIGKILL. Returns whether there was anything to kill."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def replica_prefix(deployment: str, app_name: str) -> str:
    """How the names of a deployment's replicas begin."""
    return f"SERVE_REPLICA::{app_name}#{deployment}#"


def living(prefix: str = "") -> list[Process]:
    """Living actors whose name begins so, oldest name first. This process must be connected to the cluster."""
    # What is public (ray.util.state) asks the dashboard, which these clusters do without.
    from ray._private.state import actors

    found: Mapping[str, Mapping[str, Any]] = actors()
    return sorted(
        (
            Process(str(actor["Name"]), int(actor["Pid"]), str(actor["Address"]["NodeID"]))
            for actor in found.values()
            if actor["State"] == "ALIVE" and actor["Pid"] and str(actor["Name"]).startswith(prefix)
        ),
        key=lambda process: process.name,
    )


def replicas(deployment: str, app_name: str) -> list[Process]:
    """Living replicas of a deployment."""
    return living(replica_prefix(deployment, app_name))


def whole(wanted: Mapping[str, int], app_name: str, dead_pids: frozenset[int], proxies: int = 1) -> bool:
    """Whether every deployment has all its replicas, ready, and none of the dead ones is among the living.

    Args:
        wanted: Replicas by deployment. There must be one controller beside them.
        app_name: The Serve application.
        dead_pids: Processes that were killed. Serve counts them until it has noticed.
        proxies: Serve's HTTP proxies; of HAProxy the actor that keeps it and the proxy behind it.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    alive = living()
    if any(process.pid in dead_pids for process in alive):
        return False
    serves = {replica_prefix(deployment, app_name): number for deployment, number in wanted.items()}
    for prefix, number in {CONTROLLER: 1, PROXY: proxies, **serves}.items():
        if sum(process.name.startswith(prefix) for process in alive) != number:
            return False
    try:
        application = serve.status().applications.get(app_name)
    except (RayError, RayServeException, ConnectionError, TimeoutError):
        return False  # the controller itself is away
    if application is None:
        return False
    ready = {
        name: sum(n for state, n in one.replica_states.items() if getattr(state, "value", state) == "RUNNING")
        for name, one in application.deployments.items()
    }
    return all(ready.get(deployment, 0) == number for deployment, number in wanted.items())
