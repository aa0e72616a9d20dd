"""Which picture is prepared next and which run in the next step. Not thread-safe: the engine holds a lock.

The rules:

- Interactive pictures go before batch ones, between any two steps. A batch picture that was passed over too often
  goes first once, so nobody starves.
- Within a class owners take turns (`FairQueue`): who sends much waits for itself, not others for it.
- Of the prepared ones the picture with the fewest steps left leads, so a short one never waits for a long one. One that
  later ones overtook for half of the time it takes alone leads before them.
- Others join the leader's step while the time they add to it is less than the time they save (`_joins`); those held
  up for a while already, whenever it makes the device do more in all. A device that one row fills so draws one
  picture after another, one that rows share cheaply draws all at once.
- Shapes (batch keys) share the device by deficit rounds, their cost being the predicted seconds of a step: each gets
  the same share of its time, however unequal their steps are. Within a round the most urgent goes first, and goes on:
  pictures that cannot share a step would all be late if they took turns after every one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve_app.engine.fair_queue import FairQueue
from serve_app.engine.picture import Picture, Shape
from serve_app.engine.state import BatchKey

BATCH_PATIENCE = 64
"""Steps a batch-priority picture is passed over before it goes first: its share under unbroken interactive load is
one step in 65."""

OVERTAKEN_AT_MOST = 0.5
"""Share of the time a picture takes alone for which later ones may overtake it; then it leads before them."""

HELD_AT_MOST = 0.25
"""Share of the time a picture takes alone for which it stays out of steps that it would make longer."""

WORTHWHILE = 0.75
"""After that it joins when it adds at most this share of its own step: the device then does more in all, which is
what those who are still to come need (all three simulated with measured step times, mixed 10/20/50 steps)."""

CHEAP_STRETCH = 1.25
"""Joining is free of further questions while the leader's step becomes at most so many times as long."""

TURN_STEPS = 4
"""Steps of the costliest shape that each one may use in a round."""

_MAX_ROW_LIMITS = 256
_STEPS_BEFORE_RAISING = 200  # at a limit that running out of memory set, before one more row is tried

Cost = Callable[[Shape, int], float]
"""Predicted seconds of a step of (shape, rows)."""


def _overdue(picture: Picture) -> bool:
    return not picture.interactive and picture.passed_over >= BATCH_PATIENCE


@dataclass(slots=True)
class _RowLimit:
    rows: int
    good_steps: int = 0  # since it was set


