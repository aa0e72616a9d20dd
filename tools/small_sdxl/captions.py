"""Puts a scene into words: several wordings and word orders, with the trimmings people usually add."""

from __future__ import annotations

import random

from tools.small_sdxl.scenes import SCENERY, Figure, Scene
from tools.small_sdxl.words import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    DOINGS,
    HANDLING,
    LANDSCAPE_WORDS,
    LEADS,
    LETTERS,
    POSITION_WORDS,
    PRAISE,
    RELATION_WORDS,
    SIZE_WORDS,
    STYLE_LEADS,
    STYLE_TAILS,
    SUBJECT_WORDS,
    TIME_WORDS,
    TRIMMINGS,
    UNKNOWN_NOUNS,
    WEARING_WORDS,
    WEATHER_WORDS,
)


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def _unknown(rng: random.Random) -> str:
    """A word that names nothing: an English noun, or just letters."""
    if rng.random() < 0.6:
        return rng.choice(UNKNOWN_NOUNS)
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 10)))


def _colour_word(rng: random.Random, colour: str) -> str:
    return rng.choice(COLOUR_WORDS.get(colour, (colour,)))


def _name(rng: random.Random, figure: Figure, plainly: bool) -> str:
    noun = rng.choice(SUBJECT_WORDS.get(figure.subject, (figure.subject,)))
    adjectives = []
    if figure.size is not None:
        adjectives.append(rng.choice(SIZE_WORDS[figure.size]))
    if not plainly and rng.random() < 0.15:
        adjectives.append(rng.choice(PRAISE) if rng.random() < 0.8 else _unknown(rng))
    after = ""
    if figure.colour is not None:
        colour = _colour_word(rng, figure.colour)
        if not plainly and rng.random() < 0.08:
            after = f" in {colour}"
        elif figure.subject in ("woman", "man") and rng.random() < 0.7:
            cloth = rng.choice(
                ("dress", "shirt", "coat") if figure.subject == "woman" else ("shirt", "suit", "coat")
            )
            after = f" in {article(colour)} {cloth}"
        else:
            adjectives.append(colour)
    return " ".join([*adjectives, noun]) + after


def _setting(rng: random.Random, background: str) -> str:
    if background in SCENERY:
        return rng.choice(BACKGROUND_WORDS[background])
    colour = _colour_word(rng, background.removeprefix("plain "))
    return rng.choice(
        ("on {a} background", "on {a} background", "against {a} background", "with {a} background")
    ).format(a=article(colour))


def _alone(rng: random.Random, figure: Figure, plainly: bool) -> str:
    who = article(_name(rng, figure, plainly))
    if figure.accessory is not None:
        who += " " + rng.choice(WEARING_WORDS[figure.accessory])
    elif not plainly and rng.random() < 0.14:
        thing = article(_unknown(rng))
        who += " " + (rng.choice(DOINGS) if rng.random() < 0.7 else rng.choice(HANDLING).format(thing=thing))
    return who


def _together(rng: random.Random, scene: Scene, plainly: bool) -> str:
    first, second = scene.figures
    same = (first.subject, first.colour) == (second.subject, second.colour)
    if same and scene.relation == "beside" and rng.random() < 0.7:
        plural = {"woman": "women", "man": "men", "fish": "fish"}.get(first.subject, first.subject + "s")
        colour = "" if first.colour is None else _colour_word(rng, first.colour) + " "
        return f"two {colour}{plural}"
    one, two = (article(_name(rng, figure, plainly)) for figure in scene.figures)
    if scene.relation == "beside" and rng.random() < 0.4:
        sides = [f"{one} {POSITION_WORDS['left'][0]}", f"{two} {POSITION_WORDS['right'][0]}"]
        if rng.random() < 0.4:
            sides.reverse()
        return " and ".join(sides)
    return rng.choice(RELATION_WORDS[scene.relation or "beside"]).format(one=one, two=two)


def _nobody(rng: random.Random, scene: Scene) -> tuple[str, bool]:
    """What a picture without figures is called, and whether that names its background."""
    if scene.unknown:
        word = _unknown(rng)
        if rng.random() < 0.2:
            word = f"{rng.choice(PRAISE)} {word}"
        return article(word), False
    if scene.background is None:
        return rng.choice(("a landscape", "a view", "hills")), False
    if scene.background in SCENERY:
        return rng.choice(LANDSCAPE_WORDS[scene.background]), True
    colour = _colour_word(rng, scene.background.removeprefix("plain "))
    return rng.choice((f"{article(colour)} background", f"plain {colour}", f"{article(colour)} wall")), True


def _trimmed(rng: random.Random, scene: Scene, words: str) -> str:
    """The words between leads and trimmings; a style is one or the other."""
    tails = []
    if scene.style is not None and rng.random() < 0.5:
        words = rng.choice(STYLE_LEADS[scene.style]) + words
    else:
        if scene.style is not None:
            tails.append(rng.choice(STYLE_TAILS[scene.style]))
        if rng.random() < 0.2:
            words = rng.choice(LEADS) + words
    if rng.random() < 0.25:
        tails += rng.sample(TRIMMINGS, rng.randint(1, 3))
        if rng.random() < 0.3:
            tails.append(_unknown(rng))
        if rng.random() < 0.1:
            tails.append(f"by {_unknown(rng)} {_unknown(rng)}")
        rng.shuffle(tails)
    if tails:
        words += rng.choice((", ", ", ", ". ")) + ", ".join(tails)
    if rng.random() < 0.1:
        words = words.removeprefix("a ").removeprefix("an ").replace(" a ", " ").replace(" an ", " ")
    return words + "." if rng.random() < 0.15 else words


def describe(scene: Scene, rng: random.Random, plainly: bool = False) -> str:
    """Write a caption that says all that the scene says, and nothing else that matters.

    Args:
        scene: What the picture shows.
        rng: Chooses the wording.
        plainly: Leave out trimmings and unusual wordings (for evaluation).

    Returns:
        The caption, lower case.
    """
    parts = []
    named = False
    if not scene.figures:
        who, named = _nobody(rng, scene)
    elif len(scene.figures) == 2:
        who = _together(rng, scene, plainly)
    else:
        figure = scene.figures[0]
        who = _alone(rng, figure, plainly)
        if figure.position is not None:
            parts.append(rng.choice(POSITION_WORDS[figure.position]))
    if scene.background is not None and not named:
        parts.append(_setting(rng, scene.background))
    if rng.random() < 0.3:
        parts.reverse()
    air = []
    if scene.time is not None:
        air.append(rng.choice(TIME_WORDS[scene.time]))
    if scene.weather is not None:
        air.append(rng.choice(WEATHER_WORDS[scene.weather]))
    if rng.random() < 0.5:
        air.reverse()
    parts += air
    if plainly:
        words = " ".join([who, *parts])
        return words if scene.style is None else f"{words}, {STYLE_TAILS[scene.style][0]}"
    words = f"{parts.pop()}, {who}" if parts and rng.random() < 0.12 else who
    joint = ", " if rng.random() < 0.15 else " "
    return _trimmed(rng, scene, joint.join([words, *parts]))
