"""What Ray and Ray Serve are told by the environment, which they read once, when they are first imported."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

ANY_LENGTH = str(2**31 - 1)
"""Bytes of the longest message that Serve's gRPC carries: the longest that gRPC can."""

ONE_NODE = {
    # Between deployments gRPC takes a fourth less of the processor than calls of actors do. Ray hears at once when a
    # process ends, but of a node that vanishes only the calls of actors hear: therefore not where there are several.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    # One event loop for Serve's router, the request and the replica instead of three, each with its thread.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # Serve's log files hold every line; a second copy would be read again by Ray's log monitor, for nobody.
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
"""For a service whose processes are all on one machine."""


def environment_for_ray() -> None:
    """Sets what suits this service on any cluster; what the user set wins."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray kills an HTTP proxy that is not ready after 5 s, for good; a slow or busy machine takes longer to import it.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    # A dead HTTP proxy is replaced after three checks, which Ray makes every 10 s: half a minute without a service.
    os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "2")
    # Ray gives its workers the lowest priority but four: beside any other program the service would hardly run.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Serve's controller compares what is with what should be ten times a second, on the cores that also draw.
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.3")
    # Between proxy and ingress gRPC takes up to a fifth less of the processor than calls of actors do,
    os.environ.setdefault("RAY_SERVE_PROXY_USE_GRPC", "1")
    # but an answer of more than 4 MiB, such as eight pictures of 1024x1024 in JSON, would end as a bare 500.
    os.environ.setdefault("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", ANY_LENGTH)
    if "RAY_AUTH_MODE" not in os.environ:
        # Ray's dashboard can run code: a token of this run's own guards it, and no file in the home folder is made.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def deployments_speak_grpc() -> bool:
    """Whether this process was told so; handles that another process made know only what that one was told."""
    return os.environ.get("RAY_SERVE_USE_GRPC_BY_DEFAULT") == "1"


@contextmanager
def environment_of_one_service(more: Mapping[str, str]) -> Iterator[None]:
    """`ONE_NODE` and `more` for what is started inside, and for nothing that this process starts later.

    Args:
        more: Of this service alone, such as its ports; `ONE_NODE` gives way to what the user set, these do not.
    """
    told = {name: value for name, value in ONE_NODE.items() if name not in os.environ} | dict(more)
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
