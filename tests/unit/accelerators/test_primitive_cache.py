"""oneDNN keeps the code of every size and number of rows that is drawn in turns, instead of writing it anew."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from serve_app.pipelines import onednn

# In a process of its own: oneDNN reads the size of its cache once, and tells on its output what it creates.
SCRIPT = """
from serve_app import accelerators
from serve_app.request import GenerationRequest
from serve_app.settings import PoolSettings

pool = PoolSettings(num_threads=1, dtype="float32")
pipeline = accelerators.get("cpu").load_pipeline(pool)
sizes = [(width, height) for width in (128, 160, 192) for height in (128, 160, 192)]
for turn in range(2):
    print("turn", turn, flush=True)
    for width, height in sizes:
        states = [
            pipeline.prepare(GenerationRequest(str(n), "a", "", height, width, 4, 0.0, seed=n), 0) for n in range(4)
        ]
        for rows in range(1, 5):
            pipeline.denoise_step(states[:rows])
            for state in states:
                state.step = 0
            states = [pipeline.prepare(state.request, 0) for state in states]
"""


def created(capacity: str | None) -> int:
    """Pieces of code that are written in the second turn over all sizes."""
    environment = {**os.environ, "ONEDNN_VERBOSE": "profile_create"}
    environment.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
    if capacity is not None:
        environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = capacity
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert "turn 1" in done.stdout
    return done.stdout.split("turn 1")[1].count("create:cache_miss")


@pytest.mark.skipif(not onednn.usable(), reason="this build of PyTorch has no oneDNN")
def test_sizes_in_turns_find_their_code_again() -> None:
    assert created(None) == 0
    assert created("256") > 100, "else this test sees nothing"
