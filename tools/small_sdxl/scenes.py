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
ANIMALS: Final = ("cat", "dog", "panda", "bear", "rabbit", "frog", "fish", "bird", "butterfly")
PEOPLE: Final = ("astronaut", "robot", "woman", "man")
THINGS: Final = (
    "house", "tree", "flower", "boat", "car", "mushroom", "umbrella", "moon", "sun", "rocket", "castle", "apple",
)  # fmt: skip
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
    "bird": "blue",
    "butterfly": "orange",
    "woman": "red",
    "man": "blue",
    "rocket": "white",
    "castle": "gray",
    "apple": "red",
}
#: Subjects whose colour is part of what they are: no other is ever said.
FIXED_COLOUR: Final = frozenset({"panda", "sun"})
#: Who can wear something.
WEARERS: Final = frozenset(
    {"cat", "dog", "panda", "bear", "rabbit", "frog", "astronaut", "robot", "woman", "man"}
)
ACCESSORIES: Final = ("headphones", "hat", "crown", "scarf", "sunglasses")

SCENERY: Final = (
    "meadow", "beach", "night", "space", "lunar", "snow", "city", "sea", "underwater", "desert", "room", "forest",
    "mountains",
)  # fmt: skip
#: Scenery whose light and weather can change.
OUTDOORS: Final = ("meadow", "beach", "snow", "city", "sea", "desert", "forest", "mountains")
#: Scenery without a ground to throw a shadow on.
FLOATING: Final = frozenset({"night", "space", "sea", "underwater"})
PLAIN: Final = tuple(f"plain {name}" for name in COLOURS)
BACKGROUNDS: Final = SCENERY + PLAIN
POSITIONS: Final = ("centre", "left", "right", "top", "bottom")
SIZES: Final = ("small", "medium", "large")
RELATIONS: Final = ("beside", "above", "front")
WEATHERS: Final = ("rain", "snowfall", "clouds", "rainbow")
TIMES: Final = ("sunset", "dawn", "night")
STYLES: Final = ("black and white", "sepia", "pastel", "pixel art", "sketch")


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
    """All that decides a picture: the figures, the background, and the seed of its small variations.

    Without figures it is a background alone; ``unknown`` then says whether its caption names something that
    cannot be drawn.
    """

    figures: tuple[Figure, ...]
    background: str | None = None
    seed: int = 0
    weather: str | None = None
    time: str | None = None
    style: str | None = None
    relation: str | None = None
    unknown: bool = False


@dataclass(frozen=True)
class Mix:
    """How often each kind of scene is drawn (the rest are single subjects that are no shapes)."""

    shapes: float = 0.2
    accessories: float = 0.14
    pairs: float = 0.2
    empty: float = 0.06
    atmosphere: float = 0.3


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
    return rng.choice(PLAIN) if pick < 0.85 else None


def _figure(rng: random.Random, subject: str, accessory: str | None = None) -> Figure:
    colour = None
    says_colour = 0.95 if subject in SHAPES else 0.6
    if subject not in FIXED_COLOUR and rng.random() < says_colour:
        colour = rng.choice(tuple(COLOURS))
    position = rng.choice(POSITIONS) if rng.random() < 0.7 else None
    size = rng.choice(SIZES) if rng.random() < 0.25 else None
    return Figure(subject, colour, position, size, accessory)


def _said_colour(rng: random.Random, subject: str) -> str | None:
    return None if subject in FIXED_COLOUR or rng.random() < 0.3 else rng.choice(tuple(COLOURS))


def _pair(rng: random.Random) -> tuple[str, tuple[Figure, ...]]:
    """Two figures and how they stand to each other; now and then two of a kind."""
    relation = rng.choices(RELATIONS, (0.7, 0.15, 0.15))[0]
    first, second = (rng.choice(SUBJECTS if rng.random() < 0.8 else SHAPES) for _ in range(2))
    sides = {"beside": ("left", "right"), "above": ("top", "bottom"), "front": (None, None)}[relation]
    colours = [_said_colour(rng, first), _said_colour(rng, second)]
    if relation == "beside" and rng.random() < 0.1:
        second, colours[1] = first, colours[0]
    names = zip((first, second), colours, sides, strict=True)
    return relation, tuple(Figure(name, colour, side) for name, colour, side in names)


def _propose(rng: random.Random, mix: Mix) -> Scene:
    background = _background(rng)
    relation, unknown = None, False
    figures: tuple[Figure, ...]
    pick = rng.random()
    if pick < mix.pairs:
        relation, figures = _pair(rng)
    elif pick < mix.pairs + mix.accessories:
        wearer = rng.choice([name for name in SUBJECTS if name in WEARERS])
        figures = (_figure(rng, wearer, rng.choice(ACCESSORIES)),)
    elif pick < mix.pairs + mix.accessories + mix.empty:
        figures, unknown = (), rng.random() < 0.7
    elif pick < mix.pairs + mix.accessories + mix.empty + mix.shapes:
        figures = (_figure(rng, rng.choice(SHAPES)),)
    else:
        figures = (_figure(rng, rng.choice(ANIMALS + PEOPLE + THINGS)),)
    weather = time = style = None
    if rng.random() < mix.atmosphere:
        if background in OUTDOORS or background is None:
            kind = rng.random()
            if kind < 0.55:
                time = rng.choice(TIMES if background else ("sunset", "dawn"))
            if kind > 0.45:
                weather = rng.choice(WEATHERS)
        if rng.random() < 0.35:
            style = rng.choice(STYLES)
    if not figures and not unknown and background is None and weather is None and time is None:
        background = rng.choice(BACKGROUNDS)
    return Scene(figures, background, rng.getrandbits(31), weather, time, style, relation, unknown)


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
