"""Every metric of the service: its name, kind, labels and meaning, in one table; and the protocol that records them.

Ray exports them on each node's metrics endpoint with the prefix ``ray_``, counters with the suffix ``_total``, and
adds ``application``, ``deployment`` and ``replica``. ``docs/operate.md`` lists them.

Ray rebuilds a histogram from its buckets' middles, so its ``_sum`` is only near the truth: means are made of counters.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from serve_app.errors import ImagineError


class Kind(StrEnum):
    """How a metric adds up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


# From a step on a fast device to the wait for a node that must be bought and booted first.
_SECONDS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    900.0,
    1800.0,
)
# Around whole numbers, so that those up to 8 are told exactly.
_ROWS = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 10.5, 12.5, 16.5, 24.5, 32.5, 64.5, 128.5, 256.5)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: Without Ray's prefix and suffix.
        kind: How it adds up.
        labels: Names of its labels; each has a bounded number of values.
        description: What one unit of it means.
        boundaries: Upper bounds of a histogram's buckets.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    description: str
    boundaries: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """Its name at Ray's metrics endpoint; a histogram's has ``_bucket``, ``_sum`` and ``_count`` behind it."""
        return f"ray_{self.name}" + ("_total" if self.kind is Kind.COUNTER else "")


HTTP_REQUESTS = Metric(
    "imagine_http_requests",
    Kind.COUNTER,
    ("route", "contract", "method", "status"),
    "Answered HTTP requests; status 499 where the client left first",
)
HTTP_SECONDS = Metric(
    "imagine_http_request_seconds",
    Kind.HISTOGRAM,
    ("route", "contract"),
    "Seconds from a request's arrival to the end of its answer",
    _SECONDS,
)
HTTP_IN_FLIGHT = Metric("imagine_http_in_flight", Kind.GAUGE, (), "HTTP requests being answered")
DRAWINGS = Metric(
    "imagine_drawings",
    Kind.COUNTER,
    ("outcome",),
    "Drawings that ended: finished, cancelled, or the kind of error that the caller was told",
)
DRAWING_WAIT_SECONDS = Metric(
    "imagine_drawing_wait_seconds",
    Kind.HISTOGRAM,
    ("pool",),
    "Seconds of a finished drawing outside its replica: waiting for one to start or be replaced, and routing",
    _SECONDS,
)
DRAWN_IMAGES = Metric(
    "imagine_drawn_images", Kind.COUNTER, ("pool", "model"), "Pictures of finished drawings"
)
COST = Metric(
    "imagine_cost", Kind.COUNTER, ("pool", "model"), "Their cost, in the currency of price_per_hour"
)
POOL_ATTEMPTS = Metric(
    "imagine_pool_attempts",
    Kind.COUNTER,
    ("pool", "outcome"),
    "Drawings handed to a pool, by how they ended there; after pool_unavailable and queue_full the router goes on",
)
POOL_IN_FLIGHT = Metric("imagine_pool_in_flight", Kind.GAUGE, ("pool",), "Drawings a pool has in hand")
IMAGES = Metric(
    "imagine_images", Kind.COUNTER, ("pool", "outcome"), "Pictures that ended in a replica, by how they ended"
)
STAGE_SECONDS = Metric(
    "imagine_stage_seconds",
    Kind.HISTOGRAM,
    ("pool", "stage"),
    "Seconds of a picture in each stage: queue, prepare, denoise, decode, encode",
    _SECONDS,
)
DEVICE_SECONDS = Metric(
    "imagine_device_seconds", Kind.COUNTER, ("pool",), "Seconds of the device that finished pictures took"
)
STAGE_TIME = Metric(
    "imagine_stage_time_seconds",
    Kind.COUNTER,
    ("pool", "stage"),
    "Seconds of all finished pictures in each stage, exactly",
)
STEPS = Metric("imagine_steps", Kind.COUNTER, ("pool",), "Denoising steps of whole batches")
STEPPED_ROWS = Metric(
    "imagine_stepped_rows", Kind.COUNTER, ("pool",), "UNet rows of all these steps, exactly"
)
STEPPING_TIME = Metric(
    "imagine_stepping_seconds", Kind.COUNTER, ("pool",), "Seconds of all these steps, exactly"
)
STEP_SECONDS = Metric(
    "imagine_step_seconds",
    Kind.HISTOGRAM,
    ("pool",),
    "Seconds of a denoising step of a whole batch",
    _SECONDS,
)
STEP_ROWS = Metric("imagine_step_rows", Kind.HISTOGRAM, ("pool",), "UNet rows of a denoising step", _ROWS)
# A gauge, since a counter of Ray's does not exist before its first event, and an alert needs the 0 before it.
OUT_OF_MEMORY = Metric(
    "imagine_out_of_memory_steps",
    Kind.GAUGE,
    ("pool",),
    "Steps in this replica's life that found no memory and were made again",
)
QUEUED_IMAGES = Metric("imagine_queued_images", Kind.GAUGE, ("pool",), "Accepted pictures not yet prepared")
RUNNING_IMAGES = Metric("imagine_running_images", Kind.GAUGE, ("pool",), "Pictures being drawn")
ROWS_IN_FLIGHT = Metric(
    "imagine_rows_in_flight", Kind.GAUGE, ("pool",), "UNet rows of the pictures being drawn"
)
PREDICTED_WAIT_SECONDS = Metric(
    "imagine_predicted_wait_seconds",
    Kind.GAUGE,
    ("pool",),
    "Predicted seconds until all accepted work is done",
)
STUCK_SECONDS = Metric(
    "imagine_stuck_seconds", Kind.GAUGE, ("pool",), "Seconds since the engine last got anywhere; 0 while idle"
)
STORE_PUT_SECONDS = Metric(
    "imagine_store_put_seconds", Kind.HISTOGRAM, ("outcome",), "Seconds to store a picture", _SECONDS
)
STORE_WRITTEN_BYTES = Metric("imagine_store_written_bytes", Kind.COUNTER, (), "Bytes of stored pictures")
STORE_BYTES = Metric(
    "imagine_store_bytes", Kind.GAUGE, (), "Bytes of all kept pictures, as of the last clean-up"
)
STORE_PICTURES = Metric("imagine_store_pictures", Kind.GAUGE, (), "Kept pictures, as of the last clean-up")

