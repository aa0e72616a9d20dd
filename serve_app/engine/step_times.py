"""`StepTimes`: how long steps and decodes take here, learned while serving, and what follows for a finish."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from statistics import median

from serve_app.engine.picture import Picture, Shape

_SAMPLES = 15  # a median over these forgets a slow first step (compilation, cold caches) soon enough
_FORGOTTEN_AFTER = 1000  # steps of a shape: a row count avoided since one slow moment gets another chance
_MAX_SHAPES = 256  # clients choose shapes, so the memory of them is bounded
_FADES_WITHIN = 100  # steps of a shape after which a row count that was not taken since counts half
_UNMEASURED_S_PER_PIXEL_ROW = 1e-9  # only orders shapes by cost before the first measurement


class _Durations:
    """Median of the latest durations of one kind of work.

    The first one counts only until there is a second: it is when libraries write code for a size they have not seen,
    which may take thirty times as long.
    """

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self.warm = False
        self.median_s = 0.0
        self.last_at = 0  # steps recorded when the latest was added

    def add(self, seconds: float, at: int = 0) -> None:
        if len(self._samples) == 1 and not self.warm:
            self._samples.clear()
            self.warm = True
        self._samples.append(seconds)
        self.median_s = median(self._samples)
        self.last_at = at

    def weight(self, at: int) -> float:
        """How far to believe it: by the number of samples, and by how recent they are."""
        return float(len(self._samples) * 0.5 ** ((at - self.last_at) / _FADES_WITHIN))


class _RowCosts:
    """Seconds of a step of one shape by its rows: a fixed part and a part for each row.

    The line is fitted to the medians of the row counts. Measured durations are noisy and
    noise comes in phases (a neighbour on the machine), which hits the row counts of that phase: compared one by one,
    a count that was unlucky is avoided, and so are those beyond it, as nobody gets past it.
    """

    def __init__(self) -> None:
        self._by_rows: dict[int, _Durations] = {}
        self._fixed_s = self._row_s = 0.0
        self._most_rows = 0
        self._single: int | None = None  # the only row count there is

    def add(self, rows: int, seconds: float, at: int) -> None:
        self._by_rows.setdefault(rows, _Durations()).add(seconds, at)
        for old in [n for n, known in self._by_rows.items() if at - known.last_at > _FORGOTTEN_AFTER]:
            del self._by_rows[old]
        # Those measured more than once; all of them while there is none.
        trusted = {n: known for n, known in self._by_rows.items() if known.warm} or self._by_rows
        self._most_rows = max(trusted)
        self._single = self._most_rows if len(trusted) == 1 else None
        self._fixed_s, self._row_s = _line(
            [(n, known.median_s, known.weight(at)) for n, known in trusted.items()]
        )

    def is_warm(self, rows: int) -> bool:
        """Whether a step of so many rows was measured more than once."""
        return rows in self._by_rows and self._by_rows[rows].warm

    def step_s(self, rows: int) -> float:
        if self._single is not None:
            # Fewer rows than measured may cost as much as those did; more rows cost at most in proportion.
            return self._by_rows[self._single].median_s * max(1.0, rows / self._single)
        return self._fixed_s + self._row_s * rows

    def hoped_step_s(self, rows: int) -> float:
        return self.step_s(min(rows, self._most_rows))


def _line(points: list[tuple[int, float, float]]) -> tuple[float, float]:
    """Least squares, with more weight for short durations, which vary less.

    Args:
        points: Rows, seconds and weight of each.

    Returns:
        Seconds of no row and of each further one, neither negative.
    """
    weighted = [(rows, seconds, weight / max(seconds, 1e-9)) for rows, seconds, weight in points]
    total = sum(weight for _, _, weight in weighted)
    mean_rows = sum(weight * rows for rows, _, weight in weighted) / total
    mean_s = sum(weight * seconds for _, seconds, weight in weighted) / total
    spread = sum(weight * (rows - mean_rows) ** 2 for rows, _, weight in weighted)
    if spread <= 0:
        return mean_s, 0.0
    row_s = max(0.0, sum(w * (rows - mean_rows) * (s - mean_s) for rows, s, w in weighted) / spread)
    fixed_s = mean_s - row_s * mean_rows
    if fixed_s >= 0:
        return fixed_s, row_s
    squares = sum(weight * rows**2 for rows, _, weight in weighted)
    return 0.0, sum(weight * rows * seconds for rows, seconds, weight in weighted) / squares


class StepTimes:
    """Seconds per denoising step by (shape, rows) and per decode by shape. Not thread-safe.

    Args:
        filled_rows: How many rows a step of so many rows really has, where steps are filled up. Such steps are the
            same work whoever's rows they are, so they are measured as one: were they told apart, a device that was
            slow while one kind was drawn would be taken to be slower with that kind.
    """

    def __init__(self, filled_rows: Callable[[int], int] = int) -> None:
        self._filled_rows = filled_rows
        self._steps: OrderedDict[Shape, _RowCosts] = OrderedDict()
        self._decodes: OrderedDict[Shape, _Durations] = OrderedDict()
        self._recorded = 0

    @property
    def measured(self) -> bool:
        """Whether at least one step was measured; predictions mean nothing before."""
        return bool(self._steps)

    def record_step(self, shape: Shape, rows: int, seconds: float) -> None:
        """Learns from one step of `rows` rows, before they were filled up."""
        self._recorded += 1
        self._steps.setdefault(shape, _RowCosts()).add(self._filled_rows(rows), seconds, self._recorded)
        self._steps.move_to_end(shape)
        if len(self._steps) > _MAX_SHAPES:
            self._steps.popitem(last=False)

    def record_decode(self, shape: Shape, seconds: float) -> None:
        """Learns from one decode."""
        self._decodes.setdefault(shape, _Durations()).add(seconds)
        self._decodes.move_to_end(shape)
        if len(self._decodes) > _MAX_SHAPES:
            self._decodes.popitem(last=False)

    def is_warm(self, shape: Shape, rows: int) -> bool:
        """Whether such a step was measured more than once: the first one may have taken thirty times as long."""
        return shape in self._steps and self._steps[shape].is_warm(self._filled_rows(rows))

    def is_decode_warm(self, shape: Shape) -> bool:
        """Likewise, of a decode."""
        return shape in self._decodes and self._decodes[shape].warm

    def step_s(self, shape: Shape, rows: int) -> float:
        """Seconds of one step; scaled from the nearest measured shape where this one is new."""
        rows = self._filled_rows(rows)
        if shape in self._steps:
            return self._steps[shape].step_s(rows)
        if not self._steps:
            return _UNMEASURED_S_PER_PIXEL_ROW * shape[0] * shape[1] * rows
        near = min(self._steps, key=lambda known: abs(known[0] * known[1] - shape[0] * shape[1]))
        return self._steps[near].step_s(rows) * (shape[0] * shape[1]) / (near[0] * near[1])

    def hoped_step_s(self, shape: Shape, rows: int) -> float:
        """Like `step_s`, but more rows than ever measured are taken to cost nothing more, so that they are tried."""
        if shape not in self._steps:
            return self.step_s(shape, 1)
        return self._steps[shape].hoped_step_s(self._filled_rows(rows))

    def decode_s(self, shape: Shape) -> float:
        """Seconds of one decode; 0 before the first measurement."""
        if not self._decodes:
            return 0.0
        near = min(self._decodes, key=lambda known: abs(known[0] * known[1] - shape[0] * shape[1]))
        return self._decodes[near].median_s * (shape[0] * shape[1]) / (near[0] * near[1])

    def row_step_s(self, shape: Shape, rows: int, max_rows: int) -> float:
        """Seconds that one row's step costs where `rows` rows of its shape are batched as well as `max_rows` allows."""
        batch = min(rows, max_rows)
        return self.step_s(shape, batch) / batch

    def work_s(self, pictures: Iterable[Picture], max_rows: int, *, most_steps: int | None = None) -> float:
        """Seconds to do the remaining work of `pictures`, batched by shape as well as `max_rows` allows.

        They are seconds of one thread of work: decodes beside the steps are added to them; see `Pace`.

        Args:
            pictures: Waiting or running.
            max_rows: Most rows of a step.
            most_steps: Counts at most so many steps of each picture: what lies before a picture with
                that many steps, because those with more to do make room for it.
        """
        row_steps: dict[Shape, int] = {}
        rows: dict[Shape, int] = {}
        decodes: dict[Shape, int] = {}
        for picture in pictures:
            shape, own_rows, steps = picture.shape, picture.rows, picture.remaining_steps
            if most_steps is not None:
                steps = min(steps, most_steps)
            row_steps[shape] = row_steps.get(shape, 0) + steps * own_rows
            rows[shape] = rows.get(shape, 0) + own_rows
            decodes[shape] = decodes.get(shape, 0) + 1
        return sum(
            count * self.decode_s(shape) + row_steps[shape] * self.row_step_s(shape, rows[shape], max_rows)
            for shape, count in decodes.items()
        )
