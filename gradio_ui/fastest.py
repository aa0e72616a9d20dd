"""`fastest`: the pool that would be done first with an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gradio_ui.form import ANYWHERE, can_draw, fits


def fastest(pools: Sequence[Mapping[str, Any]], order: Mapping[str, Any]) -> str:
    """The pool that would be done first: its start, then what waits there and this order, over its replicas.

    Args:
        pools: As ``GET /api/pools`` answers.
        order: As for ``POST /api/jobs``; its pool is not looked at.

    Returns:
        Its name, or `ANYWHERE` when no pool that draws this tells how fast it is.
    """

    def done_s(pool: Mapping[str, Any]) -> float:
        pictures = (pool.get("queued_images") or 0) + (pool.get("running_images") or 0)
        share = int(order.get("num_images", 1)) + pictures / max(1, pool.get("replicas_running") or 0)
        return float(pool.get("start_s") or 0.0) + _units(pool, order) * float(pool["step_s"]) * share

    able = [pool for pool in pools if pool.get("step_s") and can_draw(pool) and _draws(pool, order)]
    return str(min(able, key=done_s)["pool"]) if able else ANYWHERE


def _asked(pool: Mapping[str, Any], order: Mapping[str, Any], name: str) -> Any:
    return order.get(name, pool["defaults"][name])


def _units(pool: Mapping[str, Any], order: Mapping[str, Any]) -> float:
    """Row-steps times megapixels of a picture: what a pool's ``step_s`` are the seconds of one of."""
    rows = 2 if float(_asked(pool, order, "guidance_scale")) > 1.0 else 1
    megapixels = int(_asked(pool, order, "width")) * int(_asked(pool, order, "height")) / 1_000_000
    return int(_asked(pool, order, "num_inference_steps")) * rows * megapixels


def _draws(pool: Mapping[str, Any], order: Mapping[str, Any]) -> bool:
    can = pool["capabilities"]
    size = int(_asked(pool, order, "width")), int(_asked(pool, order, "height"))
    fixed = [(int(width), int(height)) for width, height in can.get("fixed_sizes", ())]
    scheduler = order.get("scheduler")
    return (
        order.get("model") in (None, pool["model"])
        and (size in fixed if fixed else fits(*size, can))
        and (bool(can.get("guidance", True)) or float(_asked(pool, order, "guidance_scale")) <= 1.0)
        and (scheduler is None or scheduler in can.get("scheduler_names", ()))
        and int(_asked(pool, order, "num_inference_steps")) <= int(can.get("max_num_inference_steps", 150))
    )
