"""``imagine doctor`` and ``imagine bench`` as an operator runs them, against the real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.running_service import RunningService, free_port


def _imagine(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serve_app.cli", *arguments],
        env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_doctor_finds_the_service_well(service: RunningService) -> None:
    done = _imagine("doctor", service.url, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads(done.stdout)
    assert len(findings) == 8
    assert {finding["state"] for finding in findings} == {"ok"}, findings


def test_the_doctor_says_that_nobody_is_there() -> None:
    done = _imagine("doctor", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "wrong  address" in done.stdout
    assert _imagine("doctor", "localhost").returncode == 2


def test_bench_tells_of_every_request(service: RunningService, tmp_path: Path) -> None:
    picture = tmp_path / "bench.svg"
    load = ["--rate", "5", "--duration", "3", "--pool", "slow", "--size", "64x64", "--plot", str(picture)]
    done = _imagine("bench", service.url, *load, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["requests"] == figures["answered"] + figures["refused"] > 5
    assert figures["pools"] == {"slow": figures["answered"]}
    assert figures["latency_s"]["p50"] <= figures["latency_s"]["p99"]
    circles = [node for node in ET.parse(picture).iter() if node.tag.endswith("circle")]
    assert len(circles) == figures["requests"]
    shown = _imagine("bench", service.url, "--rate", "2", "--duration", "2", "--pool", "slow")
    assert "answered" in shown.stdout
    assert "mean seconds by stage: " in shown.stdout
    assert _imagine("bench", service.url, "--rate", "0").returncode == 2
