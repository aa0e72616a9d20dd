"""Puts a scene into words: several wordings and word orders, with the trimmings people usually add."""

from __future__ import annotations

import random
from typing import Final

from tools.small_sdxl.scenes import SCENERY, Figure, Scene

COLOUR_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "gray": ("gray", "grey"),
    "turquoise": ("turquoise", "turquoise", "cyan", "teal"),
    "purple": ("purple", "purple", "violet"),
}
SUBJECT_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "circle": ("circle", "circle", "disc", "ball"),
    "square": ("square",),
    "diamond": ("diamond", "diamond", "rhombus"),
    "cat": ("cat", "cat", "kitten"),
    "dog": ("dog", "dog", "puppy"),
    "rabbit": ("rabbit", "rabbit", "bunny"),
    "bear": ("bear", "bear", "teddy bear"),
    "astronaut": ("astronaut", "astronaut", "spaceman"),
    "boat": ("boat", "sailing boat", "ship"),
    "moon": ("moon", "crescent moon"),
}
BACKGROUND_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "meadow": ("on green grass", "in a meadow", "on the grass", "on a green field", "in a park"),
    "beach": ("on the beach", "on a beach", "on the sand by the sea", "at the beach"),
    "night": ("in the night sky", "at night", "under the stars", "in space", "in a starry night"),
    "snow": ("in the snow", "on the snow", "in winter", "in snowy mountains"),
    "city": ("in the city", "in a city", "in the street", "in town"),
    "sea": ("on the sea", "in the ocean", "in the sea", "on the water"),
    "desert": ("in the desert", "in a desert", "on sand dunes"),
    "room": ("in a room", "in the room", "at home", "in the living room"),
}
POSITION_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "centre": ("in the centre", "in the middle", "in the center"),
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "in the upper part", "up high"),
    "bottom": ("at the bottom", "in the lower part", "down low"),
}
SIZE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge"),
}
WEARING_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "headphones": ("wearing headphones", "with headphones", "listening to music with headphones"),
    "hat": ("wearing a hat", "with a hat", "in a hat"),
}
LEADS: Final = (
    "a photo of ",
    "an illustration of ",
    "a picture of ",
    "a drawing of ",
    "flat illustration of ",
    "an image of ",
)
TRIMMINGS: Final = (
    "highly detailed", "8k", "4k", "sunlit", "high quality", "masterpiece", "beautiful", "digital art", "simple",
    "vector art", "best quality", "minimal", "colorful", "sharp focus", "flat design", "cute", "cartoon style",
    "trending on artstation", "soft light", "award winning",
)  # fmt: skip
PRAISE: Final = (
    "pretty",
    "cute",
    "nice",
    "lovely",
    "beautiful",
    "happy",
    "funny",
    "simple",
    "friendly",
    "old",
    "new",
)
DOINGS: Final = ("is dancing", "dancing", "sitting", "standing", "smiling", "is smiling", "looking at you")
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _colour_word(rng: random.Random, colour: str) -> str:
    return rng.choice(COLOUR_WORDS.get(colour, (colour,)))


def _name(rng: random.Random, figure: Figure, plainly: bool) -> str:
    noun = rng.choice(SUBJECT_WORDS.get(figure.subject, (figure.subject,)))
    adjectives = []
    if figure.size is not None:
        adjectives.append(rng.choice(SIZE_WORDS[figure.size]))
    if not plainly and rng.random() < 0.12:
        adjectives.append(rng.choice(PRAISE))
    after = ""
    if figure.colour is not None:
        colour = _colour_word(rng, figure.colour)
        if not plainly and rng.random() < 0.06:
            after = f" in {colour}"
        else:
            adjectives.append(colour)
    return " ".join([*adjectives, noun]) + after


def _setting(rng: random.Random, background: str) -> str:
    if background in SCENERY:
        return rng.choice(BACKGROUND_WORDS[background])
    colour = _colour_word(rng, background.removeprefix("plain "))
    return rng.choice(
        ("on {a} background", "on {a} background", "against {a} background", "with {a} background")
    ).format(a=_article(colour))


def describe(scene: Scene, rng: random.Random, plainly: bool = False) -> str:
    """Write a caption that says all that the scene says, and nothing else that matters.

    Args:
        scene: What the picture shows.
        rng: Chooses the wording.
        plainly: Leave out trimmings and unusual wordings (for evaluation).

    Returns:
        The caption, lower case.
    """
    if len(scene.figures) == 2:
        one, two = (_article(_name(rng, figure, plainly)) for figure in scene.figures)
        if rng.random() < 0.5:
            sides = [f"{one} {POSITION_WORDS['left'][0]}", f"{two} {POSITION_WORDS['right'][0]}"]
            if rng.random() < 0.4:
                sides.reverse()
            who = " and ".join(sides)
        else:
            who = rng.choice(
                (
                    f"{one} and {two}",
                    f"{one} next to {two}",
                    f"{one} beside {two}",
                    f"{one} to the left of {two}",
                )
            )
        parts = []
    else:
        figure = scene.figures[0]
        who = _article(_name(rng, figure, plainly))
        if figure.accessory is not None:
            who += " " + rng.choice(WEARING_WORDS[figure.accessory])
        elif not plainly and rng.random() < 0.06:
            who += " " + rng.choice(DOINGS)
        parts = [rng.choice(POSITION_WORDS[figure.position])] if figure.position is not None else []
    if scene.background is not None:
        parts.append(_setting(rng, scene.background))
    if rng.random() < 0.3:
        parts.reverse()
    if plainly:
        return " ".join([who, *parts])
    words = f"{parts.pop()}, {who}" if parts and rng.random() < 0.12 else who
    words = (", " if rng.random() < 0.15 else " ").join([words, *parts])
    if rng.random() < 0.2:
        words = rng.choice(LEADS) + words
    if rng.random() < 0.25:
        extra = rng.sample(TRIMMINGS, rng.randint(1, 3))
        if rng.random() < 0.2:  # words it does not know do no harm
            extra.append("".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 9))))
        words += rng.choice((", ", ". ")) + ", ".join(extra)
    if rng.random() < 0.15:
        words += "."
    return words
