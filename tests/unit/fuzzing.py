"""How many cases the tests that make up their input try: few in CI, always the same; many other ones by `make fuzz`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

Test = TypeVar("Test", bound=Callable[..., Any])

VARIABLE = "IMAGINE_FUZZ_EXAMPLES"

LONG = VARIABLE in os.environ
"""Whether this is `make fuzz`."""


def examples(few: int) -> int:
    """Cases of a test: `few`, or as many as the environment asks for, where that is more."""
    return max(few, int(os.environ.get(VARIABLE, "0")))


def fuzzed(few: int) -> Callable[[Test], Test]:
    """Decorator: Hypothesis's settings for a test with `few` cases in CI."""
    applied: Callable[[Test], Test] = hypothesis_settings(
        max_examples=examples(few),
        deadline=None,
        derandomize=not LONG,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    return applied
