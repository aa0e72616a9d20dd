"""How much each caller may draw: `QuotaBook` counts, `Quotas` asks it before each drawing.

The book is in the process of the only ingress replica, or in the one place that several replicas share. Each replica
that holds drawings tells the book so again and again, with all it holds: what a replica that died had claimed is
forgotten, and a book that was restarted knows the drawings again.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.errors import InvalidRequest, LimitReached, Overloaded, PoolUnavailable
from serve_app.settings import AccessSettings, CallerLimits

log = logging.getLogger(__name__)

HOLD_EVERY_S = 5.0
"""Seconds between two reports of what a replica holds."""

LEASE_S = 15.0
"""Seconds after which what a silent replica held counts no more."""

MAX_REMEMBERED = 10_000
"""Most callers whose pictures of the last minute are remembered; those that asked longest ago go first."""

NOTHING_DRAWN = (InvalidRequest, Overloaded, PoolUnavailable)
"""Refusals after which a caller gets its pictures of the minute back."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A caller's wish to draw.

    Attributes:
        holder: The replica that asks.
        caller: As `serve_app.api.caller.caller_of` says.
        images: Pictures.
        held: Pictures that this replica draws for the caller already.
        images_per_minute: The caller's limit, or None.
        max_images_in_flight: The caller's limit, or None.
    """

    holder: str
    caller: str
    images: int
    held: int
    images_per_minute: float | None
    max_images_in_flight: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a claim is refused.

    Attributes:
        message: For people.
        retry_after_s: Seconds until it would be granted, where that is known.
    """

    message: str
    retry_after_s: float | None = None


class Book(Protocol):
    """The one place that counts."""

    async def claim(self, claim: Claim) -> Refusal | None:
        """Grants a claim (None) and counts it, or refuses it and counts nothing."""
        ...

    async def refund(self, caller: str, images: int) -> None:
        """Gives pictures of the minute back, since nothing was drawn."""
        ...

    async def hold(self, holder: str, images: Mapping[str, int]) -> None:
        """What a replica draws now, by caller; to be repeated within `LEASE_S` while it is anything."""
        ...


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float
    capacity: float


@dataclass(slots=True)
class _Held:
    heard_at: float
    images: dict[str, int] = field(default_factory=dict)


