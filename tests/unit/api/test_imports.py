"""The HTTP side stays light: no torch, and Ray only when a request asks for the running ingress."""

from __future__ import annotations

import subprocess
import sys


def test_neither_torch_nor_ray_is_imported() -> None:
    code = (
        "import sys; import serve_app.fake_service; from serve_app.api import build_app;"
        "from serve_app.settings import Settings; build_app(Settings());"
        "print(sorted({'torch', 'numpy', 'ray', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
