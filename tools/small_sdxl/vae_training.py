"""Trains the VAE around fixed latents: the decoder in stages, then the encoder.

The latents are principal components (``latents``), so decoder and encoder are plain regressions. Stage one
teaches the low levels of the decoder to undo the components at an eighth of the size, with a head of its
own: nearest-neighbour upsampling makes that the hard part, and at 64x64 it is cheap. Stage two sharpens an
eighth to full size: first the high levels alone, then all. It sees whole pictures, drawn small at first:
group normalisation looks at the whole picture, so crops would teach it the wrong statistics. At last it is
polished on what the UNet makes of latents, so that it mends the UNet's small errors.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from tools.small_sdxl.architecture import VAE
from tools.small_sdxl.captions import describe
from tools.small_sdxl.checkpoint import load_checkpoint, save_checkpoint
from tools.small_sdxl.denoising import LastStep
from tools.small_sdxl.drawing import render, render_small
from tools.small_sdxl.latents import PatchBasis
from tools.small_sdxl.muon import Muon
from tools.small_sdxl.scenes import Mix, random_scene

Stage = Literal["low", "high", "full", "polish", "encoder"]


@dataclass(frozen=True)
class VaeSettings:
    """How one stage of the VAE is trained."""

    stage: Stage
    steps: int
    batch: int
    side: int = 512
    learning_rate: float = 2e-3
    warm_up: int = 50
    noise: float = 0.08
    ema: float = 0.995
    muon: bool = True


class DecoderTrunk(nn.Module):
    """The decoder up to an eighth of the size, with a throw-away head that shows the picture there."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.decoder = vae.decoder
        self.head = nn.Conv2d(VAE["block_out_channels"][-2], 3, 3, padding=1)

    def features(self, latents: Tensor) -> Tensor:
        """What the low levels know of the picture, at an eighth."""
        decoder: Any = self.decoder
        hidden: Tensor = decoder.mid_block(decoder.conv_in(latents))
        for block in decoder.up_blocks[:2]:
            hidden = block(hidden)
        return hidden

    def sharpen(self, features: Tensor) -> Tensor:
        """The high levels: from an eighth to full size."""
        decoder: Any = self.decoder
        hidden = features
        for block in decoder.up_blocks[2:]:
            hidden = block(hidden)
        picture: Tensor = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden)))
        return picture

    def forward(self, latents: Tensor) -> Tensor:
        """The picture at an eighth."""
        picture: Tensor = self.head(self.features(latents))
        return picture


