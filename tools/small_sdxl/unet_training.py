"""Trains the UNet: v-prediction with zero terminal signal, on pictures drawn on the fly.

With zero terminal signal the step at t = 999 sees no picture at all: it is the plain regression of the
picture from its caption, and at four steps it decides most. So high t weighs more at first.
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

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tools.small_sdxl.architecture import DOWNSCALE, new_scheduler
from tools.small_sdxl.captions import describe
from tools.small_sdxl.checkpoint import load_checkpoint, save_checkpoint
from tools.small_sdxl.drawing import render_small
from tools.small_sdxl.latents import PATCH, PatchBasis
from tools.small_sdxl.muon import Muon
from tools.small_sdxl.scenes import Mix, random_scene
from tools.small_sdxl.text_training import encode_text
from tools.small_sdxl.vocabulary import encode

EDGES = (0, 250, 500, 750, 999, 1000)


@dataclass(frozen=True)
class UnetSettings:
    """How the UNet is trained; all of it may change when a run is resumed.

    The learning rate is planned over ``steps``; a stage of a longer plan stops at ``until``.
    """

    batch: int = 64
    steps: int = 6000
    until: int | None = None
    learning_rate: float = 1e-3
    warm_up: int = 30
    decay_from: float = 0.6
    muon: bool = True
    drop_caption: float = 0.08
    last_step_share: float = 0.3
    few_steps_share: float = 0.0
    ema: float = 0.998
    other_sizes: float = 0.0
    compile: bool = False
    mix: Mix = field(default_factory=Mix)


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
    """One training run: the model, its optimisers, its average, and the random state, all in one checkpoint."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text: tuple[CLIPTextModel, CLIPTextModelWithProjection],
        tokenizer: Tokenizer,
        basis: PatchBasis,
        settings: UnetSettings,
        seed: int = 1,
    ) -> None:
        self.settings = settings
        self.unet = unet.train()
        for encoder in text:
            encoder.eval().requires_grad_(False)
        self.text = text
        self.tokenizer = tokenizer
        self.basis = basis
        self.step = 0
        self.pictures = 0
        self.seconds = 0.0
        self.rng = random.Random(seed)
        self.noise = torch.Generator().manual_seed(seed)
        self.alphas = new_scheduler().alphas_cumprod.float().clamp(min=0.0)
        self.alphas[-1] = 0.0
        named = list(unet.named_parameters())
        matrices = [weight for name, weight in named if settings.muon and is_matrix(name, weight)]
        chosen = {id(weight) for weight in matrices}
        others = [weight for _, weight in named if id(weight) not in chosen]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                others, lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True
            )
        ]
        if matrices:
            self.optimisers.append(Muon(matrices, lr=settings.learning_rate))
        self.average = [weight.detach().clone() for weight in unet.parameters()]
        self.forward: Any = torch.compile(unet) if settings.compile else unet

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
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.step, self.pictures, self.seconds = state["step"], state["pictures"], state["seconds"]
        self.unet.load_state_dict(state["unet"])
        self.average = state["average"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.rng.setstate(state["rng"])
        self.noise.set_state(state["noise"])

    def learning_rate(self) -> float:
        """Warm-up, then constant, then a cosine down to a fiftieth."""
        s = self.settings
        if self.step < s.warm_up:
            return s.learning_rate * (self.step + 1) / s.warm_up
        gone = self.step / s.steps
        if gone < s.decay_from:
            return s.learning_rate
        rest = min(1.0, (gone - s.decay_from) / (1 - s.decay_from))
        return s.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * rest)))

    def _sizes(self) -> tuple[int, int, int]:
        """Latent rows, columns and how many pictures: other sizes now and then."""
        batch = self.settings.batch
        if self.rng.random() >= self.settings.other_sizes:
            return 16, 16, batch
        rows, columns = self.rng.choice(
            ((32, 32), (32, 32), (16, 24), (24, 16), (24, 24), (32, 16), (16, 32))
        )
        return rows, columns, max(4, batch * 256 // (rows * columns))

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw fresh pictures: latents, text states, pooled text, size conditioning."""
        rows, columns, count = self._sizes()
        scenes = [random_scene(self.rng, self.settings.mix) for _ in range(count)]
        captions = [describe(scene, self.rng) for scene in scenes]
        small = np.stack([render_small(scene, columns * PATCH, rows * PATCH) for scene in scenes])
        latents = torch.from_numpy(self.basis.encode(small))
        kept = [self.rng.random() >= self.settings.drop_caption for _ in scenes]
        captions = [
            c if keep or self.rng.random() < 0.5 else "" for c, keep in zip(captions, kept, strict=True)
        ]
        with torch.no_grad():
            states, pooled = encode_text(*self.text, torch.tensor(encode(self.tokenizer, captions)))
        # Half of the dropped captions are the empty one, half are zeros: pipelines use both.
        keep = torch.tensor([k or c == "" for k, c in zip(kept, captions, strict=True)], dtype=torch.float32)
        height, width = rows * DOWNSCALE, columns * DOWNSCALE
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * count, dtype=torch.float32)
        return latents, states * keep[:, None, None], pooled * keep[:, None], sizes

    def _timesteps(self, count: int) -> Tensor:
        last, few = self.settings.last_step_share, self.settings.few_steps_share
        pick = torch.rand(count, generator=self.noise)
        t = torch.randint(0, 1000, (count,), generator=self.noise)
        visited = (
            250 * torch.randint(1, 4, (count,), generator=self.noise) - 1
        )  # the other three of four steps
        t = torch.where(pick < last + few, visited, t)
        return torch.where(pick < last, torch.full_like(t, 999), t)

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One update; returns the timesteps and the loss of each picture."""
        latents, states, pooled, sizes = self.batch()
        t = self._timesteps(len(latents))
        signal = self.alphas[t].sqrt()[:, None, None, None]
        spread = (1 - self.alphas[t]).sqrt()[:, None, None, None]
        noise = torch.randn(latents.shape, generator=self.noise)
        noisy = (signal * latents + spread * noise).contiguous(memory_format=torch.channels_last)
        target = signal * noise - spread * latents
        said = {"text_embeds": pooled, "time_ids": sizes}
        answer = self.forward(
            noisy, t, encoder_hidden_states=states, added_cond_kwargs=said, return_dict=False
        )[0]
        losses = (answer - target).square().mean(dim=(1, 2, 3))
        loss = losses.mean()
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate()
            optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [w.detach() for w in self.unet.parameters()], 1 - keep)
        self.step += 1
        self.pictures += len(latents)
        return t, losses.detach()

    def run(self, path: Path, save_every: float = 150.0) -> Iterator[Progress]:
        """Train to the last step, saving now and then; goes on from ``path`` when it exists."""
        saved = load_checkpoint(path)
        if saved is not None:
            self.restore(saved)
        last_save = time.monotonic()
        means: dict[int, float] = {}
        end = self.settings.until or self.settings.steps
        while self.step < end:
            start = time.monotonic()
            before = self.pictures
            t, losses = self.train_step()
            spent = time.monotonic() - start
            self.seconds += spent
            for lower, upper in itertools.pairwise(EDGES):
                inside = losses[(t >= lower) & (t < upper)]
                if len(inside):
                    value = inside.mean().item()
                    means[upper] = value + 0.96 * (means.get(upper, value) - value)
            if time.monotonic() - last_save > save_every or self.step == end:
                save_checkpoint(self.state(), path)
                last_save = time.monotonic()
            yield Progress(self.step, losses.mean().item(), dict(means), (self.pictures - before) / spent)