class Scheduler:
    """The queue and the set of running pictures.

    Args:
        max_rows: Most rows of one step.
        max_queued_images: Most pictures waiting.
        max_rows_in_flight: Most rows of prepared pictures, per priority, so that batch work never keeps
            interactive work from being prepared. More than `max_rows`: short pictures overtake long ones.
    """

    def __init__(self, max_rows: int, max_queued_images: int, max_rows_in_flight: int) -> None:
        self.max_rows = max_rows
        self.max_queued_images = max_queued_images
        self._max_rows_in_flight = max_rows_in_flight
        self._waiting = (FairQueue(), FairQueue())  # interactive, batch
        self._prepared = 0  # pictures so far
        self._running: list[Picture] = []  # prepared, with steps to do
        self._undecoded: deque[Picture] = deque()  # all steps done
        self._decoding: list[Picture] = []  # taken by `next_to_decode`
        self._row_limits: OrderedDict[BatchKey, _RowLimit] = OrderedDict()
        self._shares: dict[BatchKey, float] = {}  # seconds a shape may still use in this round

    @property
    def places(self) -> int:
        """Pictures the queue still has room for."""
        return self.max_queued_images - self.queued

    @property
    def queued(self) -> int:
        """Pictures waiting."""
        return len(self._waiting[0]) + len(self._waiting[1])

    @property
    def rows_in_flight(self) -> int:
        """Rows of prepared pictures."""
        return sum(picture.rows for picture in self.in_flight())

    def waiting(self) -> Iterator[Picture]:
        """Pictures waiting, in the order they will be prepared (but for overdue ones)."""
        yield from self._waiting[0]
        yield from self._waiting[1]

    def in_flight(self) -> Iterator[Picture]:
        """Prepared pictures that are not finished."""
        yield from self._running
        yield from self._undecoded
        yield from self._decoding

    def pictures(self) -> Iterator[Picture]:
        """All pictures."""
        yield from self.waiting()
        yield from self.in_flight()

    def has_work(self) -> bool:
        """Whether there is any picture."""
        return self.has_steps() or bool(self._undecoded or self._decoding)

    def has_steps(self) -> bool:
        """Whether any picture still has steps to do."""
        return bool(self._waiting[0] or self._waiting[1] or self._running)

    def can_step(self) -> bool:
        """Whether one of them could be prepared or make a step now."""
        return bool(self._running) or self.can_prepare()

    def can_prepare(self) -> bool:
        """Whether a waiting picture would be prepared now, which makes its place in the queue free."""
        return any(queue and self._has_room(queue.first) for queue in self._waiting)

    @property
    def undecoded(self) -> int:
        """Pictures that wait for their decode."""
        return len(self._undecoded)

    def add(self, picture: Picture) -> None:
        """Puts a picture in the queue; `places` is the caller's check."""
        self._waiting[not picture.interactive].append(picture)

    def remove(self, picture: Picture) -> None:
        """Forgets a picture, wherever it is; unknown ones too."""
        places: tuple[FairQueue | deque[Picture] | list[Picture], ...] = (
            *self._waiting,
            self._running,
            self._undecoded,
            self._decoding,
        )
        for pictures in places:
            if picture in pictures:
                pictures.remove(picture)

    def next_to_prepare(self) -> Picture | None:
        """Takes the next picture out of the queue, or None when there is none or no room for its rows."""
        fitting = [queue for queue in self._waiting if queue and self._has_room(queue.first)]
        if not fitting:
            return None
        for queue in fitting[1:]:
            queue.first.passed_over += 1
        chosen = next((queue for queue in fitting[1:] if _overdue(queue.first)), fitting[0])
        picture = chosen.popleft()
        self._prepared += 1
        picture.turn, picture.passed_over = self._prepared, 0
        return picture

    def _has_room(self, picture: Picture) -> bool:
        rows = sum(other.rows for other in self.in_flight() if other.interactive == picture.interactive)
        return rows == 0 or rows + picture.rows <= self._max_rows_in_flight

    def start(self, picture: Picture) -> None:
        """A prepared picture may run from now on."""
        assert picture.state is not None
        (self._undecoded if picture.state.finished else self._running).append(picture)

    def next_batch(self, cost: Cost) -> list[Picture]:
        """The pictures of the next step, all of one batch key; empty when none is running."""
        by_key: dict[BatchKey, list[Picture]] = {}
        for picture in sorted(self._running, key=lambda picture: _order(picture, cost)):
            assert picture.state is not None
            by_key.setdefault(picture.state.batch_key, []).append(picture)
        if not by_key:
            self._shares.clear()
            return []
        # Each list is in order of urgency, so its first picture speaks for the shape; so is `by_key` itself.
        urgent = {key for key, rest in by_key.items() if rest[0].interactive or _overdue(rest[0])}
        leaders = {key: rest[0] for key, rest in by_key.items() if not urgent or key in urgent}
        batches = {key: self._joined(by_key[key], cost) for key in leaders}
        costs = {key: cost(batch[0].shape, _rows(batch)) for key, batch in batches.items()}
        key = self._whose_turn(
            set(by_key), costs, owed={k for k, one in leaders.items() if _is_owed(one, cost)}
        )
        chosen = set(map(id, batches[key]))
        for picture in self._running:
            if id(picture) in chosen:
                picture.passed_over = 0
            else:
                picture.passed_over += 1
                picture.held_s += costs[key]
                if batches[key][0].turn > picture.turn:
                    picture.overtaken_s += costs[key]
        return batches[key]

    def _joined(self, pictures: list[Picture], cost: Cost) -> list[Picture]:
        """The leader's batch: the first of `pictures` (one batch key) and whoever joins it."""
        everyone = sum(1 for _ in self.pictures())
        limit = self._row_limit(pictures[0])
        batch, rows = [pictures[0]], pictures[0].rows
        step_s = leader_s = cost(pictures[0].shape, rows)
        for picture in pictures[1:]:
            if rows + picture.rows > limit:
                continue
            with_it_s = cost(picture.shape, rows + picture.rows)
            adds_s, alone_s = with_it_s - step_s, cost(picture.shape, picture.rows)
            if (
                with_it_s <= CHEAP_STRETCH * leader_s
                or (
                    adds_s <= WORTHWHILE * alone_s
                    and picture.held_s >= HELD_AT_MOST * _alone_s(picture, cost)
                )
                or _joins(adds_s=adds_s, alone_s=alone_s, inside=len(batch), outside=everyone - len(batch))
            ):
                batch.append(picture)
                rows += picture.rows
                step_s = with_it_s
        return batch

    def _whose_turn(
        self, present: set[BatchKey], costs: dict[BatchKey, float], owed: set[BatchKey]
    ) -> BatchKey:
        """The most urgent of `costs` (in that order) that has not used up its share of this round.

        Each round gives every shape of `present` the same seconds, some steps' worth; the next round begins when nobody
        can go on, or when one must who was overtaken for long enough already (`owed`).
        """
        quantum = TURN_STEPS * max(costs.values())
        self._shares = {key: self._shares.get(key, quantum) for key in present}
        while True:
            for key, step_s in costs.items():
                if self._shares[key] >= step_s:
                    self._shares[key] -= step_s
                    return key
                if key in owed:
                    break
            self._shares = {key: min(left + quantum, 2 * quantum) for key, left in self._shares.items()}

    def fitting(self, pictures: list[Picture]) -> list[Picture]:
        """The first of `pictures` (one batch key) and those after it that fit into the rows."""
        limit = self._row_limit(pictures[0])
        batch, rows = [pictures[0]], pictures[0].rows
        for picture in pictures[1:]:
            if rows + picture.rows <= limit:
                batch.append(picture)
                rows += picture.rows
        return batch

    def _row_limit(self, picture: Picture) -> int:
        assert picture.state is not None
        limit = self._row_limits.get(picture.state.batch_key)
        return self.max_rows if limit is None else limit.rows

    def limit_rows(self, key: BatchKey, rows: int) -> None:
        """At most `rows` rows of `key` in a step (but always at least one picture), until many went well."""
        self._row_limits[key] = _RowLimit(max(1, rows))
        self._row_limits.move_to_end(key)
        if len(self._row_limits) > _MAX_ROW_LIMITS:
            self._row_limits.popitem(last=False)

    def went_well(self, key: BatchKey) -> None:
        """A step of `key` had memory enough; after many the limit rises by a row, as what was short may be free."""
        limit = self._row_limits.get(key)
        if limit is None:
            return
        limit.good_steps += 1
        if limit.good_steps >= _STEPS_BEFORE_RAISING:
            limit.rows, limit.good_steps = limit.rows + 1, 0
            if limit.rows >= self.max_rows:
                del self._row_limits[key]

    def stepped(self, picture: Picture) -> None:
        """A step of `picture` was done and counted; with its last one it waits for its decode."""
        assert picture.state is not None
        if picture.state.finished:
            self._running.remove(picture)
            self._undecoded.append(picture)

    def next_to_decode(self) -> Picture | None:
        """Takes the picture to decode next; interactive ones first. It stays in flight until removed."""
        if not self._undecoded:
            return None
        picture = min(self._undecoded, key=lambda picture: not picture.interactive)
        self._undecoded.remove(picture)
        self._decoding.append(picture)
        return picture

    def decode_later(self, picture: Picture) -> None:
        """Puts a picture back whose decode found no memory."""
        if picture in self._decoding:
            self._decoding.remove(picture)
            self._undecoded.append(picture)


def _rows(batch: list[Picture]) -> int:
    return sum(picture.rows for picture in batch)


def _order(picture: Picture, cost: Cost) -> tuple[bool, bool, bool, int, int]:
    """Sort key: who leads. Those overtaken for long enough keep the order in which they were prepared."""
    owed = _is_owed(picture, cost)
    return (
        not _overdue(picture),
        not picture.interactive,
        not owed,
        picture.turn if owed else picture.remaining_steps,
        picture.turn,
    )


def _is_owed(picture: Picture, cost: Cost) -> bool:
    return picture.overtaken_s >= OVERTAKEN_AT_MOST * _alone_s(picture, cost)


def _alone_s(picture: Picture, cost: Cost) -> float:
    return picture.request.num_inference_steps * cost(picture.shape, picture.rows)


def _joins(*, adds_s: float, alone_s: float, inside: int, outside: int) -> bool:
    """Whether one more picture in the step shortens the mean time of all.

    Inside, everyone waits `adds_s` longer. Outside (itself included), everyone waits for work that became shorter
    by what its own step would have taken, less what it adds here.
    """
    return adds_s * inside <= (alone_s - adds_s) * outside
