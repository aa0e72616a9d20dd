"""One file per kind of hardware; adding one is adding its file. Importing this package imports no torch."""

from __future__ import annotations

import importlib
import pkgutil

from serve_app.accelerators.base import Accelerator
from serve_app.errors import ConfigurationError
from serve_app.settings import PoolSettings

_NOT_ACCELERATORS = {"base"}


def names() -> tuple[str, ...]:
    """Names of all accelerators, sorted: the modules of this package."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(
        sorted(name for name in modules if name not in _NOT_ACCELERATORS and not name.startswith("_"))
    )


def get(name: str) -> Accelerator:
    """The accelerator of that name.

    Raises:
        ConfigurationError: There is none; the message lists those that exist.
    """
    if name not in names():
        raise ConfigurationError(
            f"accelerator {name!r} is not known; set it to one of: auto, {', '.join(names())}"
        )
    accelerator = importlib.import_module(f"{__name__}.{name}").ACCELERATOR
    assert isinstance(accelerator, Accelerator)
    return accelerator


def choose(name: str) -> Accelerator:
    """`get`, and for ``auto`` the best that this machine has.

    Raises:
        ConfigurationError: No such accelerator, or none of this machine.
    """
    if name != "auto":
        return get(name)
    ranks = {candidate: rank for candidate in names() if (rank := _auto_rank(candidate)) is not None}
    for candidate in sorted(ranks, key=lambda one: -ranks[one]):
        if (accelerator := get(candidate)).available():
            return accelerator
    raise ConfigurationError(f"this machine has none of: {', '.join(sorted(ranks))}; name an accelerator")


def _auto_rank(name: str) -> int | None:
    """The file's own ``AUTO_RANK``: ``auto`` takes the highest that this machine has; None is taken by name only."""
    rank: int | None = getattr(importlib.import_module(f"{__name__}.{name}"), "AUTO_RANK", None)
    return rank


def of_pool(pool: PoolSettings) -> Accelerator:
    """`choose` for a pool, whose settings must be of the accelerator that is chosen.

    Raises:
        ConfigurationError: As `choose`, or a setting is of another accelerator.
    """
    accelerator = choose(pool.accelerator)
    if problem := pool.set_for_others(accelerator.name):
        raise ConfigurationError(problem)
    return accelerator