METRICS: tuple[Metric, ...] = (
    HTTP_REQUESTS,
    HTTP_SECONDS,
    HTTP_IN_FLIGHT,
    DRAWINGS,
    DRAWING_WAIT_SECONDS,
    DRAWN_IMAGES,
    COST,
    POOL_ATTEMPTS,
    POOL_IN_FLIGHT,
    IMAGES,
    STAGE_SECONDS,
    DEVICE_SECONDS,
    STAGE_TIME,
    STEPS,
    STEPPED_ROWS,
    STEPPING_TIME,
    STEP_SECONDS,
    STEP_ROWS,
    OUT_OF_MEMORY,
    QUEUED_IMAGES,
    RUNNING_IMAGES,
    ROWS_IN_FLIGHT,
    PREDICTED_WAIT_SECONDS,
    STUCK_SECONDS,
    STORE_PUT_SECONDS,
    STORE_WRITTEN_BYTES,
    STORE_BYTES,
    STORE_PICTURES,
)
"""All of them."""


class Instruments(Protocol):
    """Records metrics, from any thread. `serve_app.telemetry.RayInstruments` is the real one."""

    def record(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Adds `value` to a counter, sets a gauge to it, or puts it into a histogram.

        Args:
            metric: Which.
            value: A counter ignores what is not above 0.
            **labels: All of the metric's labels.
        """
        ...

    def close(self) -> None:
        """Records what was only noted. Called when the process's work ends; may block for a second."""
        ...


class NoInstruments:
    """Records nothing."""

    def record(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class MemoryInstruments:
    """Keeps what it is told, for tests; as strict about labels as Ray.

    Attributes:
        counters: Sum by metric name and label values in the order of `Metric.labels`.
        gauges: Last value, likewise.
        observed: Every value of a histogram, likewise.
    """

    def __init__(self) -> None:
        self.counters: Counter[tuple[str, ...]] = Counter()
        self.gauges: dict[tuple[str, ...], float] = {}
        self.observed: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)

    def record(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Keeps it."""
        if set(labels) != set(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
        key = (metric.name, *(labels[name] for name in metric.labels))
        if metric.kind is Kind.COUNTER:
            self.counters[key] += value  # type: ignore[assignment]  # whole numbers and others
        elif metric.kind is Kind.GAUGE:
            self.gauges[key] = value
        else:
            self.observed[key].append(value)

    def close(self) -> None:
        """Nothing: all is kept at once."""


def kind_of(error: BaseException) -> str:
    """The label of an error: ``QueueFull`` is ``queue_full``; what is none of ours is ``internal``."""
    if not isinstance(error, ImagineError):
        return "internal"
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
