"""The faults: what is killed, and what has to be there again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import httpx

from bench.chaos import parts
from bench.chaos.cluster import MAX_STEP_S, POOL, WANTED, ChaosCluster
from serve_app.engine.fake import POISON_HANG
from serve_app.local_service import APP_NAME

NODE_AWAY_S = 5.0
"""After so long another node comes in the place of a lost one, as an autoscaler would bring it (in minutes)."""

_HANG_WITHIN_S = MAX_STEP_S + 30.0
_POLL_S = 0.1


class Fault(StrEnum):
    """What happens."""

    POOL_REPLICA = "pool replica"
    INGRESS_REPLICA = "ingress replica"
    JOBS_REPLICA = "jobs replica"
    HUNG_STEP = "hung step"
    NODE = "node"
    CONTROLLER = "controller"
    PROXY = "proxy"


@dataclass
class Injury:
    """A fault that happened.

    Attributes:
        fault: What.
        at_s: When, in seconds from the start of the load.
        in_flight_at_ingress: Requests in hand of the ingress replicas at that moment, jobs apart.
        whole_after_s: Seconds until everything was there again; None while it is not.
        answers_after_s: Seconds until a new connection was answered; None while it is not.
        dead_pids: What was killed.
    """

    fault: Fault
    at_s: float
    in_flight_at_ingress: int = 0
    whole_after_s: float | None = None
    answers_after_s: float | None = None
    dead_pids: frozenset[int] = field(default_factory=frozenset)


_PREFIXES: Mapping[Fault, str] = {
    Fault.POOL_REPLICA: parts.replica_prefix(POOL, APP_NAME),
    Fault.NODE: parts.replica_prefix(POOL, APP_NAME),
    Fault.INGRESS_REPLICA: parts.replica_prefix("Ingress", APP_NAME),
    Fault.JOBS_REPLICA: parts.replica_prefix("Jobs", APP_NAME),
    Fault.CONTROLLER: parts.CONTROLLER,
    Fault.PROXY: parts.PROXY,
}
"""Among which actors the victim is chosen; of a node, who is on it."""


async def inject(
    injury: Injury, cluster: ChaosCluster, chance: random.Random, about_to: Callable[[], None]
) -> None:
    """Makes it happen, and notes whom it killed.

    Args:
        injury: What; its `dead_pids` are filled in.
        cluster: To what.
        chance: Chooses among equals.
        about_to: Called on the event loop at the last moment before.

    Raises:
        LookupError: There is nothing of the kind to kill, or to hang.
        TimeoutError: The replica whose step hangs did not end.
    """
    await asyncio.to_thread(cluster.remember)
    if injury.fault is Fault.HUNG_STEP:
        about_to()
        injury.dead_pids = await _hang(cluster)
        return
    victim = chance.choice(await asyncio.to_thread(parts.living, _PREFIXES[injury.fault]))
    about_to()
    if injury.fault is Fault.NODE:
        injury.dead_pids = await asyncio.to_thread(cluster.lose_node, victim.node_id)
    else:
        injury.dead_pids = frozenset({victim.pid})
        victim.kill()


async def _hang(cluster: ChaosCluster) -> frozenset[int]:
    """A poisoned picture hangs a replica's device; who asked for it leaves, the others in the replica stay."""
    before = await _pool_pids()
    query: dict[str, str | int] = {"prompt": POISON_HANG, "num_inference_steps": 10, "pool": POOL}
    async with httpx.AsyncClient(base_url=cluster.url, trust_env=False) as client:
        try:
            await client.get("/imagine", params=query, timeout=MAX_STEP_S / 2)
        except httpx.TimeoutException:
            pass
        else:
            raise LookupError("the poisoned picture hung nothing")
    async with asyncio.timeout(_HANG_WITHIN_S):

        async def some_ended() -> bool:
            return not before <= await _pool_pids()

        await _until(some_ended)
    return frozenset(before - await _pool_pids())


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Polls; the caller bounds it."""
    while True:
        if await condition():
            return
        await asyncio.sleep(_POLL_S)


async def _pool_pids() -> set[int]:
    return {process.pid for process in await asyncio.to_thread(parts.replicas, POOL, APP_NAME)}


async def whole_again(
    injury: Injury, cluster: ChaosCluster, now_s: Callable[[], float], timeout_s: float
) -> None:
    """Waits until all parts are there again and notes how long that took.

    Args:
        injury: What happened; its `whole_after_s` is filled in.
        cluster: To what. A lost node is replaced here after `NODE_AWAY_S`.
        now_s: Seconds from the start of the load.
        timeout_s: Longest wait from the fault on; after that the time stays None.
    """
    if injury.fault is Fault.NODE:
        await asyncio.sleep(NODE_AWAY_S)
        await asyncio.to_thread(cluster.add_node)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, injury.at_s + timeout_s - now_s())):
            await _until(lambda: asyncio.to_thread(parts.whole, WANTED, APP_NAME, injury.dead_pids))
            injury.whole_after_s = now_s() - injury.at_s


async def answers_again(injury: Injury, url: str, now_s: Callable[[], float], timeout_s: float) -> None:
    """Waits until a new connection gets to the service and notes how long that took.

    Args:
        injury: What happens now; its `answers_after_s` is filled in.
        url: The service.
        now_s: Seconds from the start of the load.
        timeout_s: Longest wait; after that the time stays None.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await _until(lambda: _answers(url))
            injury.answers_after_s = now_s() - injury.at_s


async def _answers(url: str) -> bool:
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=5.0) as client:
            return (await client.get("/health")).status_code == 200
    except httpx.TransportError:
        return False
