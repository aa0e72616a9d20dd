"""One file per kind of hardware; adding one is adding its file. Importing this package imports no torch."""

from __future__ import annotations

import importlib
import pkgutil

from serve_app.accelerators.base import Accelerator
from serve_app.errors import ConfigurationError

_NOT_ACCELERATORS = {"base"}
_AUTO_ORDER = ("neuron", "cuda", "cpu")  # the more specialised first; others only when named


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
    for candidate in _AUTO_ORDER:
        if candidate in names() and (accelerator := get(candidate)).available():
            return accelerator
    raise ConfigurationError(f"this machine has none of: {', '.join(_AUTO_ORDER)}; name an accelerator")
