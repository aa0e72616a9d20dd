"""The UNet's own last step, as a source of latents with the UNet's own errors: the decoder learns to mend them."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tools.small_sdxl.architecture import DOWNSCALE, new_scheduler
from tools.small_sdxl.text_training import encode_text


class LastStep:
    """Adds the noise of a late timestep to latents, and lets the UNet take it away again in one go."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text: tuple[CLIPTextModel, CLIPTextModelWithProjection],
        device: torch.device,
        timesteps: tuple[int, ...] = (249, 374),
    ) -> None:
        self.unet, self.device = unet.to(device), device
        self.text = text[0].to(device), text[1].to(device)
        self.timesteps = torch.tensor(timesteps, device=device)
        self.alphas = new_scheduler().alphas_cumprod.float().to(device)

    @torch.no_grad()
    def __call__(self, latents: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Latents as the UNet would have drawn them."""
        pick = torch.randint(len(self.timesteps), (len(latents),), generator=generator, device=self.device)
        t = self.timesteps[pick]
        signal = self.alphas[t].sqrt()[:, None, None, None]
        spread = (1 - self.alphas[t]).sqrt()[:, None, None, None]
        noise = torch.randn(latents.shape, generator=generator, device=self.device)
        noisy = signal * latents + spread * noise
        states, pooled = encode_text(*self.text, ids)
        height, width = latents.shape[2] * DOWNSCALE, latents.shape[3] * DOWNSCALE
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * len(latents), dtype=torch.float32)
        said = {"text_embeds": pooled, "time_ids": sizes.to(self.device)}
        velocity: Tensor = self.unet(noisy, t, encoder_hidden_states=states, added_cond_kwargs=said).sample
        answer: Tensor = signal * noisy - spread * velocity
        return answer
