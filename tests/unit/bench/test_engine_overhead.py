"""The figure that a report quotes is measured, of the right thing."""

from __future__ import annotations

from bench.engine_overhead import measure_step_s, measure_tick_overhead
from serve_app.settings import BUNDLED_MODEL


def test_a_tick_costs_microseconds() -> None:
    result = measure_tick_overhead(pictures=4, ticks=100)
    assert (result["pictures"], result["ticks"]) == (4, 100)
    assert 0 < result["pipeline_median_us"] < result["tick_median_us"] <= result["tick_p99_us"]
    assert result["listened_median_us"] < 10_000


def test_the_step_of_a_model_can_be_measured() -> None:
    assert measure_step_s(BUNDLED_MODEL, rows=1, repeats=1) > 0
