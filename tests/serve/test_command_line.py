"""``imagine serve`` as a person starts and stops it, and ``imagine generate`` beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from serve_app.local_page import page_is_installed
from tests.running_service import free_port
from tests.serve.processes import running

IMAGINE = str(Path(sys.executable).parent / "imagine")


def _imagine(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [IMAGINE, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_how_to_use_it_and_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    port = free_port()
    page_port = free_port()
    command = [IMAGINE, "serve", "--port", str(port), "--no-dashboard", "--json", "--ui-port", str(page_port)]
    with running(command, tmp_path, ACCELERATOR="fake", MODEL="small-sdxl") as service:
        output = service.wait_for_text('"ready_s"', 120.0)
        facts = json.loads(output[output.index("{") : output.rindex("}") + 1])
        assert facts["url"] == f"http://127.0.0.1:{port}"
        assert facts["docs"] == f"{facts['url']}/docs"
        assert Path(facts["pictures"]) == tmp_path / "pictures"
        if page_is_installed():
            assert facts["page"] == f"http://127.0.0.1:{page_port}"
            assert "page.js" in httpx.get(facts["page"], timeout=20.0, trust_env=False).text
            health = httpx.get(f"{facts['page']}/studio/health", timeout=20.0, trust_env=False).json()
            assert health == {"ready": True, "words": "Ready: small-sdxl on fake"}
        else:
            assert facts["page"] is None
        answer = httpx.post(f"{facts['url']}/api/text2image", json={"prompt": "x"}, trust_env=False).json()
        assert (tmp_path / "pictures" / answer["id"] / "0_0.png").is_file()
        assert len(service.family()) > 4
        status, seconds = service.interrupt(20.0, number)
        assert status == 0
        assert seconds < 10.0
        assert service.family() == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "/no/such/folder"], "there is no model folder"),
        (["--accelerator", "abacus"], "'abacus' is not known; set it to one of"),
        (["--accelerator", "neuron"], "no device for accelerator neuron"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--dtype", "float7"], "dtype"),
        (["--config", "missing.yaml"], "cannot read missing.yaml"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    done = _imagine("serve", "--port", str(free_port()), *arguments, folder=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = _imagine("serve", folder=tmp_path, PORT=port)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken; choose another with PORT=" in done.stderr


@pytest.mark.skipif(not page_is_installed(), reason="the web page is not installed")
def test_a_taken_port_of_the_page_is_refused_when_it_was_asked_for(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = str(listener.getsockname()[1])
        done = _imagine("serve", "--port", str(free_port()), folder=tmp_path, UI_PORT=taken)
    assert done.returncode == 1
    assert f"port {taken} on 127.0.0.1 is taken; choose another with UI_PORT=" in done.stderr


def test_help_lists_every_setting_by_flag_and_environment(tmp_path: Path) -> None:
    text = _imagine("serve", "--help", folder=tmp_path, COLUMNS="200").stdout
    for name in ("host", "port", "model", "accelerator", "revision", "dtype", "replicas", "pictures", "ui"):
        assert f"--{name}" in text
        assert f"IMAGINE_{name.upper()}" in text


def test_generate_draws_the_same_picture_for_the_same_seed(tmp_path: Path) -> None:
    arguments = ["generate", "a red circle", "--seed", "5", "--size", "512x512", "--json"]
    first = _imagine(*arguments, "-o", "a.png", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    drawn = json.loads(first.stdout)
    assert (drawn["model"], drawn["num_inference_steps"]) == ("small-sdxl", 4)
    assert drawn["images"] == [{"path": "a.png", "seed": 5, "seconds": drawn["images"][0]["seconds"]}]
    second = _imagine(*arguments, "--number", "2", "-o", "b.png", folder=tmp_path)
    assert [image["seed"] for image in json.loads(second.stdout)["images"]] == [5, 6]
    with Image.open(tmp_path / "a.png") as alone, Image.open(tmp_path / "b-0.png") as in_batch:
        assert alone.text["parameters"].startswith("a red circle\nSteps: 4")  # type: ignore[attr-defined]
        difference = max(abs(x - y) for x, y in zip(alone.tobytes(), in_batch.tobytes(), strict=True))
    assert difference <= 1


def test_generate_refuses_with_the_reason(tmp_path: Path) -> None:
    done = _imagine("generate", "x", "--size", "513x512", folder=tmp_path)
    assert done.returncode == 1
    assert "513 is not a multiple of" in done.stderr
    done = _imagine("generate", "x", "-o", "out.gif", "--json", folder=tmp_path)
    assert done.returncode == 1
    assert "out.gif ends with none of .png" in json.loads(done.stdout)["error"]


def test_models_lists_the_bundled_one_with_its_defaults(tmp_path: Path) -> None:
    done = _imagine("models", "--json", folder=tmp_path)
    bundled = json.loads(done.stdout)[0]
    assert (bundled["model"], bundled["width"], bundled["num_inference_steps"]) == ("small-sdxl", 512, 4)
