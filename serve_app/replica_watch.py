"""`ReplicaWatch`: how many replicas each deployment has, asked of Ray Serve without touching the replicas.

Asking a deployment itself would be a request, and a request keeps it from scaling to zero.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ray import serve
from ray.exceptions import RayError
from ray.serve import context
from ray.serve.exceptions import RayServeException

logger = logging.getLogger(__name__)

MAX_AGE_S = 1.0
"""Counts are never asked for more often: one question takes the controller about 20 ms."""

STALE_S = 10.0
"""A request does with counts of this age rather than wait for newer ones."""

_ASKED_FOR_BESIDE = 0.3
"""Share of the age that would do after which newer counts are asked for, while nobody waits for them."""

TIMEOUT_S = 5.0

_ERROR_LENGTH = 300


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    """Replicas of one deployment.

    Attributes:
        running: Those that are ready.
        wanted: Those that are running or being started.
        failed: Ray has given up starting one.
        message: What is wrong, in one sentence, or None.
    """

    running: int
    wanted: int
    failed: bool = False
    message: str | None = None


@dataclass(frozen=True, slots=True)
class DeploymentReport:
    """What Ray Serve says of one deployment.

    Attributes:
        status: In Ray's words, such as ``HEALTHY``.
        replica_states: How many replicas are in which state.
        message: Of what is going on, or empty.
    """

    status: str
    replica_states: Mapping[str, int]
    message: str


def ask_serve(app_name: str) -> Mapping[str, DeploymentReport]:
    """The deployments of an application by name; none where there is no such application. Blocks.

    `serve.status` is made of the same answer, but turns all of the cluster's configuration into objects before, which
    takes 20 to 50 ms in which the event loop hardly runs. It is asked where another release of Ray answers otherwise.

    Raises:
        RayError, RayServeException, ConnectionError: Ray does not answer.
    """
    client = context._get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return {}
    try:
        told = client.get_serve_details()["applications"].get(app_name, {"deployments": {}})
        return {
            name: DeploymentReport(
                _text(one["status"]),
                Counter(_text(replica["state"]) for replica in one["replicas"]),
                one["message"],
            )
            for name, one in told["deployments"].items()
        }
    except (AttributeError, KeyError, TypeError):
        logger.debug("this release of Ray tells its status in another way", exc_info=True)
    application = serve.status().applications.get(app_name)
    return {
        name: DeploymentReport(
            _text(one.status),
            {_text(state): count for state, count in one.replica_states.items()},
            one.message,
        )
        for name, one in (application.deployments.items() if application is not None else ())
    }


def _text(state: object) -> str:
    """Of an enumeration's member its value: Ray answers with members in some places and with texts in others."""
    return str(getattr(state, "value", state))


class ReplicaWatch:
    """One for all pools of a process; asks at most once per `MAX_AGE_S`, and not at all while nobody wants to know.

    Args:
        app_name: The Serve application.
        ask: Tells of the application's deployments; blocks, so it is called on a thread.
    """

    def __init__(
        self, app_name: str, ask: Callable[[str], Mapping[str, DeploymentReport]] = ask_serve
    ) -> None:
        self._app_name = app_name
        self._ask = ask
        self._counts: Mapping[str, ReplicaCounts] = {}
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def counts(self, deployment: str, *, max_age_s: float = MAX_AGE_S) -> ReplicaCounts | None:
        """Counts of a deployment; None while Ray does not tell.

        Args:
            deployment: Its name.
            max_age_s: Counts of this age will do, at least `MAX_AGE_S`; older ones are waited for.
        """
        age_s = time.monotonic() - self._asked_at
        if age_s > max(MAX_AGE_S, _ASKED_FOR_BESIDE * max_age_s):
            if self._asking is None or self._asking.done():
                self._asking = asyncio.get_running_loop().create_task(self._refresh())
            if age_s > max_age_s:
                await asyncio.shield(self._asking)  # several wait for it, and one may leave
        return self._counts.get(deployment)

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                deployments = await asyncio.to_thread(self._ask, self._app_name)
        except (RayError, RayServeException, TimeoutError, ConnectionError) as error:
            logger.warning("Ray Serve does not tell its status: %s", error)
            self._counts = {}  # the pools then go by what they see themselves
        else:
            self._counts = {name: _counted(one) for name, one in deployments.items()}
        self._asked_at = time.monotonic()


def _counted(report: DeploymentReport) -> ReplicaCounts:
    states, status = report.replica_states, report.status
    running = states.get("RUNNING", 0) + states.get("PENDING_MIGRATION", 0)
    ending = states.get("STOPPING", 0) + states.get("STOPPED", 0)
    unwell = status in ("UNHEALTHY", "DEPLOY_FAILED")
    return ReplicaCounts(
        running=running,
        wanted=sum(states.values()) - ending,
        failed=status == "DEPLOY_FAILED" and running == 0,
        message=one_sentence(report.message) if unwell else None,
    )


def one_sentence(report: str) -> str:
    """Of Ray's report, which may hold a traceback: the replica's own sentence, else the last line."""
    own = re.search(r"ConfigurationError: (.+)", report)
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    return (own.group(1).strip() if own else lines[-1] if lines else "no reason was given")[:_ERROR_LENGTH]
