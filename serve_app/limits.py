"""Bounds of what a client may send, shared by all wire formats, so that each refusal says the same in its own names."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

MAX_SEED = 2**32 - 1
"""Largest seed: A1111 and its clients keep seeds in 32 bits, and every contract must be able to ask for any seed."""

MAX_PROMPT_CHARS = 10_000
MAX_IMAGES_PER_REQUEST = 16


def _no_nul(text: str) -> str:
    # Text chunks of picture files and most tokenizers end at a NUL.
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty; say what to draw")
    return text


def _whole_number(value: object) -> object:
    # Python counts True as 1; a client that sends true for a number has mixed up two fields.
    if isinstance(value, bool):
        raise ValueError("must be a whole number, not true or false")
    # Some languages know no integers and write 4.0.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# Shared limits, so that each wire format's refusal names the client's own field and says the same bounds.
PromptText = Annotated[str, Field(max_length=MAX_PROMPT_CHARS), AfterValidator(_no_nul)]
RequiredPrompt = Annotated[PromptText, AfterValidator(_not_blank)]
ShortName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_no_nul)]
WholeNumber = Annotated[int, BeforeValidator(_whole_number)]
NumInferenceSteps = Annotated[WholeNumber, Field(ge=1, le=150)]
GuidanceScale = Annotated[float, Field(ge=0.0, le=30.0, allow_inf_nan=False)]
Seed = Annotated[WholeNumber, Field(ge=0, le=MAX_SEED)]
PixelSide = Annotated[WholeNumber, Field(ge=64, le=4096)]
NumImages = Annotated[WholeNumber, Field(ge=1, le=MAX_IMAGES_PER_REQUEST)]
Quality = Annotated[WholeNumber, Field(ge=1, le=100)]
