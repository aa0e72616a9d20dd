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

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from tools.small_sdxl.architecture import VAE
from tools.small_sdxl.checkpoint import load_checkpoint, save_checkpoint
from tools.small_sdxl.denoising import LastStep
from tools.small_sdxl.latents import PatchBasis
from tools.small_sdxl.muon import Muon
from tools.small_sdxl.pool import patch_latents
from tools.small_sdxl.recording import Recorder, Working, follow
from tools.small_sdxl.sources import PictureSource

Stage = Literal["low", "high", "full", "polish", "encoder"]


@dataclass(frozen=True)
class VaeSettings:
    """How one stage of the VAE is trained; the learning rate falls over ``steps`` or ``seconds``."""

    stage: Stage
    steps: int
    batch: int
    side: int = 512
    seconds: float | None = None
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
        source: PictureSource,
        settings: VaeSettings,
        device: torch.device | None = None,
        seed: int = 5,
        last_step: LastStep | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.device = device or torch.device("cpu")
        self.last_step, self.source, self.settings = last_step, source, settings
        self.mean = torch.from_numpy(basis.mean).to(self.device)
        self.projection = torch.from_numpy(basis.encoder).to(self.device)
        self.vae = vae.eval().to(self.device)
        self.trunk = DecoderTrunk(vae).to(self.device)
        on_cuda = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if on_cuda else torch.float32
        trained: nn.Module = vae.encoder if settings.stage == "encoder" else self.trunk
        self.working = Working(trained, torch.bfloat16 if on_cuda else None)
        self.rng = random.Random(seed)
        self.noise = torch.Generator(self.device).manual_seed(seed)
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
        self.rate = torch.zeros((), device=self.device)
        self.keep = torch.zeros((), device=self.device)
        rate: Any = self.rate if on_cuda else 0.0
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True, capturable=on_cuda
            )
        ]
        if matrices:
            self.optimisers.append(Muon(matrices, lr=rate))
        self.average = [weight.detach().clone() for weight in self.weights]
        self.update = Recorder(self._update, on_cuda)

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
            "device": self.device.type,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state`` of the same stage; weights alone start it anew."""
        self.restore_weights(state)
        if "optimisers" not in state:
            return
        self.step, self.seconds = state["step"], state["seconds"]
        self.average = [mean.to(self.device) for mean in state["average"]]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
            for group in optimiser.param_groups:
                group["lr"] = self.rate if self.device.type == "cuda" else 0.0
                if "capturable" in group:
                    group["capturable"] = self.device.type == "cuda"
        self.rng.setstate(state["rng"])
        if state["device"] == self.device.type:
            self.noise.set_state(state["noise"])

    def restore_weights(self, state: dict[str, Any]) -> None:
        """Start from what an earlier stage learned."""
        self.vae.load_state_dict(state["vae"])
        if "head" in state:  # it is thrown away in the end
            self.trunk.head.load_state_dict(state["head"])
        self.average = [weight.detach().clone() for weight in self.weights]
        self.working.push()

    def finish(self, path: Path) -> None:
        """Put the average in place of the weights, and save that as the stage's result."""
        with torch.no_grad():
            for weight, mean in zip(self.weights, self.average, strict=True):
                weight.copy_(mean)
        save_checkpoint(self.state(), path)

    def gone(self) -> float:
        """The share of the stage that is done."""
        s = self.settings
        by_time = 0.0 if s.seconds is None else self.seconds / s.seconds
        return min(1.0, max(self.step / s.steps, by_time))

    def learning_rate(self) -> float:
        """Warm-up, then a cosine down to a twentieth."""
        s = self.settings
        low = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * self.gone()))
        return s.learning_rate * min(low, (self.step + 1) / s.warm_up)

    def inputs(self) -> tuple[Tensor, ...]:
        """What goes into the trained part, and what should come out of it."""
        s = self.settings
        full, ids = self.source(self.rng, s.side, s.batch, s.stage == "low")
        small = full if s.stage == "low" else nn.functional.avg_pool2d(full, 8)
        latents = patch_latents(small.permute(0, 2, 3, 1), self.mean, self.projection)
        if s.stage == "encoder":
            return full.to(self.dtype), latents
        # Half of the batch is decoded from latents as noisy as the UNet's own.
        spread = torch.rand(len(latents), 1, 1, 1, generator=self.noise, device=self.device) * s.noise
        spread[::2] = 0
        noise = torch.randn(latents.shape, generator=self.noise, device=self.device)
        noisy = latents + spread * noise
        if self.last_step is not None:
            noisy[1::2] = self.last_step(latents[1::2], ids[1::2], self.noise)
        return noisy.to(self.dtype), small if s.stage == "low" else full

    def _update(self, given: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Forward, backward, optimisers and average; answers the loss and the clean half's squared error."""
        stage, model = self.settings.stage, self.working.model
        if stage == "encoder":
            answer = model(given)[:, : target.shape[1]]
        elif stage == "low":
            answer = model(given)
        else:
            with torch.set_grad_enabled(stage != "high"):
                features = model.features(given)
            answer = model.sharpen(features)
        away = answer.float() - target
        self.working.clear()
        loss = away.square().mean() + 0.1 * away.abs().mean()
        torch.autograd.backward(loss)
        self.working.pull()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        follow(self.average, self.weights, self.keep)
        self.working.push()
        return loss.detach(), away.detach()[::2].square().mean()

    def run(
        self, path: Path, save_every: float = 120.0, report_every: float = 2.0
    ) -> Iterator[tuple[int, float, float]]:
        """Train to the last step, yielding (step, loss, dB); goes on from ``path`` when it exists.

        Reports every step, on CUDA every few seconds.
        """
        saved = load_checkpoint(path)
        if saved is not None:
            self.restore(saved)
        at_start, start = self.seconds, time.monotonic()
        saved_at = reported = start
        peak = 1.0 if self.settings.stage == "encoder" else 4.0
        while self.gone() < 1:
            self.rate.fill_(self.learning_rate())
            self.keep.fill_(min(self.settings.ema, (1 + self.step) / (10 + self.step)))
            if self.device.type != "cuda":
                for optimiser in self.optimisers:
                    for group in optimiser.param_groups:
                        group["lr"] = float(self.rate)
            loss, clean = self.update(*self.inputs())
            self.step += 1
            now = time.monotonic()
            self.seconds = at_start + now - start
            if self.device.type == "cuda" and now - reported < report_every and self.gone() < 1:
                continue
            reported = now
            if now - saved_at > save_every or self.gone() >= 1:
                save_checkpoint(self.state(), path)
                saved_at = time.monotonic()
            yield self.step, loss.item(), 10 * math.log10(peak / max(1e-12, clean.item()))
