"""``/v1/images/generations`` and ``/v1/models`` as OpenAI's clients speak them.

Beside OpenAI's own fields the body takes seed, num_inference_steps, guidance_scale, negative_prompt, scheduler,
pool and on_disconnect at its top level, where the clients' ``extra_body`` puts them. Others are refused, as there.
"""

from __future__ import annotations

from fastapi import APIRouter

from serve_app.api.openai import images, models

router = APIRouter(prefix="/v1", tags=["openai"])
for part in (images, models):
    router.include_router(part.router)
