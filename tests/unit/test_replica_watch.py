"""Counts of replicas from Ray Serve's status: what they mean, and how seldom they are asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray import serve
from ray.serve import context
from ray.serve._private.common import ReplicaState
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    ServeStatus,
)

from serve_app import replica_watch
from serve_app.replica_watch import DeploymentReport, ReplicaCounts, ReplicaWatch, ask_serve, one_sentence

Reports = dict[str, DeploymentReport]


def _reports(**deployments: tuple[str, dict[str, int], str]) -> Reports:
    return {name: DeploymentReport(*report) for name, report in deployments.items()}


class Ray:
    """Gives prepared reports of one application."""

    def __init__(self, reports: Reports | Exception) -> None:
        self.reports = reports
        self.asked = 0

    def __call__(self, app_name: str) -> Reports:
        assert app_name == "imagine"
        self.asked += 1
        if isinstance(self.reports, Exception):
            raise self.reports
        return self.reports


async def test_counts() -> None:
    reports = _reports(
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
    watch = ReplicaWatch("imagine", Ray(reports))
    assert await watch.counts("up") == ReplicaCounts(2, 2)
    assert await watch.counts("asleep") == ReplicaCounts(0, 0)
    assert await watch.counts("starting") == ReplicaCounts(0, 1)
    assert await watch.counts("falling_asleep") == ReplicaCounts(0, 0)
    assert await watch.counts("recovering") == ReplicaCounts(0, 1, message="A replica's health check failed.")
    assert await watch.counts("broken") == ReplicaCounts(0, 0, failed=True, message="no such model")
    assert await watch.counts("unknown") is None


async def test_many_ask_ray_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray(_reports(up=("HEALTHY", {"RUNNING": 1}, "")))
    watch = ReplicaWatch("imagine", ray)
    await asyncio.gather(*(watch.counts("up") for _ in range(20)))
    assert ray.asked == 1
    monkeypatch.setattr(replica_watch, "MAX_AGE_S", 0.0)
    await watch.counts("up", max_age_s=0.0)
    assert ray.asked == 2


async def test_a_request_does_not_wait_for_newer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray(_reports(up=("HEALTHY", {"RUNNING": 1}, "")))
    watch = ReplicaWatch("imagine", ray)
    await watch.counts("up")
    monkeypatch.setattr(replica_watch, "MAX_AGE_S", 0.0)
    for _ in range(5):
        await watch.counts("up", max_age_s=1000.0)
        await asyncio.sleep(0)
    assert ray.asked == 1  # new enough for a long time
    monkeypatch.setattr(replica_watch, "_ASKED_FOR_BESIDE", 0.0)
    ray.reports = _reports(up=("HEALTHY", {"RUNNING": 2}, ""))
    assert await watch.counts("up", max_age_s=10.0) == ReplicaCounts(1, 1)
    assert await watch.counts("up", max_age_s=0.0) == ReplicaCounts(2, 2)
    assert ray.asked == 2  # the second one waited for what the first had asked


async def test_while_ray_does_not_tell_nothing_is_known() -> None:
    assert await ReplicaWatch("imagine", Ray(ConnectionError("away"))).counts("up") is None


class _Client:
    """As Ray Serve's own, with a prepared answer."""

    def __init__(self, details: dict[str, Any]) -> None:
        self.details = details

    def get_serve_details(self) -> dict[str, Any]:
        return self.details


class TestAskServe:
    @pytest.fixture(autouse=True)
    def _never_reaches_a_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told_by_serve = _serve_status(up=("HEALTHY", {"RUNNING": 3}, "said otherwise"))
        monkeypatch.setattr(serve, "status", lambda: self.told_by_serve)

    def _answers(self, monkeypatch: pytest.MonkeyPatch, client: object) -> None:
        monkeypatch.setattr(context, "_get_global_client", lambda raise_if_no_controller_running: client)

    def test_reads_what_the_controller_tells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        running = {"state": ReplicaState.RUNNING}  # as Ray 2.60 does, with members of enumerations
        replicas = [running, {"state": "STARTING"}, running]
        up = {"status": DeploymentStatus.UPDATING, "message": "one more", "replicas": replicas}
        self._answers(monkeypatch, _Client({"applications": {"imagine": {"deployments": {"up": up}}}}))
        assert ask_serve("imagine") == _reports(up=("UPDATING", {"RUNNING": 2, "STARTING": 1}, "one more"))
        assert ask_serve("another") == {}

    def test_without_serve_there_is_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._answers(monkeypatch, None)
        assert ask_serve("imagine") == {}

    @pytest.mark.parametrize(
        "client", [object(), _Client({}), _Client({"applications": {"imagine": {"deployments": {"up": 1}}}})]
    )
    def test_another_release_of_ray_is_asked_in_public(
        self, monkeypatch: pytest.MonkeyPatch, client: object
    ) -> None:
        self._answers(monkeypatch, client)
        assert ask_serve("imagine") == _reports(up=("HEALTHY", {"RUNNING": 3}, "said otherwise"))
        assert ask_serve("another") == {}


def _serve_status(**deployments: tuple[str, dict[str, int], str]) -> ServeStatus:
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


def test_of_a_report_the_last_line_counts() -> None:
    assert one_sentence("Traceback:\n  File x\n\nValueError: no\n") == "ValueError: no"
    assert one_sentence("") == "no reason was given"