class QuotaBook:
    """`Book` in this process. Not for several threads.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._now = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._held: dict[str, _Held] = {}

    async def claim(self, claim: Claim) -> Refusal | None:
        """As the protocol says."""
        limit = claim.max_images_in_flight
        if limit is not None:
            drawn = claim.held + self._held_elsewhere(claim.holder, claim.caller)
            if drawn + claim.images > limit:
                return Refusal(f"you may have {limit} pictures drawn at a time, and have {drawn}")
        if claim.images_per_minute is not None:
            wait_s = self._take(claim.caller, claim.images, claim.images_per_minute)
            if wait_s > 0:
                return Refusal(f"you may have {claim.images_per_minute:g} pictures a minute", wait_s)
        held = self._held.setdefault(claim.holder, _Held(self._now()))
        held.heard_at = self._now()
        # Claims of one replica may overtake each other; its next report says how it is.
        held.images[claim.caller] = max(held.images.get(claim.caller, 0), claim.held + claim.images)
        return None

    async def refund(self, caller: str, images: int) -> None:
        """As the protocol says."""
        if bucket := self._buckets.get(caller):
            bucket.tokens = min(bucket.capacity, bucket.tokens + images)

    async def hold(self, holder: str, images: Mapping[str, int]) -> None:
        """As the protocol says."""
        if images:
            self._held[holder] = _Held(self._now(), dict(images))
        else:
            self._held.pop(holder, None)

    def _held_elsewhere(self, holder: str, caller: str) -> int:
        oldest = self._now() - LEASE_S
        self._held = {key: held for key, held in self._held.items() if held.heard_at >= oldest}
        return sum(held.images.get(caller, 0) for key, held in self._held.items() if key != holder)

    def _take(self, caller: str, images: int, per_minute: float) -> float:
        """Takes pictures out of the caller's bucket; else the seconds until there are enough.

        The bucket holds a minute's pictures. A request for more than that is let in when the bucket is full, and
        leaves a debt.
        """
        now, capacity = self._now(), max(1.0, per_minute)
        bucket = self._buckets.setdefault(caller, _Bucket(capacity, now, capacity))
        bucket.tokens = min(capacity, bucket.tokens + (now - bucket.filled_at) * per_minute / 60)
        bucket.filled_at, bucket.capacity = now, capacity
        self._buckets.move_to_end(caller)
        while len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        lacking = min(images, capacity) - bucket.tokens
        if lacking > 1e-9:
            return lacking * 60 / per_minute
        bucket.tokens -= images
        return 0.0


class Quotas:
    """What this replica of the ingress draws, for whom, and whether it may.

    Args:
        settings: The limits.
        shared: The book that all replicas share; None where this is the only one.
    """

    def __init__(self, settings: AccessSettings, shared: Book | None = None) -> None:
        self._settings = settings
        self._own = QuotaBook()
        self._shared = shared
        self._holder = uuid.uuid4().hex
        self._held: Counter[str] = Counter()
        self._mean_s = 1.0
        self._reports: set[asyncio.Task[None]] = set()
        self._holding: asyncio.Task[None] | None = None

    def limits(self, caller: str) -> CallerLimits:
        """The limits of a caller."""
        return self._settings.limits_for(caller)

    @asynccontextmanager
    async def drawing(self, caller: str, images: int) -> AsyncIterator[None]:
        """Counts pictures as drawn for the caller inside the block.

        Raises:
            LimitReached: The caller has to wait.
            InvalidRequest: More pictures in one request than the caller may ever have at a time.
        """
        limits = self.limits(caller)
        if limits.images_per_minute is None and limits.max_images_in_flight is None:
            yield
            return
        most = limits.max_images_in_flight
        if most is not None and images > most:
            raise InvalidRequest("num_images", f"you may have {most} pictures drawn at a time, not {images}")
        held = self._held[caller]
        self._held[caller] += images
        began = time.monotonic()
        try:
            await self._claim(caller, images, held, limits)
            try:
                yield
            except NOTHING_DRAWN:
                await self._refund(caller, images)
                raise
            self._mean_s += 0.2 * (time.monotonic() - began - self._mean_s)
        finally:
            self._held[caller] -= images
            if not self._held[caller]:
                del self._held[caller]
            self._report()

    async def charge(self, caller: str, images: int) -> None:
        """Counts pictures that are drawn later, by a job: against the minute alone.

        Raises:
            LimitReached: The caller has to wait.
        """
        limits = self.limits(caller)
        if limits.images_per_minute is not None:
            asked = limits.model_copy(update={"max_images_in_flight": None})
            await self._claim(caller, images, self._held[caller], asked)
            self._report()

    async def give_back(self, caller: str, images: int) -> None:
        """Undoes `charge`, where nothing will be drawn for it."""
        if self.limits(caller).images_per_minute is not None:
            await self._refund(caller, images)

    async def _claim(self, caller: str, images: int, held: int, limits: CallerLimits) -> None:
        claim = Claim(
            self._holder, caller, images, held, limits.images_per_minute, limits.max_images_in_flight
        )
        try:
            refusal = await (self._shared or self._own).claim(claim)
        except PoolUnavailable as error:
            log.warning("limits hold for this replica alone for now: %s", error)
            refusal = await self._own.claim(claim)
        if refusal is not None:
            wait_s = refusal.retry_after_s or self._mean_s / max(1, held)
            raise LimitReached(refusal.message, retry_after_s=wait_s)
        if self._shared is not None and (self._holding is None or self._holding.done()):
            self._holding = asyncio.get_running_loop().create_task(self._hold())

    async def _refund(self, caller: str, images: int) -> None:
        try:
            await (self._shared or self._own).refund(caller, images)
        except PoolUnavailable as error:
            log.info("pictures that were not drawn stay counted: %s", error)

    def _report(self) -> None:
        """Tells the book what is held now, in a task of its own: the caller's may be being cancelled."""
        task = asyncio.get_running_loop().create_task(self._tell())
        self._reports.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._reports.discard)

    async def _tell(self) -> None:
        held = {caller: images for caller, images in self._held.items() if images}
        await self._own.hold(self._holder, held)
        if self._shared is not None:
            try:
                await self._shared.hold(self._holder, held)
            except PoolUnavailable as error:
                log.info("what is drawn here will be told again: %s", error)

    async def _hold(self) -> None:
        while self._held:
            await asyncio.sleep(HOLD_EVERY_S)
            await self._tell()
