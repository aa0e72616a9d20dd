"""What importing the application loads: the head and the ingress run on an image without torch."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "gradio")


def test_app_and_ingress_leave_torch_unloaded() -> None:
    program = (
        "import sys, serve_app.app, serve_app.ingress, serve_app.cli, serve_app.accelerators as a\n"
        "[a.get(name) for name in a.names()]\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
