"""What the load asks for: a menu of small pictures, by three ways in, in a seeded order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

PROMPTS = ("a red star on a blue background", "a yellow heart on the left", "a green cat on the beach")
STEPS = (1, 8, 25, 60)
"""Short ones and long ones share the batches; the longest are in work while something is killed."""


class Way(StrEnum):
    """How a picture is asked for."""

    BYTES = "bytes"
    OPENAI = "openai"
    JOB = "job"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes a picture. The same recipe gives the same pixels whoever draws it.

    Attributes:
        prompt: What to draw.
        num_inference_steps: Steps.
        seed: Seed.
    """

    prompt: str
    num_inference_steps: int
    seed: int

    def fields(self, pool: str | None) -> dict[str, Any]:
        """As the three formats call them, which is the same in all of them."""
        fields = {"prompt": self.prompt, "num_inference_steps": self.num_inference_steps, "seed": self.seed}
        return fields if pool is None else {**fields, "pool": pool}


MENU = tuple(Recipe(prompt, steps, seed) for seed, prompt in enumerate(PROMPTS) for steps in STEPS)


@dataclass(frozen=True, slots=True)
class Order:
    """One request of the load.

    Attributes:
        way: How it is asked for.
        recipe: What is asked for.
        key: Name of its own, for ``Idempotency-Key``.
    """

    way: Way
    recipe: Recipe
    key: str


def orders(seed: int) -> Iterator[Order]:
    """Without an end; the same seed gives the same orders (but for their keys, which are of this run)."""
    chance = random.Random(seed)
    run = f"{random.SystemRandom().randrange(2**64):x}"
    number = 0
    while True:
        number += 1
        yield Order(chance.choice(tuple(Way)), chance.choice(MENU), f"{run}-{number}")
