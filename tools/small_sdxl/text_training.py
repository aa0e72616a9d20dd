"""Warms the text encoders up on the renderer's own labels, before any picture is learned.

What the UNet will see of a caption, its hidden states and its pooled embedding, has to tell every label
(subject, colour, position, size, accessory, background; of both figures). Without this a small UNet
ignores its text for thousands of steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tools.small_sdxl.captions import describe
from tools.small_sdxl.scenes import (
    ACCESSORIES,
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    SIZES,
    SUBJECTS,
    Mix,
    Scene,
    random_scene,
)
from tools.small_sdxl.vocabulary import encode

LABELS: Final[dict[str, tuple[str, ...]]] = {
    "subject": SUBJECTS,
    "colour": ("", *COLOURS),
    "position": ("", *POSITIONS),
    "size": ("", *SIZES),
    "accessory": ("", *ACCESSORIES),
    "background": ("", *BACKGROUNDS),
    "second subject": ("", *SUBJECTS),
    "second colour": ("", *COLOURS),
}


def labels_of(scene: Scene) -> list[int]:
    """The index of each label of a scene, in the order of ``LABELS``."""
    first, *rest = scene.figures
    second = rest[0] if rest else None
    values = (
        first.subject,
        first.colour or "",
        first.position or "",
        first.size or "",
        first.accessory or "",
        scene.background or "",
        second.subject if second else "",
        (second.colour or "") if second else "",
    )
    return [names.index(value) for names, value in zip(LABELS.values(), values, strict=True)]


def encode_text(one: CLIPTextModel, two: CLIPTextModelWithProjection, ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the pipeline hands to the UNet: penultimate hidden states side by side, and the pooled embedding."""
    first = one(ids, output_hidden_states=True).hidden_states[-2]
    second = two(ids, output_hidden_states=True)
    return torch.cat([first, second.hidden_states[-2]], dim=-1), second.text_embeds


class LabelReader(nn.Module):
    """Reads the labels, once from the hidden states by attention and once from the pooled embedding."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(LABELS), width) * 0.1)
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.from_states = nn.ModuleList(nn.Linear(width, len(names)) for names in LABELS.values())
        self.from_pooled = nn.ModuleList(nn.Linear(pooled, len(names)) for names in LABELS.values())

    def forward(self, states: Tensor, pooled: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Scores of every label, from the states and from the pooled embedding."""
        weights = (self.queries @ self.keys(states).transpose(1, 2) / states.shape[-1] ** 0.5).softmax(-1)
        read = weights @ self.values(states)
        by_state = [head(read[:, k]) for k, head in enumerate(self.from_states)]
        return by_state, [head(pooled) for head in self.from_pooled]


def warm_up(
    one: CLIPTextModel,
    two: CLIPTextModelWithProjection,
    tokenizer: Tokenizer,
    steps: int,
    batch: int = 96,
    seed: int = 23,
) -> Iterator[tuple[float, float]]:
    """Train both encoders in place, yielding (loss, accuracy) of every step."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    mix = Mix(shapes=0.35, accessories=0.15, pairs=0.25)
    reader = LabelReader(192, 128)
    parameters = [*one.parameters(), *two.parameters(), *reader.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        scenes = [random_scene(rng, mix) for _ in range(batch)]
        rows = encode(tokenizer, [describe(scene, rng) for scene in scenes])
        longest = max(row.index(row[-1]) for row in rows) + 4  # the rest is padding: causal, so cheap to skip
        ids = torch.tensor(rows)[:, :longest]
        truth = torch.tensor([labels_of(scene) for scene in scenes])
        by_state, by_pooled = reader(*encode_text(one, two, ids))
        loss = torch.stack(
            [
                nn.functional.cross_entropy(scores, truth[:, k])
                for heads in (by_state, by_pooled)
                for k, scores in enumerate(heads)
            ]
        ).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        right = torch.stack([scores.argmax(-1) == truth[:, k] for k, scores in enumerate(by_state)]).float()
        yield loss.item(), right.mean().item()
