"""Noise schedulers of diffusers, one per picture: `NoiseSchedulers` makes them, `Schedule` drives one."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

import diffusers
import torch
from diffusers.configuration_utils import FrozenDict

from serve_app.errors import UnsupportedRequest
from serve_app.noise_schedulers import NOISE_SCHEDULERS, find

_DPMPP_2M = {
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
}  # models' own may be the SDE or of another order

# Canonical name -> class name in diffusers and what it changes in the model's own scheduler_config.
_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {**_DPMPP_2M, "use_karras_sigmas": False}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {**_DPMPP_2M, "use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}

_PATTERNS = 64  # kept; one is a few kB


class PictureSchedule(Protocol):
    """The noise scheduler of one picture with all its state, as the step maths drives it."""

    generator: torch.Generator

    def __len__(self) -> int:
        """Steps."""
        ...

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the first latents."""
        ...

    @property
    def denoised(self) -> torch.Tensor | None:
        """What the last step took the finished latents for, where the scheduler says so; for previews."""
        ...

    def timestep(self, step: int) -> float:
        """What the UNet is told at `step`."""
        ...

    def scaled(self, latents: torch.Tensor, step: int) -> torch.Tensor:
        """`latents` as the UNet wants them at `step`."""
        ...

    def advance(self, noise: torch.Tensor, latents: torch.Tensor, step: int) -> torch.Tensor:
        """The next latents; the scheduler and the generator move on."""
        ...

    def snapshot(self) -> tuple[Any, ...]:
        """What `restore` takes to undo `advance`."""
        ...

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Goes back to `snapshot`."""
        ...


@dataclass(slots=True)
class Schedule:
    """`PictureSchedule` by diffusers' own scheduler.

    Attributes:
        scheduler: A diffusers scheduler of this picture alone.
        timesteps: 1-d tensor on the CPU, one per step.
        generator: This picture's own source of noise, on the CPU.
        step_kwargs: What its ``step`` takes beside the tensors.
        denoised: What the last step took the finished latents for, where the scheduler says so; for previews.
    """

    scheduler: Any
    timesteps: torch.Tensor
    generator: torch.Generator
    step_kwargs: dict[str, Any]
    denoised: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the first latents."""
        return float(self.scheduler.init_noise_sigma)

    def timestep(self, step: int) -> float:
        """What the UNet is told at `step`."""
        return float(self.timesteps[step])

    def scaled(self, latents: torch.Tensor, step: int) -> torch.Tensor:
        """`latents` as the UNet wants them at `step`."""
        scaled: torch.Tensor = self.scheduler.scale_model_input(latents, self.timesteps[step])
        return scaled

    def advance(self, noise: torch.Tensor, latents: torch.Tensor, step: int) -> torch.Tensor:
        """The next latents; the scheduler and the generator move on."""
        timestep = self.timesteps[step]
        result = self.scheduler.step(noise, timestep, latents, **self.step_kwargs, return_dict=False)
        # Single-step schedulers answer their estimate beside the latents, multistep ones keep it.
        estimates = getattr(self.scheduler, "model_outputs", None)
        self.denoised = result[1] if len(result) > 1 else estimates[-1] if estimates else None
        next_latents: torch.Tensor = result[0]
        return next_latents

    def snapshot(self) -> tuple[Any, ...]:
        """What `restore` takes to undo `advance`. Tensors are shared: no scheduler changes them in place."""
        attributes = {
            key: copy.copy(value) if isinstance(value, list) else value
            for key, value in vars(self.scheduler).items()
        }
        return attributes, self.generator.get_state()

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Goes back to `snapshot`."""
        vars(self.scheduler).update(snapshot[0])
        self.generator.set_state(snapshot[1])


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A scheduler that no picture has used, its timesteps set.

    Attributes:
        scheduler: Of diffusers.
        wants_generator: Whether its ``step`` takes one.
    """

    scheduler: Any
    wants_generator: bool

    def fresh(self) -> Any:
        """One for a picture. Tensors are shared: no scheduler changes them in place."""
        scheduler = copy.copy(self.scheduler)
        for key, value in vars(self.scheduler).items():
            if not isinstance(value, (torch.Tensor, FrozenDict)):
                setattr(scheduler, key, copy.deepcopy(value))
        return scheduler


