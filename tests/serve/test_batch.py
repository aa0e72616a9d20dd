"""``imagine batch`` as a person runs it, against the real service: killed, gone on with, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.running_service import RunningService, free_port

BATCH = [sys.executable, "-m", "serve_app.cli", "batch"]
QUIET = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def _batch(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BATCH, *arguments],
        env={**os.environ, **QUIET},
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def _until_drawn(process: subprocess.Popen[bytes], folder: Path, pictures: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*.png"))) < pictures:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_and_gone_on_with_draws_every_line_once(service: RunningService, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("".join(f"a slow picture, number {number}\n" for number in range(24)))
    # 60 steps on the fake pool: long enough to be killed in the middle.
    arguments: Sequence[str] = [
        *(str(prompts), "-o", str(out), "--url", service.url, "--pool", "slow", "--steps", "60"),
        *("--size", "64x64", "--concurrency", "4", "--json"),
    ]
    before = service.stats("slow").images_done
    for pictures in (4, 10):
        with subprocess.Popen(
            [*BATCH, *arguments],
            env={**os.environ, **QUIET},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            _until_drawn(process, out, pictures)
            os.kill(process.pid, signal.SIGKILL)
    assert not (out / "manifest.jsonl").exists()
    done = _batch(*arguments)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["already"] + summary["drawn"] == 24
    assert summary["already"] >= 6
    # The service drew each line once, those in the air when the run was killed too.
    assert service.stats("slow").images_done - before == 24
    records = _manifest(out)
    assert [record["line"] for record in records] == list(range(1, 25))
    assert len({record["job"] for record in records}) == 24
    for record in records:
        with Image.open(out / record["images"][0]["file"]) as picture:
            assert picture.size == (64, 64)
            assert record["request"]["prompt"] in picture.text["parameters"]  # type: ignore[attr-defined]
    assert {path.name for path in out.iterdir()} == {
        "manifest.jsonl",
        *(record["images"][0]["file"] for record in records),
    }
    again = _batch(*arguments)
    assert (again.returncode, json.loads(again.stdout)["already"]) == (0, 24)
    assert service.stats("slow").images_done - before == 24


def test_the_exit_status_tells(service: RunningService, tmp_path: Path) -> None:
    to = ["-o", str(tmp_path / "out"), "--url", service.url, "--pool", "slow", "--size", "64x64"]
    some = _batch(
        "-", *to, text='{"prompt": "a", "id": "x"}\n{"prompt": "b", "guidance_scale": 99, "id": "y"}\n'
    )
    assert some.returncode == 1
    assert "line 2 (y) failed: guidance_scale: " in some.stderr
    assert "2 lines: 1 drawn, 1 failed; 1 pictures" in some.stdout
    bad = _batch("-", *to, text='{"prompt": "a"}\n{"prompt": "b", "size": 3}\n')
    assert bad.returncode == 2
    assert "line 2: size: unknown" in bad.stderr
    assert _batch(str(tmp_path / "none.txt"), *to).returncode == 2
    nobody = ["--url", f"http://127.0.0.1:{free_port()}", "--patience", "1"]
    gone = _batch("-", *to, *nobody, text="a fox\n")
    assert gone.returncode == 1
    assert "has not taken a request for 1 s" in gone.stderr
    assert "1 not drawn yet" in gone.stdout


def test_a_signal_ends_it_with_a_manifest(service: RunningService, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("".join(f"number {number}\n" for number in range(200)))
    command = [
        *(*BATCH, str(prompts), "-o", str(out), "--url", service.url, "--pool", "slow", "--steps", "20"),
        *("--size", "64x64", "--concurrency", "2"),
    ]
    with subprocess.Popen(command, env={**os.environ, **QUIET}, stderr=subprocess.DEVNULL) as process:
        _until_drawn(process, out, 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    assert 2 <= len(_manifest(out)) < 200
    assert not (out / "manifest.parts").exists()
