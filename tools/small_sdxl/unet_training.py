"""Trains the UNet: v-prediction with zero terminal signal, on pictures drawn on the fly.

With zero terminal signal the step at t = 999 sees no picture at all: it is the plain regression of the
picture from its caption, and at four steps it decides most. So high t weighs more, and the other steps that
a picture of four takes weigh more and more towards the end.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tools.small_sdxl.architecture import DOWNSCALE, new_scheduler
from tools.small_sdxl.checkpoint import load_checkpoint, save_checkpoint
from tools.small_sdxl.muon import Muon
from tools.small_sdxl.recording import Recorder, Working, follow
from tools.small_sdxl.sources import LatentSource
from tools.small_sdxl.text_training import encode_text
from tools.small_sdxl.vocabulary import empty_caption

EDGES = (0, 250, 500, 750, 999, 1000)
#: Latent rows and columns of pictures that are no squares of 512, and the share of the steps that each gets.
OTHER_SIZES: dict[tuple[int, int], float] = {
    (32, 32): 0.07,
    (24, 24): 0.03,
    (16, 24): 0.04,
    (24, 16): 0.03,
    (24, 32): 0.02,
    (32, 24): 0.02,
}


@dataclass(frozen=True)
class UnetSettings:
    """How the UNet is trained; all of it may change when a run is resumed.

    The learning rate is planned over ``steps`` or ``seconds``, whichever is used up first.
    """

    batch: int = 64
    steps: int = 6000
    seconds: float | None = None
    learning_rate: float = 2e-3
    warm_up: int = 30
    decay_from: float = 0.35
    muon: bool = True
    drop_caption: float = 0.08
    last_step_share: float = 0.25
    few_steps_share: tuple[float, float] = (0.1, 0.4)
    ema: float = 0.998
    other_sizes: dict[tuple[int, int], float] = field(default_factory=lambda: dict(OTHER_SIZES))


@dataclass
class Progress:
    """What a training step reports."""

    step: int
    loss: float
    bands: dict[int, float]
    pictures_per_second: float


def is_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon may have this weight; the first and last layers and embeddings stay with AdamW."""
    outer = ("conv_in", "conv_out", "time_embedding", "add_embedding", "time_emb_proj")
    return weight.ndim >= 2 and not any(part in name for part in outer)


