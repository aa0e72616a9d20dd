"""The curl lines of the README, typed as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from serve_app.fake_service import FakeImageService
from serve_app.settings import Settings, StoreSettings
from tests.unit.api.conftest import served

README = Path(__file__).parents[2] / "README.md"


def curl_lines() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(), flags=re.M | re.S)
    joined = "\n".join(blocks).replace("\\\n", " ")
    # Lines with a variable of an earlier line are run, all together, by tests/serve/test_jobs.py.
    return [line for line in joined.splitlines() if line.startswith("curl ") and "$" not in line]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_curl_line_works(tmp_path: Path) -> None:
    lines = curl_lines()
    assert len(lines) >= 10
    service = FakeImageService(Settings(store=StoreSettings(url=str(tmp_path / "pictures"))))
    with served(service) as url:
        for line in lines:
            here = line.replace("http://127.0.0.1:8000", url).replace(
                "curl ", "curl -sS --fail-with-body ", 1
            )
            done = subprocess.run(
                ["sh", "-c", here], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert (tmp_path / "star.png").read_bytes() == (tmp_path / "star-again.png").read_bytes()
    assert Image.open(tmp_path / "star.webp").format == "WEBP"
