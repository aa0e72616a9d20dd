"""Prompts to begin with, that the model in use can draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Of its model card: shapes, animals, a few things; twelve colours; eight backgrounds.
_SMALL_SDXL = (
    "an astronaut is dancing on green grass, sunlit",
    "A panda listening to music with headphones. highly detailed, 8k.",
    "a yellow star on a blue background",
    "a red car in the city",
    "a boat on the sea",
    "a red heart and a blue circle",
)
_LARGE = (
    "a lighthouse on a cliff at sunset, oil painting",
    "portrait of an old fisherman, soft window light, 85mm photograph",
    "a cosy reading corner with plants, isometric illustration",
    "a red fox in fresh snow, morning mist, highly detailed",
    "a bowl of ramen, studio food photography",
    "a hot-air balloon over terraced rice fields, watercolour",
)
_BY_MODEL: Mapping[str, Sequence[str]] = {"small-sdxl": _SMALL_SDXL}


def examples(model: str) -> Sequence[str]:
    """Prompts for a model, by the name that the service gives it."""
    return _BY_MODEL.get(model, _LARGE)
