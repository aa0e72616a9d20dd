"""Warms the text encoders up on the renderer's own labels, before any picture is learned.

What the UNet will see of a caption, its hidden states and its pooled embedding, has to tell every label
(subject, colour, position, size, accessory, background, light; of both figures). Without this a small UNet
ignores its text for thousands of steps.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tools.small_sdxl.captions import describe
from tools.small_sdxl.labels import LABELS, labels_of
from tools.small_sdxl.scenes import Mix, random_scene
from tools.small_sdxl.vocabulary import encode

#: Token ids and labels of a batch of captions.
Source = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TextSettings:
    """How the text encoders are warmed up."""

    steps: int = 900
    seconds: float | None = None
    batch: int = 96
    learning_rate: float = 2e-3


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


def fresh_captions(tokenizer: Tokenizer, mix: Mix | None = None, seed: int = 23) -> Source:
    """Captions written on the spot, with their labels."""
    rng = random.Random(seed)

    def source(count: int) -> tuple[Tensor, Tensor]:
        scenes = [random_scene(rng, mix) for _ in range(count)]
        rows = encode(tokenizer, [describe(scene, rng) for scene in scenes])
        longest = max(row.index(row[-1]) for row in rows) + 4  # the rest is padding: causal, so cheap to skip
        return torch.tensor(rows)[:, :longest], torch.tensor([labels_of(scene) for scene in scenes])

    return source


def warm_up(
    one: CLIPTextModel,
    two: CLIPTextModelWithProjection,
    source: Source,
    settings: TextSettings,
    device: torch.device | None = None,
    seed: int = 23,
) -> Iterator[tuple[int, float, float]]:
    """Train both encoders in place, yielding (step, loss, accuracy): of every step, on CUDA of every tenth."""
    torch.manual_seed(seed)
    reader = LabelReader(192, 128)
    for model in (one, two, reader):
        model.to(device)
    parameters = [*one.parameters(), *two.parameters(), *reader.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, fused=True)
    start = time.monotonic()
    for step in range(1, settings.steps + 1):
        gone = step / settings.steps
        if settings.seconds is not None:
            gone = max(gone, (time.monotonic() - start) / settings.seconds)
        rise, fall = gone / 0.1 + 0.02, 0.5 + 0.5 * math.cos(math.pi * min(1.0, gone))
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(rise, fall)
        ids, truth = source(settings.batch)
        with torch.autocast("cuda", torch.bfloat16, enabled=ids.device.type == "cuda"):
            by_state, by_pooled = reader(*encode_text(one, two, ids))
        loss = torch.stack(
            [
                nn.functional.cross_entropy(scores.float(), truth[:, k])
                for heads in (by_state, by_pooled)
                for k, scores in enumerate(heads)
            ]
        ).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 10 == 0 or gone >= 1 or ids.device.type == "cpu":
            right = [scores.argmax(-1) == truth[:, k] for k, scores in enumerate(by_state)]
            yield step, loss.item(), torch.stack(right).float().mean().item()
        if gone >= 1:
            break
    for model in (one, two):
        model.to("cpu")
