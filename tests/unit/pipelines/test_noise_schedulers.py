"""Schedulers of pictures: each a fresh one, though diffusers makes each kind only once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)

from serve_app.errors import UnsupportedRequest
from serve_app.pipelines.noise_schedulers import NoiseSchedulers, Schedule

STEPS = 5
NAMES = ("euler", "euler_a", "ddim", "dpmpp_2m", "dpmpp_2m_karras", "unipc", "lcm", "heundiscrete")


def schedulers(name: str) -> NoiseSchedulers:
    """Of a model that has `name` for its own where no other may be drawn with it."""
    own: type[Any] = HeunDiscreteScheduler if name == "heundiscrete" else EulerDiscreteScheduler
    return NoiseSchedulers(own(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))


def begun(schedule: Schedule) -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=schedule.generator) * schedule.init_noise_sigma


def advanced(schedule: Schedule, latents: torch.Tensor, step: int) -> torch.Tensor:
    answer = torch.sin(
        schedule.scaled(latents, step)
    )  # in the place of a UNet: anything that tells latents apart
    return schedule.advance(answer, latents, step)


def drawn(schedule: Schedule) -> torch.Tensor:
    latents = begun(schedule)
    for step in range(len(schedule)):
        latents = advanced(schedule, latents, step)
    return latents


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_one_kind_do_not_meet(name: str) -> None:
    alone = [drawn(schedulers(name).by_diffusers(name, STEPS, seed)) for seed in (1, 2)]
    assert not torch.equal(*alone)
    ours = schedulers(name)
    first = ours.by_diffusers(name, STEPS, 1)
    latents = begun(first)
    for step in range(2):
        latents = advanced(first, latents, step)
    # One starts and ends while another is in its middle.
    assert torch.equal(drawn(ours.by_diffusers(name, STEPS, 2)), alone[1])
    for step in range(2, len(first)):
        latents = advanced(first, latents, step)
    assert torch.equal(latents, alone[0])
    assert torch.equal(drawn(ours.by_diffusers(name, STEPS, 1)), alone[0])


@pytest.mark.parametrize("name", NAMES)
def test_each_picture_has_what_diffusers_itself_makes(name: str) -> None:
    ours = schedulers(name)
    drawn(ours.by_diffusers(name, STEPS, 1))
    again, stock = ours.by_diffusers(name, STEPS, 1).scheduler, ours.make(name)
    stock.set_timesteps(STEPS, device="cpu")
    assert type(again) is type(stock)
    assert again.config == stock.config
    if hasattr(stock, "set_begin_index"):
        stock.set_begin_index(0)
    for key, value in vars(stock).items():
        kept = getattr(again, key)
        assert torch.equal(kept, value) if isinstance(value, torch.Tensor) else repr(kept) == repr(value), key


@pytest.mark.parametrize("own", [{"algorithm_type": "sde-dpmsolver++"}, {"solver_order": 3}], ids=str)
def test_dpmpp_2m_is_that_whatever_the_models_own_solver_is(own: dict[str, Any]) -> None:
    ours = NoiseSchedulers(DPMSolverMultistepScheduler(beta_schedule="scaled_linear", **own))
    asked = [name for name in ("dpmpp_2m", "dpmpp_2m_karras") if name != ours.own_name]
    assert asked
    for name in asked:
        made = ours.make(name).config
        assert (made.algorithm_type, made.solver_order) == ("dpmsolver++", 2)
        assert made.use_karras_sigmas == name.endswith("karras")
    for field, value in own.items():
        assert ours.make(None).config[field] == value


def test_a_number_of_steps_that_is_impossible_is_refused_each_time() -> None:
    ours = schedulers("lcm")
    for _ in range(2):
        with pytest.raises(UnsupportedRequest) as refused:
            ours.by_diffusers("lcm", 400, 0)
        assert refused.value.field == "num_inference_steps"
        assert refused.value.message == "400 are too many for this noise scheduler; allowed: at most 50"
    ours.by_diffusers("lcm", 50, 0)


def test_too_few_steps_are_refused_as_that() -> None:
    ours = NoiseSchedulers(PNDMScheduler(beta_schedule="scaled_linear"))
    with pytest.raises(UnsupportedRequest, match="3 are too few"):
        ours.by_diffusers(None, 3, 0)
    ours.by_diffusers(None, 4, 0)


def test_kinds_that_are_no_longer_asked_for_are_given_up() -> None:
    ours = schedulers("euler")
    for steps in range(1, 200):
        ours.by_diffusers("euler", steps, 0)
    assert len(ours._patterns) <= 64
    assert len(ours.by_diffusers("euler", 1, 0)) == 1
