"""What SDXL's UNet is told of pictures beside their latents: `Conditioning`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the UNet is told of one picture; one row, or two while guided (negative first).

    Attributes:
        tokens: (rows, sequence, channels), the UNet's dtype: what `DeviceWork.text_states` makes of the embeddings.
        pooled: (rows, projection channels), the UNet's dtype.
        time_ids: (rows, 6) float32: original size, crop corner, target size in pixels, height first.
        guidance_embedding: (rows, channels) for models that learned guidance as an input, else None.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor
    guidance_embedding: torch.Tensor | None

    def positive(self) -> Conditioning:
        """Without the negative row."""
        return Conditioning(self.tokens[1:], self.pooled[1:], self.time_ids[1:], self.guidance_embedding)

    def first_row(self) -> Conditioning:
        """The first row alone."""
        return Conditioning(self.tokens[:1], self.pooled[:1], self.time_ids[:1], self.guidance_embedding)

    @staticmethod
    def joined(parts: Sequence[Conditioning]) -> Conditioning:
        """All rows of `parts`, in their order.

        Args:
            parts: At least one, all equally long along the sequence.
        """
        guidance = [part.guidance_embedding for part in parts if part.guidance_embedding is not None]
        return Conditioning(
            joined_rows([part.tokens for part in parts]),
            joined_rows([part.pooled for part in parts]),
            joined_rows([part.time_ids for part in parts]),
            joined_rows(guidance) if guidance else None,
        )


def joined_rows(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The rows of all, one after another; a lone tensor is answered itself."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def guidance_embedding(guidance_scale: float, channels: int) -> torch.Tensor:
    """Sinusoids of guidance, for models distilled with guidance as an input.

    As ``StableDiffusionXLPipeline.get_guidance_scale_embedding`` of diffusers.

    Args:
        guidance_scale: As in a request.
        channels: The UNet's ``time_cond_proj_dim``.

    Returns:
        (1, channels) float32 on the CPU.
    """
    half = channels // 2
    scale = torch.tensor([guidance_scale - 1.0]) * 1000.0
    frequencies = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = scale[:, None] * frequencies[None, :]
    embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(embedding, (0, channels - 2 * half))
