"""Ray's own ``serve run`` and ``serve deploy`` with a config file, each on a cluster of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import yaml
from ray.serve.schema import ServeDeploySchema

from serve_app.settings import Settings
from tests.running_service import free_port
from tests.serve.processes import running

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve.yaml"
BIN = Path(sys.executable).parent


def _config(folder: Path, port: int) -> Path:
    """The example with the fake accelerator, a free port and a folder of the test's own."""
    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    config["http_options"]["port"] = port
    args = config["applications"][0]["args"]
    args["pools"][0] |= {"accelerator": "fake", "model": "fake"}
    args["store"]["url"] = str(folder / "pictures")
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def _wait_for_health(url: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            assert time.monotonic() < deadline, f"{url} did not answer within {timeout_s} s"
        assert time.monotonic() < deadline, f"{url} was not ready within {timeout_s} s"
        time.sleep(0.2)


def test_the_example_is_what_ray_and_we_understand() -> None:
    config = yaml.safe_load(EXAMPLE.read_text())
    application = ServeDeploySchema.model_validate(config).applications[0]
    assert Settings.model_validate(application.args).pools[0].model == "small-sdxl"


def test_serve_run_with_a_config_file(tmp_path: Path) -> None:
    port = free_port()
    command = [str(BIN / "serve"), "run", str(_config(tmp_path, port))]
    with running(
        command, tmp_path, RAY_ADDRESS="local", RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0"
    ):
        _wait_for_health(f"http://127.0.0.1:{port}", 90.0)
        answer = httpx.get(f"http://127.0.0.1:{port}/imagine?prompt=x", trust_env=False)
        assert answer.headers["content-type"] == "image/png"


def test_serve_deploy_on_a_running_cluster(tmp_path: Path) -> None:
    port, dashboard = free_port(), free_port()
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    head = [
        *(str(BIN / "ray"), "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=2"),
        *(f"--dashboard-port={dashboard}", "--object-store-memory=100000000"),
    ]
    with running(head, tmp_path, PYTHONPATH=str(EXAMPLE.parents[1]), **environment) as cluster:
        cluster.wait_for_text("Ray runtime started", 60.0)
        address = f"http://127.0.0.1:{dashboard}"
        deploy = [str(BIN / "serve"), "deploy", "-a", address, str(_config(tmp_path, port))]
        subprocess.run(deploy, check=True, timeout=60, capture_output=True)
        _wait_for_health(f"http://127.0.0.1:{port}", 90.0)
        status = subprocess.run(
            [str(BIN / "serve"), "status", "-a", address], check=True, timeout=60, capture_output=True
        )
        application = yaml.safe_load(status.stdout)["applications"]["imagine"]
        assert application["status"] == "RUNNING", json.dumps(application)
        assert set(application["deployments"]) == {"Ingress", "Jobs", "default"}
