"""`StepTimes`: how long steps and decodes take here, learned while serving, and what follows for a finish."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from statistics import median

from serve_app.engine.picture import Picture, Shape

_SAMPLES = 15  # a median over these forgets a slow first step (compilation, cold caches) soon enough
_FORGOTTEN_AFTER = 1000  # steps of a shape: a row count avoided since one slow moment gets another chance
_MAX_SHAPES = 256  # clients choose shapes, so the memory of them is bounded
_UNMEASURED_S_PER_PIXEL_ROW = 1e-9  # only orders shapes by cost before the first measurement


class _Durations:
    """Median of the latest durations of one kind of work."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self.median_s = 0.0
        self.last_at = 0  # steps recorded when the latest was added

    def add(self, seconds: float, at: int = 0) -> None:
        self._samples.append(seconds)
        self.median_s = median(self._samples)
        self.last_at = at


class StepTimes:
    """Seconds per denoising step by (shape, rows) and per decode by shape. Not thread-safe."""

    def __init__(self) -> None:
        self._steps: OrderedDict[Shape, dict[int, _Durations]] = OrderedDict()
        self._decodes: OrderedDict[Shape, _Durations] = OrderedDict()
        self._recorded = 0

    @property
    def measured(self) -> bool:
        """Whether at least one step was measured; predictions mean nothing before."""
        return bool(self._steps)

    def record_step(self, shape: Shape, rows: int, seconds: float) -> None:
        """Learns from one step of `rows` rows."""
        self._recorded += 1
        by_rows = self._steps.setdefault(shape, {})
        by_rows.setdefault(rows, _Durations()).add(seconds, self._recorded)
        for old in [n for n, known in by_rows.items() if self._recorded - known.last_at > _FORGOTTEN_AFTER]:
            del by_rows[old]
        self._steps.move_to_end(shape)
        if len(self._steps) > _MAX_SHAPES:
            self._steps.popitem(last=False)

    def record_decode(self, shape: Shape, seconds: float) -> None:
        """Learns from one decode."""
        self._decodes.setdefault(shape, _Durations()).add(seconds)
        self._decodes.move_to_end(shape)
        if len(self._decodes) > _MAX_SHAPES:
            self._decodes.popitem(last=False)

    def step_s(self, shape: Shape, rows: int) -> float:
        """Seconds of one step; scaled from the nearest measured row count or shape where this one is new."""
        if not self._steps:
            return _UNMEASURED_S_PER_PIXEL_ROW * shape[0] * shape[1] * rows
        near = min(self._steps, key=lambda known: abs(known[0] * known[1] - shape[0] * shape[1]))
        by_rows = self._steps[shape if shape in self._steps else near]
        known_rows = min(by_rows, key=lambda known: (abs(known - rows), known))
        scale = 1.0 if shape in self._steps else (shape[0] * shape[1]) / (near[0] * near[1])
        # Fewer rows than measured may cost as much as those did; more rows cost at most in proportion.
        return by_rows[known_rows].median_s * scale * max(1.0, rows / known_rows)

    def hoped_step_s(self, shape: Shape, rows: int) -> float:
        """Like `step_s`, but more rows than ever measured are taken to cost nothing more, so that they are tried.

        Between two measured row counts it is their straight line.
        """
        by_rows = self._steps.get(shape)
        if not by_rows:
            return self.step_s(shape, 1)
        if rows <= min(by_rows):
            return self.step_s(shape, rows)
        below = max(known for known in by_rows if known <= rows)
        above = min((known for known in by_rows if known >= rows), default=below)
        low_s, high_s = by_rows[below].median_s, by_rows[above].median_s
        return low_s if above == below else low_s + (high_s - low_s) * (rows - below) / (above - below)

    def decode_s(self, shape: Shape) -> float:
        """Seconds of one decode; 0 before the first measurement."""
        if not self._decodes:
            return 0.0
        near = min(self._decodes, key=lambda known: abs(known[0] * known[1] - shape[0] * shape[1]))
        return self._decodes[near].median_s * (shape[0] * shape[1]) / (near[0] * near[1])

    def work_s(self, pictures: Iterable[Picture], max_rows: int, *, most_steps: int | None = None) -> float:
        """Seconds to do the remaining work of `pictures`, batched by shape as well as `max_rows` allows.

        Args:
            pictures: Waiting or running.
            max_rows: Most rows of a step.
            most_steps: Counts at most so many steps of each picture: what lies before a picture with
                that many steps, because those with more to do make room for it.
        """
        row_steps: dict[Shape, int] = {}
        rows: dict[Shape, int] = {}
        total = 0.0
        for picture in pictures:
            steps = (
                picture.remaining_steps if most_steps is None else min(picture.remaining_steps, most_steps)
            )
            row_steps[picture.shape] = row_steps.get(picture.shape, 0) + steps * picture.rows
            rows[picture.shape] = rows.get(picture.shape, 0) + picture.rows
            total += self.decode_s(picture.shape)
        for shape, count in row_steps.items():
            batch = min(rows[shape], max_rows)
            total += count * self.step_s(shape, batch) / batch
        return total
