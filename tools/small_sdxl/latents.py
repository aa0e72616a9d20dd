"""Latents without a learned encoder: principal components of 4x4 patches of the picture at an eighth.

A latent cell covers 32x32 pixels. The components are scaled by the fourth root of their variance, half
way between plain PCA (small components drown in noise) and whitening (they cost as much as large ones).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tools.small_sdxl.architecture import LATENT_CHANNELS
from tools.small_sdxl.drawing import render_small
from tools.small_sdxl.scenes import random_scene

Floats = npt.NDArray[np.float32]
PATCH = 4


def to_patches(pictures: Floats) -> Floats:
    """Cut (batch, height, width, 3) into (batch, rows, columns, 48)."""
    batch, height, width, _ = pictures.shape
    cut = pictures.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, 3).transpose(
        0, 1, 3, 2, 4, 5
    )
    return np.ascontiguousarray(cut).reshape(batch, height // PATCH, width // PATCH, PATCH * PATCH * 3)


def from_patches(patches: Floats) -> Floats:
    """Put patches back together."""
    batch, rows, columns, _ = patches.shape
    cut = patches.reshape(batch, rows, columns, PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(cut).reshape(batch, rows * PATCH, columns * PATCH, 3)


@dataclass(frozen=True)
class PatchBasis:
    """The linear map between small pictures and latents."""

    mean: Floats  # (48,)
    encoder: Floats  # (48, 16)
    decoder: Floats  # (16, 48)

    def encode(self, pictures: Floats) -> Floats:
        """Small pictures (batch, height, width, 3) in [-1, 1] to latents (batch, 16, height/4, width/4)."""
        codes = (to_patches(pictures) - self.mean) @ self.encoder
        return np.ascontiguousarray(codes.transpose(0, 3, 1, 2))

    def decode(self, latents: Floats) -> Floats:
        """Latents back to small pictures: what the VAE's decoder has to beat."""
        return from_patches(latents.transpose(0, 2, 3, 1) @ self.decoder + self.mean)

    def save(self, path: Path) -> None:
        """Write the map as JSON."""
        path.write_text(
            json.dumps({name: getattr(self, name).tolist() for name in ("mean", "encoder", "decoder")})
        )

    @classmethod
    def load(cls, path: Path) -> PatchBasis:
        """Read what ``save`` wrote."""
        data = json.loads(path.read_text())
        return cls(**{name: np.asarray(values, dtype=np.float32) for name, values in data.items()})


def fit_basis(pictures: int = 2000, seed: int = 7) -> PatchBasis:
    """Fit the components on freshly drawn pictures; all kinds of scene, so that faces count too."""
    rng = random.Random(seed)
    drawn = np.stack([render_small(random_scene(rng)) for _ in range(pictures)])
    patches = to_patches(drawn).reshape(-1, PATCH * PATCH * 3).astype(np.float64)
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((patches - mean).T))
    order = np.argsort(values)[::-1][:LATENT_CHANNELS]
    values, vectors = values[order], vectors[:, order]
    vectors *= np.sign(vectors.sum(axis=0) + 1e-9)
    scale = values**-0.25
    scale /= np.sqrt(np.mean(values * scale**2))  # unit variance over all channels
    return PatchBasis(
        mean.astype(np.float32), (vectors * scale).astype(np.float32), (vectors / scale).T.astype(np.float32)
    )


def psnr(one: Floats, other: Floats) -> float:
    """Peak signal to noise of pictures in [-1, 1], in dB."""
    return float(10 * np.log10(4 / np.mean((one - other) ** 2)))
