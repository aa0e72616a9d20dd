"""Where the UNet's training gets its latents and token ids from: drawn on the spot, or from the workers' pool."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.small_sdxl.captions import describe
from tools.small_sdxl.drawing import render, render_small
from tools.small_sdxl.latents import PATCH, PatchBasis
from tools.small_sdxl.pool import Pool
from tools.small_sdxl.scenes import Mix, random_scene
from tools.small_sdxl.vocabulary import encode

#: Called with a random state, latent rows and columns, and how many; answers latents and token ids.
LatentSource = Callable[[random.Random, int, int, int], tuple[Tensor, Tensor]]
#: Called with a random state, the side, how many, and whether at an eighth of the size; answers pictures in
#: [-1, 1] as (batch, 3, height, width) and token ids.
PictureSource = Callable[[random.Random, int, int, bool], tuple[Tensor, Tensor]]


def drawn_now(tokenizer: Tokenizer, basis: PatchBasis, mix: Mix | None = None) -> LatentSource:
    """Draws each batch in this process: the same pictures again from the same random state."""

    def source(rng: random.Random, rows: int, columns: int, count: int) -> tuple[Tensor, Tensor]:
        scenes = [random_scene(rng, mix) for _ in range(count)]
        captions = [describe(scene, rng) for scene in scenes]
        small = np.stack([render_small(scene, columns * PATCH, rows * PATCH) for scene in scenes])
        return torch.from_numpy(basis.encode(small)), torch.tensor(encode(tokenizer, captions))

    return source


def from_pool(pool: Pool) -> LatentSource:
    """Takes each batch from the pool."""
    orders = {(o.height // PATCH, o.width // PATCH): k for k, o in enumerate(pool.feed.orders)}

    def source(rng: random.Random, rows: int, columns: int, count: int) -> tuple[Tensor, Tensor]:
        latents, ids, _ = pool.sample(orders[(rows, columns)], count)
        return latents, ids

    return source


def pictures_now(tokenizer: Tokenizer, mix: Mix | None = None) -> PictureSource:
    """Draws each batch of whole pictures in this process."""

    def source(rng: random.Random, side: int, count: int, small: bool) -> tuple[Tensor, Tensor]:
        scenes = [random_scene(rng, mix) for _ in range(count)]
        if small:  # the full size is not looked at, and costs more to draw
            drawn = np.stack([render_small(scene, side // 8, side // 8) for scene in scenes])
        else:
            drawn = np.stack([render(scene, side, side) for scene in scenes]).astype(np.float32) / 127.5 - 1
        ids = encode(tokenizer, [describe(scene, rng) for scene in scenes])
        return torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous(), torch.tensor(ids)

    return source


def pictures_from_pool(pool: Pool) -> PictureSource:
    """Takes whole pictures from the pool: mostly squares of 512, other sizes now and then."""
    weights = [order.weight for order in pool.feed.orders]
    areas = [order.width * order.height for order in pool.feed.orders]

    def source(rng: random.Random, side: int, count: int, small: bool) -> tuple[Tensor, Tensor]:
        which = 0 if small else rng.choices(range(len(weights)), weights)[0]
        pixels, ids, _ = pool.sample(which, max(2, count * areas[0] // areas[which]))
        full = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()
        return torch.nn.functional.avg_pool2d(full, 8) if small else full, ids

    return source
