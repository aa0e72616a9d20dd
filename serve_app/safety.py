"""The safety checker: a hook that looks at every picture before it leaves its replica.

Anything that fits `SafetyChecker` will do. ``serve_app.pipelines.clip_safety:load`` is the one that ships: the checker
of diffusers' Stable Diffusion pipelines.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol, cast

from serve_app.errors import ConfigurationError, GenerationFailed, ImagineError, PictureRefused
from serve_app.result import Pixels
from serve_app.settings import SafetySettings


class SafetyChecker(Protocol):
    """Looks at finished pictures. Called from several threads at a time."""

    def reason_to_refuse(self, pixels: Pixels, prompt: str) -> str | None:
        """Why the client must not get this picture, in words for the client; None lets it pass.

        Args:
            pixels: The picture.
            prompt: What it was drawn from.
        """
        ...


def load_checker(settings: SafetySettings) -> SafetyChecker:
    """Makes the checker that the settings name.

    Raises:
        ConfigurationError: It cannot be imported, or did not start.
    """
    module, _, name = settings.checker.partition(":")
    try:
        make = cast(Callable[..., SafetyChecker], getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"safety.checker={settings.checker} cannot be imported where the replica runs: {error}"
        ) from error
    try:
        return make(**settings.options)
    except ImagineError:
        raise
    # The hook is not ours, and may raise anything.
    except Exception as error:
        raise ConfigurationError(
            f"safety.checker={settings.checker} did not start with options {sorted(settings.options)}: {error}"
        ) from error


def refuse_unless_safe(checker: SafetyChecker, pixels: Pixels, prompt: str) -> None:
    """Returns for a picture that may be shown. A checker that fails lets nothing pass.

    Raises:
        PictureRefused: It must not be shown.
        GenerationFailed: The checker failed.
    """
    try:
        reason = checker.reason_to_refuse(pixels, prompt)
    # The hook is not ours, and may raise anything.
    except Exception as error:
        raise GenerationFailed(f"the safety checker failed ({type(error).__name__})") from error
    if reason is not None:
        raise PictureRefused(reason)
