"""The alerts, by promtool's own rule tests: each fires on what it is for, and none on a service that is well."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.serve.monitoring import alert_rules, alerts

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian package prometheus)"
)

IDENTITY = 'application="imagine",deployment="slow",replica="r1"'
POOL = f'{IDENTITY},pool="slow"'


def _http(status: int) -> str:
    return (
        f'ray_imagine_http_requests_total{{{IDENTITY},status="{status}",route="/imagine",contract="imagine"}}'
    )


def _attempts(outcome: str) -> str:
    return f'ray_imagine_pool_attempts_total{{{POOL},outcome="{outcome}"}}'


def _wait(le: str) -> str:
    return f'ray_imagine_drawing_wait_seconds_bucket{{{POOL},le="{le}"}}'


# An hour and a half of a service that is well; each alert changes what it is about.
WELL = {
    f"ray_imagine_http_in_flight{{{IDENTITY}}}": "1x100",
    _http(200): "0+600x100",
    _http(500): "0+1x100",
    _http(503): "0+6x100",
    _attempts("finished"): "0+600x100",
    _attempts("pool_unavailable"): "0+1x100",
    f"ray_imagine_predicted_wait_seconds{{{POOL}}}": "30x100",
    _wait("1"): "0+600x100",
    _wait("900"): "0+600x100",
    _wait("+Inf"): "0+600x100",
    f"ray_imagine_stuck_seconds{{{POOL}}}": "2x100",
    f"ray_imagine_out_of_memory_steps{{{POOL}}}": "3x100",
    f"ray_serve_deployment_replica_healthy{{{IDENTITY}}}": "1x100",
    f"ray_serve_deployment_replica_starts_total{{{IDENTITY}}}": "2x100",
    f'ray_imagine_store_put_seconds_count{{{IDENTITY},outcome="finished"}}': "0+60x100",
    f'ray_imagine_store_put_seconds_count{{{IDENTITY},outcome="store_unavailable"}}': "0x100",
    'ray_node_disk_utilization_percentage{ip="10.0.0.1"}': "60x100",
}

ILL: dict[str, dict[str, str | None]] = {
    "ImagineNoMetrics": {f"ray_imagine_http_in_flight{{{IDENTITY}}}": None},
    "ImagineErrors": {_http(500): "0+30x100"},
    "ImagineRefusing": {_http(503): "0+100x100"},
    "ImaginePoolDying": {_attempts("pool_unavailable"): "0+60x100"},
    "ImagineQueueLong": {f"ray_imagine_predicted_wait_seconds{{{POOL}}}": "400x100"},
    "ImagineSlowStart": {_wait("1"): "0+500x100"},
    "ImagineEngineStuck": {f"ray_imagine_stuck_seconds{{{POOL}}}": "0+60x100"},
    "ImagineOutOfMemory": {f"ray_imagine_out_of_memory_steps{{{POOL}}}": "3+1x100"},
    "ImagineReplicaUnhealthy": {f"ray_serve_deployment_replica_healthy{{{IDENTITY}}}": "0x100"},
    "ImagineReplicasRestart": {f"ray_serve_deployment_replica_starts_total{{{IDENTITY}}}": "0+1x100"},
    "ImagineStoreFailing": {
        f'ray_imagine_store_put_seconds_count{{{IDENTITY},outcome="store_unavailable"}}': "0+1x100"
    },
    "ImagineDiskFull": {'ray_node_disk_utilization_percentage{ip="10.0.0.1"}': "95x100"},
}


def _firing(folder: Path, series: dict[str, str]) -> set[str]:
    """Names of the alerts that fire at the end of `series`, as promtool evaluates them."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(alert_rules()))
    expectation: dict[str, Any] = {
        "expr": 'ALERTS{alertstate="firing"}',
        "eval_time": "90m",
        "exp_samples": [],
    }
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [expectation],
            }
        ],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    # Nothing is expected, so promtool lists what it got.
    output = done.stdout + done.stderr
    found = {name for name, _ in alerts() if f'alertname="{name}"' in output}
    assert done.returncode == 0 or found, output
    return found


def test_every_alert_is_tried() -> None:
    assert set(ILL) == {name for name, _ in alerts()}


def test_none_fires_on_a_service_that_is_well(tmp_path: Path) -> None:
    assert _firing(tmp_path, WELL) == set()


@pytest.mark.parametrize("name", sorted(ILL))
def test_each_fires_on_what_it_is_for_alone(tmp_path: Path, name: str) -> None:
    changed = {series: values for series, values in {**WELL, **ILL[name]}.items() if values is not None}
    assert _firing(tmp_path, changed) == {name}
