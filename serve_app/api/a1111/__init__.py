"""``/sdapi/v1/*`` and ``/internal/*`` as A1111's clients speak them.

Where A1111 has one state for everybody, this has one for each caller: progress, interrupt and skip concern the
caller's own drawings, and a chosen model is the caller's own.
"""

from __future__ import annotations

from fastapi import APIRouter

from serve_app.api.a1111 import catalog, progress, txt2img

router = APIRouter(tags=["a1111"])
for part in (txt2img, progress, catalog):
    router.include_router(part.router)
