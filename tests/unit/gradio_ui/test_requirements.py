"""What the web page's container installs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parents[3] / "requirements"


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (REQUIREMENTS / name).read_text().splitlines() if not line.startswith("#")]
    pairs = (line.split("==") for line in lines)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in pairs}


def test_every_package_is_pinned_as_in_the_lock_and_none_is_the_services() -> None:
    page, lock = pins("ui.txt"), pins("lock.txt")
    assert {name: lock.get(name) for name in page} == page
    assert {"gradio", "httpx", "uvicorn", "pillow", "fastapi", "pydantic"} <= page.keys()
    assert not {"ray", "torch", "diffusers", "transformers"} & page.keys()


def test_importing_the_page_loads_neither_the_service_nor_torch() -> None:
    check = (
        "import sys, gradio_ui.client, gradio_ui.drawings, gradio_ui.routes, gradio_ui.service_page;"
        "print([name for name in ('serve_app', 'ray', 'torch', 'gradio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