class NoiseSchedulers:
    """The noise schedulers a model can be drawn with; from one thread.

    Args:
        own: The scheduler that came with the model; its config is the base of all.
    """

    def __init__(self, own: Any) -> None:
        self._own = own
        self._patterns: OrderedDict[tuple[str | None, int], _Pattern] = OrderedDict()
        self.own_name = self._name_of(own)
        known = tuple(scheduler.name for scheduler in NOISE_SCHEDULERS)
        self.names = known if self.own_name in known else (*known, self.own_name)

    @staticmethod
    def _name_of(scheduler: Any) -> str:
        """Canonical name; a class outside the table gets its own, e.g. ``heundiscrete``."""
        class_name = type(scheduler).__name__
        name = find(class_name)
        if name == "dpmpp_2m":
            if scheduler.config.get("use_karras_sigmas"):
                name = "dpmpp_2m_karras"
            if scheduler.config.get("algorithm_type", "dpmsolver++") != "dpmsolver++":
                name = None
        return name or class_name.removesuffix("Scheduler").lower()

    def make(self, name: str | None) -> Any:
        """A fresh diffusers scheduler.

        Args:
            name: One of `names`, or None for the model's own.
        """
        if name is None or name == self.own_name:
            return type(self._own).from_config(self._own.config)
        class_name, changes = _CLASSES[name]
        if "clip_sample" not in self._own.config:
            # DDIM would clip to -1..1 by its class's default, which is for pixels and ruins latents.
            changes = {**changes, "clip_sample": False}
        return getattr(diffusers, class_name).from_config(self._own.config, **changes)

    def schedule(self, name: str | None, num_inference_steps: int, seed: int) -> PictureSchedule:
        """The whole schedule of a new picture.

        Raises:
            UnsupportedRequest: This noise scheduler cannot make that many steps.
        """
        return self.by_diffusers(name, num_inference_steps, seed)

    def by_diffusers(self, name: str | None, num_inference_steps: int, seed: int) -> Schedule:
        """`schedule` by diffusers' own steps."""
        pattern = self._pattern(name, num_inference_steps)
        scheduler = pattern.fresh()
        generator = torch.Generator("cpu").manual_seed(seed)
        step_kwargs = {"generator": generator} if pattern.wants_generator else {}
        return Schedule(scheduler, scheduler.timesteps, generator, step_kwargs)

    def _pattern(self, name: str | None, num_inference_steps: int) -> _Pattern:
        """Kept, since diffusers takes as long to make a scheduler as a small model to encode a text."""
        key = name, num_inference_steps
        pattern = self._patterns.get(key)
        if pattern is None:
            pattern = self._patterns[key] = self._new_pattern(name, num_inference_steps)
            if len(self._patterns) > _PATTERNS:
                self._patterns.popitem(last=False)
        self._patterns.move_to_end(key)
        return pattern

    def _new_pattern(self, name: str | None, num_inference_steps: int) -> _Pattern:
        scheduler = self.make(name)
        try:
            scheduler.set_timesteps(num_inference_steps, device="cpu")
        except ValueError:  # its words are of diffusers' arguments, which no client has
            raise UnsupportedRequest(
                "num_inference_steps", _refusal(scheduler, num_inference_steps)
            ) from None
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # as stock: steps are counted, never searched by their timestep
        return _Pattern(scheduler, "generator" in inspect.signature(scheduler.step).parameters)


def _refusal(scheduler: Any, num_inference_steps: int) -> str:
    """What is allowed instead of so many steps: LCM cannot make more than it was distilled from, PNDM not very few."""
    for fewer in range(num_inference_steps - 1, 0, -1):
        try:
            scheduler.set_timesteps(fewer, device="cpu")
        except ValueError:
            continue
        return f"{num_inference_steps} are too many for this noise scheduler; allowed: at most {fewer}"
    return f"{num_inference_steps} are too few for this noise scheduler"
