"""A scene's labels as numbers: what the text encoders have to tell from a caption."""

from __future__ import annotations

from typing import Final

from tools.small_sdxl.scenes import (
    ACCESSORIES,
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RELATIONS,
    SIZES,
    STYLES,
    SUBJECTS,
    TIMES,
    WEATHERS,
    Scene,
)

LABELS: Final[dict[str, tuple[str, ...]]] = {
    "subject": ("", *SUBJECTS),
    "colour": ("", *COLOURS),
    "position": ("", *POSITIONS),
    "size": ("", *SIZES),
    "accessory": ("", *ACCESSORIES),
    "background": ("", *BACKGROUNDS),
    "second subject": ("", *SUBJECTS),
    "second colour": ("", *COLOURS),
    "relation": ("", *RELATIONS),
    "weather": ("", *WEATHERS),
    "time": ("", *TIMES),
    "style": ("", *STYLES),
}


def labels_of(scene: Scene) -> list[int]:
    """The index of each label of a scene, in the order of ``LABELS``."""
    first, second = (*scene.figures, None, None)[:2]
    values = (
        first.subject if first else None,
        first.colour if first else None,
        first.position if first and scene.relation is None else None,
        first.size if first else None,
        first.accessory if first else None,
        scene.background,
        second.subject if second else None,
        second.colour if second else None,
        scene.relation,
        scene.weather,
        scene.time,
        scene.style,
    )
    return [names.index(value or "") for names, value in zip(LABELS.values(), values, strict=True)]
