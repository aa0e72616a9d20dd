"""`spare_lasting_objects`: what is loaded when a process is ready is not looked through for garbage ever after."""

from __future__ import annotations

import gc

from serve_app.telemetry import in_replica


def spare_lasting_objects() -> None:
    """Called when all is loaded; only inside a replica, whose process does nothing else.

    The classes, functions and tables of torch, diffusers, Ray and FastAPI are half a million objects, and Python
    stops every thread for 0.1 to 0.3 s each time it looks through all of them.
    """
    if in_replica():
        gc.collect()
        gc.freeze()
