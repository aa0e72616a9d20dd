"""The ingress's estimate of a pool's speed."""

from __future__ import annotations

import pytest

from serve_app.request import GenerationRequest, RequestDraft
from serve_app.speed import SpeedEstimate, work_units


def _request(steps: int = 4, guidance_scale: float = 0.0) -> GenerationRequest:
    return GenerationRequest("id", "x", "", 512, 512, steps, guidance_scale, seed=0)


def test_work_grows_with_steps_and_doubles_with_guidance() -> None:
    assert work_units(_request(8)) == pytest.approx(2 * work_units(_request(4)))
    assert work_units(_request(4, 5.0)) == pytest.approx(2 * work_units(_request(4)))
    assert RequestDraft("x").seed != RequestDraft("x").seed


def test_a_measured_second_becomes_the_prediction() -> None:
    speed = SpeedEstimate()
    speed.started(_request())
    speed.ended(_request(), seconds=2.0)
    assert speed.predicted_s(_request()) == pytest.approx(2.0)
    assert speed.predicted_s(_request(8)) == pytest.approx(4.0)


def test_work_in_flight_pushes_the_prediction_back_until_it_ends() -> None:
    speed = SpeedEstimate()
    speed.started(_request())
    speed.ended(_request(), seconds=2.0)
    speed.started(_request())
    assert speed.predicted_s(_request()) == pytest.approx(4.0)
    speed.ended(_request(), seconds=None)
    assert speed.predicted_s(_request()) == pytest.approx(2.0)
