"""What a picture can show: the vocabulary, and scenes drawn at random from it.

A scene is a plain description (who, which colour, where, on what). ``drawing`` turns it into pixels and
``captions`` into words. What a scene leaves unsaid has one fixed default, so that a caption nearly
determines its picture: that is what lets a small network learn from few pictures.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from typing import Final

Rgb = tuple[int, int, int]

COLOURS: Final[dict[str, Rgb]] = {
    "red": (220, 40, 45),
    "orange": (245, 135, 30),
    "yellow": (250, 212, 45),
    "green": (50, 160, 70),
    "blue": (45, 95, 215),
    "purple": (135, 65, 180),
    "pink": (246, 140, 185),
    "brown": (135, 85, 50),
    "black": (35, 35, 42),
    "white": (250, 250, 250),
    "gray": (140, 145, 150),
    "turquoise": (50, 195, 195),
}

SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "diamond")
ANIMALS: Final = ("cat", "dog", "panda", "bear", "rabbit", "frog", "fish")
PEOPLE: Final = ("astronaut", "robot")
THINGS: Final = ("house", "tree", "flower", "boat", "car", "mushroom", "umbrella", "moon", "sun")
SUBJECTS: Final = SHAPES + ANIMALS + PEOPLE + THINGS

#: The colour a subject has when none is said.
OWN_COLOUR: Final[dict[str, str]] = {
    "circle": "blue",
    "square": "green",
    "triangle": "orange",
    "star": "yellow",
    "heart": "red",
    "diamond": "turquoise",
    "cat": "orange",
    "dog": "brown",
    "panda": "white",
    "bear": "brown",
    "rabbit": "gray",
    "frog": "green",
    "fish": "orange",
    "astronaut": "white",
    "robot": "gray",
    "house": "yellow",
    "tree": "green",
    "flower": "pink",
    "boat": "red",
    "car": "red",
    "mushroom": "red",
    "umbrella": "purple",
    "moon": "yellow",
    "sun": "yellow",
}
#: Subjects whose colour is part of what they are: no other is ever said.
FIXED_COLOUR: Final = frozenset({"panda", "sun"})
#: Who can wear something on the head.
WEARERS: Final = frozenset({"cat", "dog", "panda", "bear", "rabbit", "frog", "astronaut", "robot"})
ACCESSORIES: Final = ("headphones", "hat")

SCENERY: Final = ("meadow", "beach", "night", "snow", "city", "sea", "desert", "room")
PLAIN: Final = tuple(f"plain {name}" for name in COLOURS)
BACKGROUNDS: Final = SCENERY + PLAIN
POSITIONS: Final = ("centre", "left", "right", "top", "bottom")
SIZES: Final = ("small", "medium", "large")


@dataclass(frozen=True)
class Figure:
    """One subject of a scene; None means that the caption does not say it."""

    subject: str
    colour: str | None = None
    position: str | None = None
    size: str | None = None
    accessory: str | None = None

    @property
    def shown_colour(self) -> str:
        """The colour that is drawn."""
        return self.colour or OWN_COLOUR[self.subject]


@dataclass(frozen=True)
class Scene:
    """All that decides a picture: the figures, the background, and the seed of its small variations."""

    figures: tuple[Figure, ...]
    background: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Mix:
    """How often each kind of scene is drawn (the rest are single subjects that are no shapes)."""

    shapes: float = 0.65
    accessories: float = 0.05
    pairs: float = 0.05


def clashes(figure: Figure, background: str | None) -> bool:
    """Whether a figure could not be seen against this background."""
    return background == f"plain {figure.shown_colour}"


def is_held_out(scene: Scene) -> bool:
    """Whether this combination is kept for the evaluation and never trained on.

    One in twelve combinations of subject, said colour, background and said position, chosen by a hash, so
    that it never depends on the order in which scenes are drawn.
    """
    if len(scene.figures) != 1 or scene.background is None or scene.figures[0].colour is None:
        return False
    figure = scene.figures[0]
    key = f"{figure.subject}/{figure.colour}/{scene.background}/{figure.position or 'centre'}"
    return zlib.crc32(key.encode()) % 12 == 0


def _background(rng: random.Random) -> str | None:
    pick = rng.random()
    if pick < 0.55:
        return rng.choice(SCENERY)
    return rng.choice(PLAIN) if pick < 0.93 else None


def _figure(rng: random.Random, subject: str, accessory: str | None = None) -> Figure:
    colour = None
    says_colour = 0.95 if subject in SHAPES else 0.6
    if subject not in FIXED_COLOUR and rng.random() < says_colour:
        colour = rng.choice(tuple(COLOURS))
    position = rng.choice(POSITIONS) if rng.random() < 0.7 else None
    size = rng.choice(SIZES) if rng.random() < 0.25 else None
    return Figure(subject, colour, position, size, accessory)


def _propose(rng: random.Random, mix: Mix) -> Scene:
    background = _background(rng)
    pick = rng.random()
    if pick < mix.pairs:
        first, second = (rng.choice(SUBJECTS if rng.random() < 0.5 else SHAPES) for _ in range(2))
        figures = tuple(
            Figure(
                name,
                None if name in FIXED_COLOUR or rng.random() < 0.25 else rng.choice(tuple(COLOURS)),
                side,
            )
            for name, side in ((first, "left"), (second, "right"))
        )
    elif pick < mix.pairs + mix.accessories:
        wearer = rng.choice([name for name in SUBJECTS if name in WEARERS])
        figures = (_figure(rng, wearer, rng.choice(ACCESSORIES)),)
    elif pick < mix.pairs + mix.accessories + mix.shapes:
        figures = (_figure(rng, rng.choice(SHAPES)),)
    else:
        figures = (_figure(rng, rng.choice(ANIMALS + PEOPLE + THINGS)),)
    return Scene(figures, background, rng.getrandbits(31))


def random_scene(rng: random.Random, mix: Mix | None = None) -> Scene:
    """Draw one training scene: visible against its background, and not held out."""
    mix = mix or Mix()
    while True:
        scene = _propose(rng, mix)
        if not is_held_out(scene) and not any(clashes(figure, scene.background) for figure in scene.figures):
            return scene


def held_out_scenes(count: int, seed: int = 2026, subjects: tuple[str, ...] = SHAPES) -> list[Scene]:
    """The first ``count`` held-out scenes of a seeded shuffle: each says subject, colour, background, position."""
    rng = random.Random(seed)
    every = [
        Scene((Figure(subject, colour, position),), background, rng.getrandbits(31))
        for subject in subjects
        if subject not in FIXED_COLOUR
        for colour in COLOURS
        for background in BACKGROUNDS
        for position in POSITIONS
    ]
    kept = [s for s in every if is_held_out(s) and not clashes(s.figures[0], s.background)]
    rng.shuffle(kept)
    return kept[:count]
