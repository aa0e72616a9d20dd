"""What arrives and when: `Workload`, and `trace`, its seeded Poisson arrivals."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SUBJECTS = ("circle", "square", "star", "heart", "cat", "dog", "house", "tree", "boat")
GUIDANCE_SCALE = 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What stock diffusers can draw in one call when it is equal.

    Attributes:
        width: Pixels.
        height: Pixels.
        steps: Denoising steps.
        guidance_scale: Guided above 1.
    """

    width: int
    height: int
    steps: int
    guidance_scale: float

    @property
    def guided(self) -> bool:
        """Whether each picture has two rows."""
        return self.guidance_scale > 1.0

    def __str__(self) -> str:
        return f"{self.width}x{self.height}:{self.steps}:{self.guidance_scale:g}"


@dataclass(frozen=True, slots=True)
class Job:
    """One request for one picture.

    Attributes:
        number: Its place in the trace, from 0.
        at_s: Seconds after the start at which it arrives.
        kind: What to draw.
        prompt: Unlike any other of the run, so that no cache of text embeddings helps anybody.
        seed: Of the first latents.
    """

    number: int
    at_s: float
    kind: Kind
    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Kinds of requests, all equally frequent.

    Attributes:
        name: For the command line and file names.
        title: For people.
        kinds: What arrives.
    """

    name: str
    title: str
    kinds: tuple[Kind, ...]


def sweeps(side: int) -> tuple[Workload, ...]:
    """The workloads that are measured over a range of loads.

    Args:
        side: Pixels of a square picture's side; a multiple of 64.
    """
    wide, narrow = side * 5 // 4, side * 3 // 4
    shapes = ((side, side), (wide, narrow), (narrow, wide))
    return (
        Workload(
            "few-steps", "1, 2 or 4 steps, unguided", tuple(Kind(side, side, n, 0.0) for n in (1, 2, 4))
        ),
        Workload(
            "guided",
            "10, 20 or 50 steps, guided",
            tuple(Kind(side, side, n, GUIDANCE_SCALE) for n in (10, 20, 50)),
        ),
        Workload(
            "mixed-shapes",
            "three shapes, 4 steps, unguided",
            tuple(Kind(width, height, 4, 0.0) for width, height in shapes),
        ),
    )


def trace(
    kinds: Sequence[Kind], requests: int, rate_per_s: float, *, seed: int, label: str = ""
) -> list[Job]:
    """Poisson arrivals; the same ones, only faster or slower, for every rate.

    So that a short trace has the rate and the mix it is named after, the gaps are scaled to a mean of exactly
    ``1 / rate_per_s``, and each kind comes equally often, in random order.

    Args:
        kinds: What arrives.
        requests: How many.
        rate_per_s: Mean arrivals per second.
        seed: Of all that is random.
        label: Goes into the prompts: runs with different labels share none.
    """
    chance = random.Random(seed)
    gaps = [chance.expovariate(1.0) for _ in range(requests)]
    pace = requests / (sum(gaps) * rate_per_s)
    chosen = [kinds[number % len(kinds)] for number in range(requests)]
    chance.shuffle(chosen)
    return [
        Job(
            number,
            at * pace,
            kind,
            f"a {chance.choice(COLOURS)} {chance.choice(SUBJECTS)}, {label} {number}",
            seed=chance.getrandbits(32),
        )
        for number, (at, kind) in enumerate(zip(accumulate(gaps), chosen, strict=True))
    ]
