"""Counts of replicas from Ray Serve's status: what they mean, and how seldom they are asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    ServeStatus,
)

from serve_app import replica_watch
from serve_app.replica_watch import ReplicaCounts, ReplicaWatch, one_sentence


def _status(**deployments: tuple[str, dict[str, int], str]) -> ServeStatus:
    overviews: dict[str, Any] = {
        name: DeploymentStatusOverview(
            status=DeploymentStatus(status),
            status_trigger="UNSPECIFIED",
            replica_states=states,
            message=message,
        )
        for name, (status, states, message) in deployments.items()
    }
    app = ApplicationStatusOverview(ApplicationStatus.RUNNING, "", 0.0, overviews)
    return ServeStatus(proxies={}, applications={"imagine": app})


class Ray:
    """Gives a prepared status."""

    def __init__(self, status: ServeStatus | Exception) -> None:
        self.status = status
        self.asked = 0

    def __call__(self) -> ServeStatus:
        self.asked += 1
        if isinstance(self.status, Exception):
            raise self.status
        return self.status


async def test_counts() -> None:
    status = _status(
        up=("HEALTHY", {"RUNNING": 2}, ""),
        asleep=("HEALTHY", {}, ""),
        starting=("UPDATING", {"STARTING": 1}, "x"),
        falling_asleep=("DOWNSCALING", {"STOPPING": 1}, "x"),
        recovering=("UNHEALTHY", {"STARTING": 1, "STOPPING": 1}, "A replica's health check failed."),
        broken=(
            "DEPLOY_FAILED",
            {},
            "Traceback\n serve_app.errors.ConfigurationError: no such model\n  at x",
        ),
    )
    watch = ReplicaWatch("imagine", Ray(status))
    assert await watch.counts("up") == ReplicaCounts(2, 2)
    assert await watch.counts("asleep") == ReplicaCounts(0, 0)
    assert await watch.counts("starting") == ReplicaCounts(0, 1)
    assert await watch.counts("falling_asleep") == ReplicaCounts(0, 0)
    assert await watch.counts("recovering") == ReplicaCounts(0, 1, message="A replica's health check failed.")
    assert await watch.counts("broken") == ReplicaCounts(0, 0, failed=True, message="no such model")
    assert await watch.counts("unknown") is None


async def test_many_ask_ray_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray(_status(up=("HEALTHY", {"RUNNING": 1}, "")))
    watch = ReplicaWatch("imagine", ray)
    await asyncio.gather(*(watch.counts("up") for _ in range(20)))
    assert ray.asked == 1
    monkeypatch.setattr(replica_watch, "MAX_AGE_S", 0.0)
    await watch.counts("up", max_age_s=0.0)
    assert ray.asked == 2


async def test_a_request_does_not_wait_for_newer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray(_status(up=("HEALTHY", {"RUNNING": 1}, "")))
    watch = ReplicaWatch("imagine", ray)
    await watch.counts("up")
    monkeypatch.setattr(replica_watch, "MAX_AGE_S", 0.0)
    for _ in range(5):
        await watch.counts("up", max_age_s=1000.0)
        await asyncio.sleep(0)
    assert ray.asked == 1  # new enough for a long time
    monkeypatch.setattr(replica_watch, "_ASKED_FOR_BESIDE", 0.0)
    ray.status = _status(up=("HEALTHY", {"RUNNING": 2}, ""))
    assert await watch.counts("up", max_age_s=10.0) == ReplicaCounts(1, 1)
    assert await watch.counts("up", max_age_s=0.0) == ReplicaCounts(2, 2)
    assert ray.asked == 2  # the second one waited for what the first had asked


async def test_while_ray_does_not_tell_nothing_is_known() -> None:
    assert await ReplicaWatch("imagine", Ray(ConnectionError("away"))).counts("up") is None


def test_of_a_report_the_last_line_counts() -> None:
    assert one_sentence("Traceback:\n  File x\n\nValueError: no\n") == "ValueError: no"
    assert one_sentence("") == "no reason was given"
