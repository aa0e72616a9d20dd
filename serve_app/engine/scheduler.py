"""Which picture is prepared next and which run in the next step. Not thread-safe: the engine holds a lock.

The rules:

- Interactive pictures go before batch ones, between any two steps. A picture that was passed over too often
  goes first once, so nobody starves.
- Within a class the picture with the fewest steps left goes first: a short one never waits for a long one.
- Shapes (batch keys) take turns by deficit round robin, their cost being the predicted seconds of their step:
  each gets the same share of the device's time, however unequal their steps are.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from serve_app.engine.picture import Picture, Shape
from serve_app.engine.state import BatchKey

INTERACTIVE_PATIENCE = 16
"""Steps an interactive picture is passed over before it goes first."""

BATCH_PATIENCE = 64
"""The same for a batch-priority picture: its share under unbroken interactive load is one step in 65."""

_MAX_ROW_LIMITS = 256


def _overdue(picture: Picture) -> bool:
    return picture.passed_over >= (INTERACTIVE_PATIENCE if picture.interactive else BATCH_PATIENCE)


def _order(picture: Picture) -> tuple[bool, bool, int, float, int]:
    """Sort key: who gets rows first."""
    return (
        not _overdue(picture),
        not picture.interactive,
        picture.remaining_steps,
        picture.accepted_at,
        picture.index,
    )


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
        self._max_queued_images = max_queued_images
        self._max_rows_in_flight = max_rows_in_flight
        self._waiting: tuple[deque[Picture], deque[Picture]] = (deque(), deque())  # interactive, batch
        self._running: list[Picture] = []  # prepared, with steps to do
        self._undecoded: deque[Picture] = deque()  # all steps done
        self._row_limits: OrderedDict[BatchKey, int] = OrderedDict()
        self._turns: deque[BatchKey] = deque()  # deficit round robin: whose turn it is, then who follows
        self._deficits: dict[BatchKey, float] = {}  # seconds a shape may still use in its turn

    @property
    def places(self) -> int:
        """Pictures the queue still has room for."""
        return self._max_queued_images - self.queued

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

    def pictures(self) -> Iterator[Picture]:
        """All pictures."""
        yield from self.waiting()
        yield from self.in_flight()

    def has_work(self) -> bool:
        """Whether there is any picture."""
        return bool(self._waiting[0] or self._waiting[1] or self._running or self._undecoded)

    def add(self, picture: Picture) -> None:
        """Puts a picture in the queue; `places` is the caller's check."""
        self._waiting[not picture.interactive].append(picture)

    def remove(self, picture: Picture) -> None:
        """Forgets a picture, wherever it is; unknown ones too."""
        places: tuple[deque[Picture] | list[Picture], ...] = (*self._waiting, self._running, self._undecoded)
        for pictures in places:
            if picture in pictures:
                pictures.remove(picture)

    def next_to_prepare(self) -> Picture | None:
        """Takes the next picture out of the queue, or None when there is none or no room for its rows."""
        fitting = [queue for queue in self._waiting if queue and self._has_room(queue[0])]
        if not fitting:
            return None
        for queue in fitting[1:]:
            queue[0].passed_over += 1
        chosen = next((queue for queue in fitting[1:] if _overdue(queue[0])), fitting[0])
        picture = chosen.popleft()
        picture.passed_over = 0
        return picture

    def _has_room(self, picture: Picture) -> bool:
        rows = sum(other.rows for other in self.in_flight() if other.interactive == picture.interactive)
        return rows == 0 or rows + picture.rows <= self._max_rows_in_flight

    def start(self, picture: Picture) -> None:
        """A prepared picture may run from now on."""
        assert picture.state is not None
        (self._undecoded if picture.state.finished else self._running).append(picture)

    def next_batch(self, cost: Callable[[Shape, int], float]) -> list[Picture]:
        """The pictures of the next step, all of one batch key; empty when none is running.

        Args:
            cost: Predicted seconds of a step of (shape, rows).
        """
        by_key: dict[BatchKey, list[Picture]] = {}
        for picture in sorted(self._running, key=_order):
            assert picture.state is not None
            by_key.setdefault(picture.state.batch_key, []).append(picture)
        if not by_key:
            self._turns.clear()
            self._deficits.clear()
            return []
        # Each list is in order of urgency, so its first picture speaks for the shape.
        urgent = {key for key, rest in by_key.items() if rest[0].interactive or _overdue(rest[0])}
        batches = {key: self.fitting(by_key[key]) for key in urgent or by_key}
        costs = {key: cost(batch[0].shape, sum(p.rows for p in batch)) for key, batch in batches.items()}
        batch = batches[self._whose_turn(set(by_key), costs)]
        for picture in self._running:
            picture.passed_over += 1
        for picture in batch:
            picture.passed_over = 0
        return batch

    def _whose_turn(self, present: set[BatchKey], costs: dict[BatchKey, float]) -> BatchKey:
        """Deficit round robin among the keys of `costs`; those of `present` keep their place in the ring."""
        self._turns = deque(key for key in self._turns if key in present)
        self._turns.extend(present - set(self._turns))
        self._deficits = {key: self._deficits.get(key, 0.0) for key in self._turns}
        quantum = max(costs.values())  # so that whoever has the turn can afford at least one step
        while True:
            key = self._turns[0]
            if key in costs and self._deficits[key] >= costs[key]:
                self._deficits[key] -= costs[key]
                return key
            self._turns.rotate(-1)
            if self._turns[0] in costs:
                self._deficits[self._turns[0]] += quantum

    def fitting(self, pictures: list[Picture]) -> list[Picture]:
        """The first of `pictures` (one batch key) and those after it that fit into the rows."""
        assert pictures[0].state is not None
        limit = self._row_limits.get(pictures[0].state.batch_key, self.max_rows)
        batch, rows = [pictures[0]], pictures[0].rows
        for picture in pictures[1:]:
            if rows + picture.rows <= limit:
                batch.append(picture)
                rows += picture.rows
        return batch

    def limit_rows(self, key: BatchKey, rows: int) -> None:
        """From now on at most `rows` rows of `key` in a step (but always at least one picture)."""
        self._row_limits[key] = max(1, rows)
        self._row_limits.move_to_end(key)
        if len(self._row_limits) > _MAX_ROW_LIMITS:
            self._row_limits.popitem(last=False)

    def stepped(self, picture: Picture) -> None:
        """A step of `picture` was done and counted; with its last one it waits for its decode."""
        assert picture.state is not None
        if picture.state.finished:
            self._running.remove(picture)
            self._undecoded.append(picture)

    def next_to_decode(self) -> Picture | None:
        """The picture to decode next; interactive ones first. It stays in flight until removed."""
        return min(self._undecoded, key=lambda picture: not picture.interactive, default=None)
