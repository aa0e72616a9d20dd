"""Fixtures of all unit tests: tiny SDXL folders, written once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Writes a tiny SDXL folder by `tools.make_sdxl.make_sdxl`, once for each set of its options."""
    known: dict[str, Path] = {}

    def make(**options: object) -> Path:
        from tools.make_sdxl import make_sdxl  # here, because torch takes seconds to import

        key = repr(sorted(options.items()))
        if key not in known:
            known[key] = make_sdxl(tmp_path_factory.mktemp("sdxl"), **options)  # type: ignore[arg-type]
        return known[key]

    return make


@pytest.fixture(scope="session")
def tiny_sdxl(make_model: MakeModel) -> Path:
    """A tiny SDXL as SDXL base is configured: epsilon, leading timesteps, VAE factor 8, float32."""
    return make_model()
