"""What an evaluation asks: scenes that were never trained on, and how they are put into words."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tools.small_sdxl.captions import describe
from tools.small_sdxl.scenes import (
    ACCESSORIES,
    COLOURS,
    FIXED_COLOUR,
    OUTDOORS,
    OWN_COLOUR,
    PLAIN,
    POSITIONS,
    SCENERY,
    SHAPES,
    SIZES,
    STYLES,
    SUBJECTS,
    TIMES,
    WEARERS,
    WEATHERS,
    Figure,
    Mix,
    Scene,
    held_out_scenes,
    random_scene,
)
from tools.small_sdxl.words import BACKGROUND_WORDS


def every_subject(each: int, seed: int = 2026) -> list[Scene]:
    """Each subject so many times, in combinations that were never trained on.

    A panda's and a sun's colour is never said, so theirs are not held out.
    """
    rng = random.Random(seed)
    scenes = []
    for subject in SUBJECTS:
        if subject in FIXED_COLOUR:
            backgrounds = [name for name in (*SCENERY, *PLAIN) if name != f"plain {OWN_COLOUR[subject]}"]
            scenes += [
                Scene(
                    (Figure(subject, None, rng.choice(POSITIONS)),), rng.choice(backgrounds), rng.getrandbits(31)
                )
                for _ in range(each)
            ]  # fmt: skip
        else:
            scenes += held_out_scenes(each, seed, (subject,))
    return scenes


def accessories() -> list[Scene]:
    """Every wearer with everything that can be worn."""
    rng = random.Random(7)
    return [
        Scene((Figure(wearer, accessory=accessory),), rng.choice(SCENERY), rng.getrandbits(31))
        for wearer in sorted(WEARERS)
        for accessory in ACCESSORIES
    ]


def pairs(count: int) -> list[Scene]:
    """Two subjects beside or above each other."""
    rng = random.Random(8)
    wanted: list[Scene] = []
    while len(wanted) < count:
        scene = random_scene(rng, Mix(pairs=1, atmosphere=0))
        if scene.relation != "front" and scene.figures[0] != scene.figures[1]:
            wanted.append(scene)
    return wanted


def sizes(each: int) -> list[Scene]:
    """Small, medium and large shapes."""
    rng = random.Random(9)
    return [
        Scene(
            (Figure(rng.choice(SHAPES), rng.choice(tuple(COLOURS)), None, size),),
            rng.choice(SCENERY),
            rng.getrandbits(31),
        )
        for size in SIZES
        for _ in range(each)
    ]


def airs() -> list[Scene]:
    """Each time of day, weather and style, on several backgrounds."""
    rng = random.Random(10)
    scenes = []
    for _ in range(2):
        for time in TIMES:
            scenes.append(
                Scene((Figure(rng.choice(SUBJECTS)),), rng.choice(OUTDOORS), rng.getrandbits(31), time=time)
            )
        for weather in WEATHERS:
            scenes.append(
                Scene(
                    (Figure(rng.choice(SUBJECTS)),),
                    rng.choice(OUTDOORS),
                    rng.getrandbits(31),
                    weather=weather,
                )
            )
        for style in STYLES:
            scenes.append(
                Scene((Figure(rng.choice(SUBJECTS)),), rng.choice(SCENERY), rng.getrandbits(31), style=style)
            )
    return scenes  # fmt: skip


def plainly(scenes: Sequence[Scene], seed: int = 404) -> list[str]:
    """A plain caption for each scene."""
    rng = random.Random(seed)
    return [describe(scene, rng, plainly=True) for scene in scenes]


def freely(scenes: Sequence[Scene], seed: int = 405) -> list[str]:
    """A caption for each scene with other word orders, trimmings, praise and doings."""
    rng = random.Random(seed)
    return [describe(scene, rng) for scene in scenes]


#: Ways to dress a plain prompt as people do.
DRESSINGS: tuple[Callable[[str], str], ...] = (
    lambda words: f"{words}, highly detailed, 8k",
    lambda words: f"A photo of {words}. Sunlit.",
    lambda words: f"{words}, masterpiece, best quality, trending on artstation",
    lambda words: words.upper(),
    lambda words: f"please draw me {words}!",
)


def dressed(scenes: Sequence[Scene]) -> list[str]:
    """A plain caption for each scene with the usual trimmings, each kind in turn."""
    return [DRESSINGS[k % len(DRESSINGS)](words) for k, words in enumerate(plainly(scenes))]


#: Nouns that the captions never hold.
STRANGERS = ("zebra", "penguin", "kangaroo", "hedgehog", "stapler", "ambassador", "xylophone")


def strangers() -> tuple[list[str], list[str]]:
    """Prompts that name something unknown on each scenery, and the sceneries."""
    prompts = [
        f"a {STRANGERS[k % len(STRANGERS)]} {words[0]}" for k, words in enumerate(BACKGROUND_WORDS.values())
    ]
    return prompts, list(BACKGROUND_WORDS)
