"""Domain errors: the only exceptions that cross a deployment handle.

::

    ImagineError
    ├── InvalidRequest            the client can mend it (names a canonical field)
    │   ├── UnsupportedRequest    well-formed, but no pool's capabilities cover it
    │   └── UnknownModel          no pool serves the named model or pool
    ├── InvalidApiKey             the request has no API key, or an unknown one
    ├── NotFound                  a picture or job that is not (or no longer) stored
    ├── Overloaded                refused at the door, with an honest retry-after
    │   ├── QueueFull             the bounded queue has no room
    │   ├── DeadlineUnreachable   it would not finish before its deadline
    │   ├── LimitReached          the caller has drawn, or draws, as much as it may
    │   ├── TooManyJobs           as many jobs are unfinished as may be
    │   └── JobsUnavailable       the keeper of the jobs is being restarted; accepted jobs are safe
    ├── PoolUnavailable           a pool died or is not there yet: the router may go elsewhere
    ├── GenerationFailed          this one picture failed while being drawn; neighbours did not
    ├── PictureRefused            it was drawn, but the safety checker lets nobody have it
    ├── DeadlineExceeded          accepted, but the time ran out
    ├── GenerationCancelled       the caller left or cancelled
    ├── StoreUnavailable          the object store does not answer
    └── ConfigurationError        settings, model folder or machine cannot work; says the remedy

This module imports nothing heavy, so both sides of a handle can unpickle every class (a class that one side
cannot import cannot be unpickled there). Each wire format maps these classes to a status once, in its own
``api`` file.
"""

from __future__ import annotations


class ImagineError(Exception):
    """Base of all domain errors.

    Args:
        message: One sentence for the person who reads the answer.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(ImagineError):
    """The request is refused because of one of its fields.

    Args:
        field: Canonical field name of `RequestDraft`; each wire format translates it into the client's own.
        message: What is wrong and what is allowed, without naming the field.
    """

    def __init__(self, field: str, message: str) -> None:
        # All arguments go to Exception.args, so that the default pickling rebuilds the error.
        Exception.__init__(self, field, message)
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class UnsupportedRequest(InvalidRequest):
    """Well-formed, but outside what the pool's accelerator and model can draw."""


class UnknownModel(InvalidRequest):
    """No pool serves the named model, or no pool has the name."""


class InvalidApiKey(ImagineError):
    """The request needs an API key and has none, or one that is not known."""


class NotFound(ImagineError):
    """A stored object that does not exist, or whose time is over."""


class Overloaded(ImagineError):
    """Refused before any work.

    Args:
        message: Why.
        retry_after_s: Seconds after which a retry has a fair chance.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        Exception.__init__(self, message, retry_after_s)
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class QueueFull(Overloaded):
    """The bounded queue has no room for this request."""


class DeadlineUnreachable(Overloaded):
    """The request would not finish before its deadline."""


class LimitReached(Overloaded):
    """This caller has drawn, or is having drawn, as much as it may."""


class TooManyJobs(Overloaded):
    """As many jobs are unfinished as may be."""


class JobsUnavailable(Overloaded):
    """The keeper of the jobs is being restarted; no accepted job is lost by it."""


class PoolUnavailable(ImagineError):
    """A pool's replica died, or none is running; another pool may serve the request.

    Args:
        message: Why.
        retry_after_s: Seconds after which a replica is expected, where that is known.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        Exception.__init__(self, message, retry_after_s)
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class GenerationFailed(ImagineError):
    """Drawing this picture failed; its neighbours in the batch are not concerned."""


class PictureRefused(ImagineError):
    """The safety checker lets nobody have this picture; another prompt or seed may be drawn."""


class DeadlineExceeded(ImagineError):
    """The request was accepted but its time ran out before the picture was finished."""


class GenerationCancelled(ImagineError):
    """The caller went away or cancelled; nothing more is drawn for this request."""


class StoreUnavailable(ImagineError):
    """The object store refused or did not answer."""


class ConfigurationError(ImagineError):
    """The service cannot start as configured; the message names the remedy."""
