"""What the real controller tells `ask_serve`, beside what Ray's own command makes of it, and what clients are told."""

from __future__ import annotations

import httpx
import pytest
from ray import serve

from serve_app.replica_watch import DeploymentReport, ask_serve
from tests.running_service import RunningService


def test_the_controller_is_read_as_ray_reads_it(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployments = serve.status().applications["imagine"].deployments
    expected = {
        name: DeploymentReport(one.status.value, one.replica_states, one.message)
        for name, one in deployments.items()
    }

    def fails() -> None:
        raise AssertionError("the slow way")

    monkeypatch.setattr(serve, "status", fails)
    assert ask_serve("imagine") == expected
    assert expected["default"] == DeploymentReport("HEALTHY", {"RUNNING": 2}, "")
    assert ask_serve("none such") == {}


def test_clients_are_told_of_the_replicas(service: RunningService) -> None:
    pools = httpx.get(f"{service.url}/api/pools", trust_env=False).json()
    told = {
        pool["pool"]: (pool["state"], pool["replicas_running"], pool["replicas_wanted"]) for pool in pools
    }
    assert told == {"default": ("ready", 2, 2), "slow": ("ready", 1, 1)}