class VaeTrainer:
    """One stage: its weights, optimisers, average and random state."""

    def __init__(
        self,
        vae: AutoencoderKL,
        basis: PatchBasis,
        settings: VaeSettings,
        seed: int = 5,
        last_step: LastStep | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.last_step = last_step
        self.vae, self.basis, self.settings = vae, basis, settings
        self.trunk = DecoderTrunk(vae)
        self.rng = random.Random(seed)
        self.noise = torch.Generator().manual_seed(seed)
        self.step = 0
        self.seconds = 0.0
        decoder: Any = vae.decoder
        modules: list[nn.Module] = {
            "low": [
                decoder.conv_in,
                decoder.mid_block,
                decoder.up_blocks[0],
                decoder.up_blocks[1],
                self.trunk.head,
            ],
            "high": [*decoder.up_blocks[2:], decoder.conv_norm_out, decoder.conv_out],
            "full": [vae.decoder],
            "polish": [vae.decoder],
            "encoder": [vae.encoder],
        }[settings.stage]
        self.weights = [weight for module in modules for weight in module.parameters()]
        outer = {
            id(w)
            for layer in (decoder.conv_out, vae.encoder.conv_in, self.trunk.head)
            for w in layer.parameters()
        }
        matrices = [w for w in self.weights if settings.muon and w.ndim >= 2 and id(w) not in outer]
        chosen = {id(w) for w in matrices}
        others = [w for w in self.weights if id(w) not in chosen]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                others, lr=settings.learning_rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True
            )
        ]
        if matrices:
            self.optimisers.append(Muon(matrices, lr=settings.learning_rate))
        self.average = [weight.detach().clone() for weight in self.weights]

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on."""
        return {
            "stage": self.settings.stage,
            "step": self.step,
            "seconds": self.seconds,
            "vae": self.vae.state_dict(),
            "head": self.trunk.head.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "rng": self.rng.getstate(),
            "noise": self.noise.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state`` of the same stage."""
        self.vae.load_state_dict(state["vae"])
        self.trunk.head.load_state_dict(state["head"])
        self.step, self.seconds, self.average = state["step"], state["seconds"], state["average"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.rng.setstate(state["rng"])
        self.noise.set_state(state["noise"])

    def restore_weights(self, state: dict[str, Any]) -> None:
        """Start from what an earlier stage learned."""
        self.vae.load_state_dict(state["vae"])
        self.trunk.head.load_state_dict(state["head"])
        self.average = [weight.detach().clone() for weight in self.weights]

    def finish(self, path: Path) -> None:
        """Put the averaged weights into the model, and save it so."""
        with torch.no_grad():
            for weight, mean in zip(self.weights, self.average, strict=True):
                weight.copy_(mean)
        save_checkpoint(self.state(), path)

    def learning_rate(self) -> float:
        """Warm-up, then a cosine to a twentieth."""
        s = self.settings
        if self.step < s.warm_up:
            return s.learning_rate * (self.step + 1) / s.warm_up
        gone = min(1.0, self.step / s.steps)
        return s.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * gone)))

    def batch(self) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """Fresh pictures: at full size, at an eighth, their latents and their captions."""
        side, mix = self.settings.side, Mix(shapes=0.4, accessories=0.12, pairs=0.12)
        scenes = [random_scene(self.rng, mix) for _ in range(self.settings.batch)]
        if self.settings.stage == "low":  # the full size is not looked at, and costs more to draw
            full = small = np.stack([render_small(scene, side // 8, side // 8) for scene in scenes])
        else:
            full = np.stack([render(scene, side, side) for scene in scenes]).astype(np.float32) / 127.5 - 1
            small = full.reshape(len(full), side // 8, 8, side // 8, 8, 3).mean(axis=(2, 4))
        latents = torch.from_numpy(self.basis.encode(small))
        as_planes = [torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))) for x in (full, small)]
        return as_planes[0], as_planes[1], latents, [describe(scene, self.rng) for scene in scenes]

    def loss(self) -> tuple[Tensor, float]:
        """The loss of one batch, and its signal to noise in dB (of pictures, or of latents)."""
        full, small, latents, captions = self.batch()
        stage = self.settings.stage
        if stage == "encoder":
            moments = self.vae.encoder(full)
            answer, target = moments[:, : latents.shape[1]], latents
        else:
            # Half of the batch is decoded from latents as noisy as the UNet's own.
            spread = torch.rand(len(latents), 1, 1, 1, generator=self.noise) * self.settings.noise
            spread[::2] = 0
            noisy = latents + spread * torch.randn(latents.shape, generator=self.noise)
            if self.last_step is not None:
                noisy[1::2] = self.last_step(latents[1::2], captions[1::2], self.noise)
            if stage == "low":
                answer, target = self.trunk(noisy), small
            else:
                with torch.set_grad_enabled(stage != "high"):
                    features = self.trunk.features(noisy)
                answer, target = self.trunk.sharpen(features), full
        error = (answer - target).square().mean()
        clean = (answer[::2] - target[::2]).square().mean().item()
        peak = 1.0 if stage == "encoder" else 4.0
        return error + 0.1 * (answer - target).abs().mean(), 10 * math.log10(peak / clean)

    def run(self, path: Path, save_every: float = 120.0) -> Iterator[tuple[int, float, float]]:
        """Train to the last step, yielding (step, loss, dB); goes on from ``path`` when it exists."""
        saved = load_checkpoint(path)
        if saved is not None:
            self.restore(saved)
        last_save = time.monotonic()
        while self.step < self.settings.steps:
            start = time.monotonic()
            loss, decibels = self.loss()
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = self.learning_rate()
                optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.weights, 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
            self.step += 1
            keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [w.detach() for w in self.weights], 1 - keep)
            self.seconds += time.monotonic() - start
            if time.monotonic() - last_save > save_every or self.step == self.settings.steps:
                save_checkpoint(self.state(), path)
                last_save = time.monotonic()
            yield self.step, loss.item(), decibels
