"""Which pool would be done first with an order."""

from __future__ import annotations

from typing import Any

import pytest

from gradio_ui.fastest import fastest
from gradio_ui.form import ANYWHERE
from tests.unit.gradio_ui.test_form import pool

SLOW = pool("slow", step_s=1.0)
QUICK = pool("quick", step_s=0.1)


def test_start_queue_and_step_count() -> None:
    assert fastest([SLOW, QUICK], {}) == "quick"
    assert fastest([SLOW, {**QUICK, "queued_images": 90}], {}) == "slow"
    assert fastest([SLOW, {**QUICK, "start_s": 60.0, "state": "asleep"}], {}) == "slow"
    assert fastest([{**QUICK, "step_s": None}], {}) == ANYWHERE


@pytest.mark.parametrize(
    "order",
    [
        {"width": 2048, "height": 2048},
        {"num_inference_steps": 100},
        {"guidance_scale": 7.0, "num_inference_steps": 50},
        {"num_images": 16},
    ],
    ids=str,
)
def test_much_to_draw_is_worth_a_start(order: dict[str, Any]) -> None:
    asleep = {**QUICK, "start_s": 10.0, "state": "asleep"}
    assert fastest([SLOW, asleep], {}) == "slow"  # a second against ten
    assert fastest([SLOW, asleep], order) == "quick"


@pytest.mark.parametrize(
    ("changes", "order"),
    [
        ({"capabilities": {"fixed_sizes": [[1024, 1024]]}}, {"width": 512, "height": 768}),
        ({"capabilities": {"max_side": 512}}, {"width": 1024, "height": 512}),
        ({"capabilities": {"guidance": False}}, {"guidance_scale": 5.0}),
        ({"capabilities": {"scheduler_names": ["euler"]}}, {"scheduler": "ddim"}),
        ({"capabilities": {"max_num_inference_steps": 50}}, {"num_inference_steps": 60}),
        ({"model": "other"}, {"model": "small-sdxl"}),
        ({"state": "failed"}, {}),
    ],
    ids=str,
)
def test_a_pool_that_would_refuse_is_none(changes: dict[str, Any], order: dict[str, Any]) -> None:
    other = pool("other", **{"model": "small-sdxl", **changes}, step_s=0.001)
    assert fastest([other, SLOW], order) == "slow"
    assert fastest([other], order) == ANYWHERE
