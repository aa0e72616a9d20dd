"""Cheap previews for any model: `LinearPreview`."""

from __future__ import annotations

import threading

import torch

_PIXELS_PER_PREVIEW_PIXEL = 8
_ENOUGH_PICTURES = 64  # learned from; the map hardly changes after a few
_RIDGE = 1e-3


class LinearPreview:
    """Decodes latents by the linear map that fits the finished pictures best.

    A VAE's latents are close to linear in the averaged colours of their patch, so least squares over the first
    finished pictures (the test picture before the replica is ready is one) gives a decoder that costs nothing and
    comes with no model. From several threads.

    Args:
        channels: Latent channels.
        downscale: Pixels a side of one latent.
    """

    def __init__(self, channels: int, downscale: int) -> None:
        self._patch = max(1, downscale // _PIXELS_PER_PREVIEW_PIXEL)
        self._pictures = 0
        size, out = channels + 1, 3 * self._patch**2
        self._gram = torch.zeros(size, size, dtype=torch.float64)
        self._target = torch.zeros(size, out, dtype=torch.float64)
        self._weights: torch.Tensor | None = None
        self._lock = threading.Lock()

    def learn(self, latents: torch.Tensor, image: torch.Tensor) -> None:
        """Takes a finished picture into account.

        Args:
            latents: (1, channels, rows, columns) float32, as decoded.
            image: (3, height, width) float32 in -1..1.
        """
        if self._pictures >= _ENOUGH_PICTURES:
            return
        rows, columns = latents.shape[-2:]
        small = torch.nn.functional.adaptive_avg_pool2d(
            image[None], (rows * self._patch, columns * self._patch)
        )
        patches = torch.nn.functional.pixel_unshuffle(small, self._patch)[0].flatten(1).T.double().cpu()
        known = _with_one(latents)
        with self._lock:
            self._pictures += 1
            self._gram += known.T @ known
            self._target += known.T @ patches
            ridge = _RIDGE * self._gram.diagonal().mean() * torch.eye(len(self._gram), dtype=torch.float64)
            self._weights = torch.linalg.solve(self._gram + ridge, self._target)

    def draw(self, latents: torch.Tensor) -> torch.Tensor | None:
        """An eighth of the picture's size a side (or the latents' size, if that is more), or None before the first.

        Args:
            latents: (1, channels, rows, columns) float32, noise-free.

        Returns:
            (height, width, 3) uint8 on the CPU.
        """
        weights = self._weights
        if weights is None:
            return None
        rows, columns = latents.shape[-2:]
        patches = (_with_one(latents) @ weights).T.reshape(1, -1, rows, columns)
        small = torch.nn.functional.pixel_shuffle(patches, self._patch)[0]
        return (small * 0.5 + 0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0)


def _with_one(latents: torch.Tensor) -> torch.Tensor:
    """(positions, channels + 1) float64 on the CPU, the last column 1."""
    flat = latents[0].flatten(1).T.double().cpu()
    return torch.cat([flat, torch.ones(len(flat), 1, dtype=torch.float64)], dim=1)
