"""Noise schedulers as sums of a few tensors with known factors: `LinearSchedules`, for devices that must not wait.

diffusers' schedulers hand numbers between host and device within a step (UniPC about ten times, ancestral ones for
their noise), and each time the host waits until the device has done all that it was given. But each of their steps
only adds up tensors: the latents, the UNet's answer, what the scheduler remembers, fresh noise. The factors depend on
the schedule alone, so they are read off diffusers' own scheduler beforehand, by giving it unit vectors in place of
latents, and a step is a few multiply-adds on the device, with the factors as plain numbers.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from serve_app.pipelines.noise_schedulers import NoiseSchedulers, PictureSchedule, Schedule

log = logging.getLogger(__name__)

_LATENTS, _ANSWER, _RANDOM, _MEMORY = 0, 1, 2, 3  # which unit vector stands for what; memory is the rest
_WIDTH = 16
_PLANS = 64  # kept; one is a few kB
_TOLERANCE = 1e-4  # of the largest latent, when a plan is compared with the scheduler it was read off

Send = Callable[[torch.Tensor], torch.Tensor]
"""Copies a tensor from the host to the device without waiting."""


@dataclass(frozen=True, slots=True)
class LinearStep:
    """One step. Factors are of: latents, the UNet's answer, fresh noise, then each remembered tensor.

    Attributes:
        timestep: What the UNet is told.
        scale: What the latents are multiplied by for the UNet.
        latents: Factors of the next latents.
        memory: Factors of each tensor to remember.
        denoised: Factors of what the step takes the finished latents for; empty where the scheduler does not say.
        draws: Whether it takes fresh noise.
    """

    timestep: float
    scale: float
    latents: tuple[float, ...]
    memory: tuple[tuple[float, ...], ...]
    denoised: tuple[float, ...]
    draws: bool


@dataclass(frozen=True, slots=True)
class LinearPlan:
    """A whole schedule.

    Attributes:
        steps: All steps.
        init_noise_sigma: Standard deviation of the first latents.
    """

    steps: tuple[LinearStep, ...]
    init_noise_sigma: float


class LinearSchedule:
    """`PictureSchedule` by a `LinearPlan`: nothing in it reads a tensor's values.

    Args:
        plan: Shared by all pictures of the same noise scheduler and number of steps.
        generator: This picture's own source of noise, on the host.
        send: Takes fresh noise to the device.
    """

    def __init__(self, plan: LinearPlan, generator: torch.Generator, send: Send) -> None:
        self.generator = generator
        self._plan = plan
        self._send = send
        self._memory: tuple[torch.Tensor, ...] = ()
        self._last: tuple[tuple[float, ...], tuple[torch.Tensor, ...]] | None = None

    def __len__(self) -> int:
        return len(self._plan.steps)

    @property
    def init_noise_sigma(self) -> float:
        """As `PictureSchedule.init_noise_sigma`."""
        return self._plan.init_noise_sigma

    @property
    def denoised(self) -> torch.Tensor | None:
        """As `PictureSchedule.denoised`; computed when it is asked for."""
        return None if self._last is None else _sum(*self._last)

    def timestep(self, step: int) -> float:
        """As `PictureSchedule.timestep`."""
        return self._plan.steps[step].timestep

    def scaled(self, latents: torch.Tensor, step: int) -> torch.Tensor:
        """As `PictureSchedule.scaled`."""
        scale = self._plan.steps[step].scale
        return latents if scale == 1.0 else latents * scale

    def advance(self, noise: torch.Tensor, latents: torch.Tensor, step: int) -> torch.Tensor:
        """As `PictureSchedule.advance`."""
        now = self._plan.steps[step]
        random = (
            self._send(torch.randn(latents.shape, generator=self.generator, dtype=noise.dtype))
            if now.draws
            else latents  # its factors are 0
        )
        tensors = (latents, noise, random, *self._memory)
        self._memory = tuple(_sum(factors, tensors) for factors in now.memory)
        self._last = (now.denoised, tensors) if now.denoised else None
        return _sum(now.latents, tensors)

    def snapshot(self) -> tuple[Any, ...]:
        """As `PictureSchedule.snapshot`."""
        return self._memory, self._last, self.generator.get_state()

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """As `PictureSchedule.restore`."""
        self._memory, self._last, state = snapshot
        self.generator.set_state(state)


class LinearSchedules(NoiseSchedulers):
    """`NoiseSchedulers` whose schedules are linear wherever the scheduler is: all that this project has a name for.

    One that is not, for instance because it clips, keeps diffusers' own steps.

    Args:
        own: The scheduler that came with the model.
        send: Takes fresh noise to the device.
    """

    def __init__(self, own: Any, send: Send) -> None:
        super().__init__(own)
        self._send = send
        self._plans: OrderedDict[tuple[str | None, int], LinearPlan | None] = OrderedDict()

    def schedule(self, name: str | None, num_inference_steps: int, seed: int) -> PictureSchedule:
        """As `NoiseSchedulers.schedule`."""
        key = name, num_inference_steps
        if key not in self._plans:
            self._plans[key] = plan_of(lambda: self.by_diffusers(name, num_inference_steps, 0))
            if self._plans[key] is None:
                log.warning(
                    "the noise scheduler %s is not linear: its steps wait for the device",
                    name or self.own_name,
                )
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        plan = self._plans[key]
        if plan is None:
            return self.by_diffusers(name, num_inference_steps, seed)
        return LinearSchedule(plan, torch.Generator("cpu").manual_seed(seed), self._send)


def plan_of(make: Callable[[], Schedule]) -> LinearPlan | None:
    """Reads the factors of all steps off a scheduler.

    Args:
        make: Gives a fresh schedule, always the same.

    Returns:
        The plan, or None where it would not do what the scheduler does.
    """
    schedule, again = make(), make()
    try:
        plan = _read_off(schedule)
        return plan if plan is not None and _does_the_same(plan, again) else None
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return None  # it wants more of its tensors than sums, such as a certain shape


def _read_off(schedule: Schedule) -> LinearPlan | None:
    slots: list[tuple[str, int | None]] = []  # where the scheduler keeps tensors: attribute, place in a list
    steps: list[LinearStep] = []
    with torch.inference_mode(False), torch.no_grad(), _UnitRandom() as randomness:
        for step, timestep in enumerate(schedule.timesteps.tolist()):
            scaled = schedule.scaled(_unit(_LATENTS), step)
            randomness.draws = 0
            latents = schedule.advance(_unit(_ANSWER), _unit(_LATENTS), step)
            slots += [slot for slot in _slots(schedule.scheduler) if slot not in slots]
            if randomness.draws > 1 or _MEMORY + len(slots) > _WIDTH or latents.shape != (1, 1, 1, _WIDTH):
                return None
            denoised = schedule.denoised
            steps.append(
                LinearStep(
                    timestep=float(timestep),
                    scale=float(scaled.flatten()[_LATENTS]),
                    latents=_factors(latents),
                    memory=tuple(_factors(_kept(schedule.scheduler, slot)) for slot in slots),
                    denoised=() if denoised is None else _factors(denoised),
                    draws=randomness.draws == 1,
                )
            )
            for place, slot in enumerate(slots):
                _keep(schedule.scheduler, slot, _unit(_MEMORY + place))
    return LinearPlan(tuple(steps), schedule.init_noise_sigma)


def _does_the_same(plan: LinearPlan, schedule: Schedule) -> bool:
    """Whether `plan` and the scheduler itself come to the same latents from random answers."""
    source = torch.Generator().manual_seed(0)
    linear = LinearSchedule(plan, torch.Generator().manual_seed(1), lambda tensor: tensor)
    schedule.generator.manual_seed(1)
    theirs = ours = torch.randn(1, 4, 8, 8, generator=source) * plan.init_noise_sigma
    for step in range(len(linear)):
        answer = torch.randn(theirs.shape, generator=source)
        bound = _TOLERANCE * float(theirs.abs().max())
        if (schedule.scaled(theirs, step) - linear.scaled(ours, step)).abs().max() > bound:
            return False
        theirs, ours = schedule.advance(answer, theirs, step), linear.advance(answer, ours, step)
        # Not "> bound", which NaN would pass.
        if not (theirs - ours).abs().max() <= max(bound, _TOLERANCE * float(theirs.abs().max())):
            return False
    return True


class _UnitRandom(TorchFunctionMode):
    """Answers each `torch.randn` with the unit vector that stands for fresh noise, and counts them."""

    draws = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            self.draws += 1
            return _unit(_RANDOM)
        return func(*args, **(kwargs or {}))


def _unit(place: int) -> torch.Tensor:
    vector = torch.zeros(1, 1, 1, _WIDTH)
    vector[..., place] = 1.0
    return vector


def _factors(vector: torch.Tensor | None) -> tuple[float, ...]:
    """All factors but the zeros at the end; none where nothing is kept."""
    values: list[float] = [] if vector is None else vector.flatten().tolist()
    while values and values[-1] == 0.0:
        values.pop()
    return tuple(values)


def _slots(scheduler: Any) -> Iterator[tuple[str, int | None]]:
    """Where the scheduler keeps tensors of the latents' shape."""
    for name, value in sorted(vars(scheduler).items()):
        if isinstance(value, list):
            yield from ((name, place) for place, one in enumerate(value) if _is_state(one))
        elif _is_state(value):
            yield name, None


def _is_state(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == (1, 1, 1, _WIDTH)


def _kept(scheduler: Any, slot: tuple[str, int | None]) -> torch.Tensor | None:
    name, place = slot
    value = getattr(scheduler, name)
    value = value if place is None or value is None else value[place]
    return value if _is_state(value) else None


def _keep(scheduler: Any, slot: tuple[str, int | None], vector: torch.Tensor) -> None:
    """Only where something is kept: schedulers ask whether there is."""
    name, place = slot
    if _kept(scheduler, slot) is None:
        return
    if place is None:
        setattr(scheduler, name, vector)
    else:
        getattr(scheduler, name)[place] = vector


def _sum(factors: tuple[float, ...], tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their sum of products; a lone tensor with factor 1 is answered itself, so nobody may write into it."""
    terms = [(factor, tensor) for factor, tensor in zip(factors, tensors, strict=False) if factor]
    if not terms:
        return torch.zeros_like(tensors[0])
    (factor, total), *rest = terms
    if factor != 1.0:
        total = total * factor
    for factor, tensor in rest:
        total = torch.add(total, tensor, alpha=factor)
    return total