class UnetTrainer:
    """One training run: the model, its optimisers, its average, and the random state, all in one checkpoint.

    On CUDA the update runs on a bfloat16 copy of the weights and is recorded as a graph, one for each size.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text: tuple[CLIPTextModel, CLIPTextModelWithProjection],
        source: LatentSource,
        settings: UnetSettings,
        device: torch.device | None = None,
        seed: int = 1,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.settings, self.source = settings, source
        self.unet = unet.eval().to(self.device)  # it has no dropout
        on_cuda = self.device.type == "cuda"
        self.working = Working(self.unet, torch.bfloat16 if on_cuda else None)
        self.dtype = torch.bfloat16 if on_cuda else torch.float32
        self.text = tuple(
            encoder.eval().requires_grad_(False).to(device=self.device, dtype=self.dtype) for encoder in text
        )
        self.empty = torch.tensor(empty_caption(), device=self.device)
        self.step = 0
        self.pictures = 0
        self.seconds = 0.0
        self.rng = random.Random(seed)
        self.noise = torch.Generator(self.device).manual_seed(seed)
        self.alphas = new_scheduler().alphas_cumprod.float().clamp(min=0.0)
        self.alphas[-1] = 0.0
        self.alphas = self.alphas.to(self.device)
        self.rate = torch.zeros((), device=self.device)
        self.keep = torch.zeros((), device=self.device)
        named = list(self.unet.named_parameters())
        matrices = [weight for name, weight in named if settings.muon and is_matrix(name, weight)]
        chosen = {id(weight) for weight in matrices}
        others = [weight for _, weight in named if id(weight) not in chosen]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                others,
                lr=self.rate if on_cuda else 0.0,
                weight_decay=0.0,
                betas=(0.9, 0.98),
                fused=True,
                capturable=on_cuda,
            )
        ]
        if matrices:
            self.optimisers.append(Muon(matrices, lr=self.rate if on_cuda else 0.0))
        self.average = [weight.detach().clone() for weight in self.unet.parameters()]
        self.update = Recorder(self._update, on_cuda)

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on as if nothing had happened."""
        return {
            "step": self.step,
            "pictures": self.pictures,
            "seconds": self.seconds,
            "unet": self.unet.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "rng": self.rng.getstate(),
            "noise": self.noise.get_state(),
            "device": self.device.type,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``; weights alone start a new plan."""
        self.unet.load_state_dict(state["unet"])
        self.average = [mean.to(self.device) for mean in state["average"]]
        self.working.push()
        if "optimisers" not in state:
            return
        self.step, self.pictures, self.seconds = state["step"], state["pictures"], state["seconds"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
            for group in optimiser.param_groups:
                group["lr"] = self.rate if self.device.type == "cuda" else 0.0
                if "capturable" in group:
                    group["capturable"] = self.device.type == "cuda"
        self.rng.setstate(state["rng"])
        if state["device"] == self.device.type:
            self.noise.set_state(state["noise"])

    def gone(self) -> float:
        """The share of the plan that is done."""
        s = self.settings
        by_time = 0.0 if s.seconds is None else self.seconds / s.seconds
        return min(1.0, max(self.step / s.steps, by_time))

    def learning_rate(self) -> float:
        """Warm-up, then constant, then a cosine down to a hundredth."""
        s = self.settings
        rest = max(0.0, (self.gone() - s.decay_from) / (1 - s.decay_from))
        low = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * rest))
        return s.learning_rate * min(low, (self.step + 1) / s.warm_up)

    def _sizes(self) -> tuple[int, int, int]:
        """Latent rows, columns and how many pictures: other sizes now and then."""
        batch, pick = self.settings.batch, self.rng.random()
        for (rows, columns), share in self.settings.other_sizes.items():
            pick -= share
            if pick < 0:
                return rows, columns, max(1, batch * 256 // (rows * columns))
        return 16, 16, batch

    def _timesteps(self, count: int) -> Tensor:
        def draw(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (count,), generator=self.noise, device=self.device)

        start, end = self.settings.few_steps_share
        last, few = self.settings.last_step_share, start + (end - start) * self.gone()
        pick = torch.rand(count, generator=self.noise, device=self.device)
        visited = 250 * draw(1, 4) - 1  # the other three of four steps
        t = torch.where(pick < last + few, visited, draw(0, 1000))
        return torch.where(pick < last, torch.full_like(t, 999), t)

    def inputs(self) -> tuple[Tensor, ...]:
        """Fresh inputs of one update: latents, text states, pooled text, timesteps, noise, sizes."""
        rows, columns, count = self._sizes()
        latents, ids = self.source(self.rng, rows, columns, count)
        pick = torch.rand(count, generator=self.noise, device=self.device)
        # Half of the dropped captions are the empty one, half are zeros: pipelines use both.
        ids = torch.where((pick < self.settings.drop_caption / 2)[:, None], self.empty, ids)
        keep = ((pick < self.settings.drop_caption / 2) | (pick >= self.settings.drop_caption)).to(self.dtype)
        noise = torch.randn(latents.shape, generator=self.noise, device=self.device)
        height, width = rows * DOWNSCALE, columns * DOWNSCALE
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        if self.device.type == "cuda":
            sizes = sizes.pin_memory().to(self.device, non_blocking=True)
        with torch.no_grad():
            states, pooled = encode_text(self.text[0], self.text[1], ids)
        said = states * keep[:, None, None], pooled * keep[:, None]
        return latents.float(), *said, self._timesteps(count), noise, sizes.expand(count, -1)

    def _update(
        self, latents: Tensor, states: Tensor, pooled: Tensor, t: Tensor, noise: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Forward, backward, optimisers and average; nothing here waits for the device."""
        signal = self.alphas[t].sqrt()[:, None, None, None]
        spread = (1 - self.alphas[t]).sqrt()[:, None, None, None]
        noisy = (signal * latents + spread * noise).to(self.dtype)
        target = signal * noise - spread * latents
        said = {"text_embeds": pooled, "time_ids": sizes}
        answer = self.working.model(
            noisy, t, encoder_hidden_states=states, added_cond_kwargs=said, return_dict=False
        )[0]
        losses = (answer.float() - target).square().mean(dim=(1, 2, 3))
        self.working.clear()
        torch.autograd.backward(losses.mean())
        self.working.pull()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        follow(self.average, list(self.unet.parameters()), self.keep)
        self.working.push()
        return t, losses.detach()

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One update; returns the timesteps and the loss of each picture."""
        inputs = self.inputs()
        self.rate.fill_(self.learning_rate())
        self.keep.fill_(min(self.settings.ema, (1 + self.step) / (10 + self.step)))
        if self.device.type != "cuda":
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = float(self.rate)
        t, losses = self.update(*inputs)
        self.step += 1
        self.pictures += len(losses)
        return t, losses

    def run(self, path: Path, save_every: float = 60.0, report_every: float = 2.0) -> Iterator[Progress]:
        """Train to the last step, saving now and then; goes on from ``path`` when it exists.

        Reports every step, on CUDA every few seconds.
        """
        saved = load_checkpoint(path)
        if saved is not None:
            self.restore(saved)
        at_start, start = self.seconds, time.monotonic()
        saved_at = reported = start
        means: dict[int, float] = {}
        before, soften = self.pictures, 0.96 if self.device.type == "cpu" else 0.5
        while self.gone() < 1:
            t, losses = self.train_step()
            now = time.monotonic()
            self.seconds = at_start + now - start
            if self.device.type == "cuda" and now - reported < report_every and self.gone() < 1:
                continue
            for lower, upper in itertools.pairwise(EDGES):
                inside = losses[(t >= lower) & (t < upper)]
                if len(inside):
                    value = inside.mean().item()
                    means[upper] = value + soften * (means.get(upper, value) - value)
            if now - saved_at > save_every or self.gone() >= 1:
                save_checkpoint(self.state(), path)
                saved_at = time.monotonic()
            rate = (self.pictures - before) / max(1e-6, now - reported)
            reported, before = now, self.pictures
            yield Progress(self.step, losses.mean().item(), dict(means), rate)
