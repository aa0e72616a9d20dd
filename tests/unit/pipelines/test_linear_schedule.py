"""`LinearSchedules` do what diffusers' own schedulers do, for every scheduler, step count and prediction type."""

from __future__ import annotations

import warnings
from typing import Any

import diffusers
import pytest
import torch

from serve_app.errors import UnsupportedRequest
from serve_app.noise_schedulers import NOISE_SCHEDULERS
from serve_app.pipelines.linear_schedule import LinearSchedule, LinearSchedules
from serve_app.pipelines.noise_schedulers import NoiseSchedulers, PictureSchedule, Schedule

NAMES = [scheduler.name for scheduler in NOISE_SCHEDULERS]
TOLERANCE = 2e-5  # of the largest latent: rounding in float32, over all steps


# As SDXL base has it. The bundled model's begins at pure noise, where diffusers' own sums lose half of their digits.
BASE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
}


def own(class_name: str = "EulerDiscreteScheduler", **changes: Any) -> Any:
    base = diffusers.EulerDiscreteScheduler.from_config(BASE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(diffusers, class_name).from_config(base.config, **changes)


def same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def draw(schedule: PictureSchedule) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    """All latents and all estimates of the finished ones, for answers drawn at random."""
    source = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, 8, 12, generator=source) * schedule.init_noise_sigma
    drawn, estimates = [], []
    for step in range(len(schedule)):
        seen = schedule.scaled(latents, step)
        answer = torch.randn(latents.shape, generator=source) + 0.1 * seen
        latents = schedule.advance(answer, latents, step)
        drawn.append(latents)
        estimates.append(schedule.denoised)
    return drawn, estimates


def compare(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.std() > 0.01
    assert float((one - other).abs().max()) <= TOLERANCE * max(1.0, float(one.abs().max()))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 3, 30])
@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_diffusers_own(name: str, steps: int, prediction_type: str) -> None:
    model = own(prediction_type=prediction_type)
    linear = LinearSchedules(model, same).schedule(name, steps, seed=7)
    theirs = NoiseSchedulers(model).schedule(name, steps, seed=7)
    assert isinstance(linear, LinearSchedule)
    assert isinstance(theirs, Schedule)
    assert [linear.timestep(step) for step in range(len(linear))] == theirs.timesteps.tolist()
    for (ours, our_estimates), (others, their_estimates) in [(draw(linear), draw(theirs))]:
        for one, other in zip(ours, others, strict=True):
            compare(one, other)
        for estimate, expected in zip(our_estimates, their_estimates, strict=True):
            assert (estimate is None) == (expected is None)
            if estimate is not None and expected is not None:
                compare(estimate, expected)


@pytest.mark.parametrize(
    "class_name",
    [
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "LMSDiscreteScheduler",
        "DEISMultistepScheduler",
        "DPMSolverSinglestepScheduler",
    ],
)
def test_a_models_own_scheduler_too(class_name: str) -> None:
    model = own(class_name)
    linear = LinearSchedules(model, same).schedule(None, 6, seed=7)
    assert isinstance(linear, LinearSchedule)
    for one, other in zip(
        draw(linear)[0], draw(NoiseSchedulers(model).schedule(None, 6, seed=7))[0], strict=True
    ):
        compare(one, other)


@pytest.mark.parametrize(
    "changes", [{"clip_sample": True}, {"thresholding": True, "dynamic_thresholding_ratio": 0.5}], ids=str
)
def test_what_is_not_linear_keeps_its_own_steps(changes: dict[str, Any]) -> None:
    schedules = LinearSchedules(own("DDIMScheduler", **changes), same)
    assert isinstance(schedules.schedule(None, 4, seed=0), Schedule)
    assert isinstance(LinearSchedules(own("DDIMScheduler"), same).schedule(None, 4, seed=0), LinearSchedule)


def test_a_step_undone_is_as_if_it_never_was() -> None:
    for name in NAMES:
        schedule = LinearSchedules(own(), same).schedule(name, 5, seed=7)
        latents = torch.randn(1, 4, 8, 8)
        answer = torch.randn(1, 4, 8, 8)
        latents = schedule.advance(answer, latents, 0)
        before = schedule.snapshot()
        once = schedule.advance(answer, latents, 1)
        schedule.restore(before)
        assert torch.equal(schedule.advance(answer, latents, 1), once), name


def test_fresh_noise_is_sent_and_comes_from_the_seed() -> None:
    sent: list[torch.Tensor] = []

    def send(tensor: torch.Tensor) -> torch.Tensor:
        sent.append(tensor)
        return tensor

    schedules = LinearSchedules(own(), send)
    latents, answer = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    one = schedules.schedule("euler_a", 3, seed=1).advance(answer, latents, 0)
    other = schedules.schedule("euler_a", 3, seed=2).advance(answer, latents, 0)
    assert len(sent) == 2
    assert not torch.equal(one, other)
    assert torch.equal(sent[0], torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)))


def test_steps_that_cannot_be_made_are_the_callers_mistake() -> None:
    with pytest.raises(UnsupportedRequest):
        LinearSchedules(own(), same).schedule("lcm", 120, seed=0)


def test_plans_are_read_once_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.pipelines.linear_schedule._PLANS", 2)
    schedules = LinearSchedules(own(), same)
    first: Any = schedules.schedule("euler", 3, seed=0)
    again: Any = schedules.schedule("euler", 3, seed=1)
    assert first._plan is again._plan
    for steps in (4, 5):
        schedules.schedule("euler", steps, seed=0)
    assert len(schedules._plans) == 2
