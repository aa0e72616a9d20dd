"""Metrics noted now and recorded later add up to the same."""

from __future__ import annotations

import threading
import time

import pytest

from serve_app import metrics
from serve_app.metrics import MemoryInstruments, Metric
from serve_app.paced_instruments import MAX_NOTED_VALUES, PacedInstruments

NEVER_S = 3600.0


def test_what_was_noted_is_recorded_once() -> None:
    recorded = MemoryInstruments()
    paced = PacedInstruments(recorded, NEVER_S)
    for number in range(5):
        paced.record(metrics.DRAWINGS, outcome="finished")
        paced.record(metrics.POOL_IN_FLIGHT, number, pool="a")
        paced.record(metrics.HTTP_SECONDS, float(number), route="/imagine", contract="imagine")
    paced.record(metrics.COST, 0.25, pool="a", model="m")
    paced.record(metrics.COST, -1.0, pool="a", model="m")
    assert not recorded.counters
    for _ in range(2):
        paced.flush()
        assert recorded.counters == {("imagine_drawings", "finished"): 5, ("imagine_cost", "a", "m"): 0.25}
        assert recorded.gauges == {("imagine_pool_in_flight", "a"): 4}
        assert recorded.observed[("imagine_http_request_seconds", "/imagine", "imagine")] == [0, 1, 2, 3, 4]
    paced.close()


def test_a_gauge_is_recorded_for_as_long_as_its_process_lives() -> None:
    """Ray exports a gauge for twenty seconds after it was set."""

    class Counting(MemoryInstruments):
        def record(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
            recorded_values.append((metric, value))

    recorded_values: list[tuple[Metric, float]] = []
    paced = PacedInstruments(Counting(), NEVER_S)
    paced.record(metrics.HTTP_IN_FLIGHT, 1)
    paced.record(metrics.DRAWINGS, outcome="finished")
    paced.flush()
    paced.flush()
    paced.record(metrics.HTTP_IN_FLIGHT, 0)
    paced.flush()
    paced.close()
    assert [value for metric, value in recorded_values if metric is metrics.HTTP_IN_FLIGHT] == [1, 1, 0, 0]
    assert [value for metric, value in recorded_values if metric is metrics.DRAWINGS] == [1]


def test_labels_are_told_apart_whatever_their_order() -> None:
    recorded = MemoryInstruments()
    paced = PacedInstruments(recorded, NEVER_S)
    paced.record(metrics.COST, 1.0, pool="a", model="b")
    paced.record(metrics.COST, 2.0, model="a", pool="b")
    paced.record(metrics.COST, 4.0, model="b", pool="a")
    paced.close()
    assert recorded.counters == {("imagine_cost", "a", "b"): 5.0, ("imagine_cost", "b", "a"): 2.0}


def test_it_records_by_itself_and_at_the_end() -> None:
    recorded = MemoryInstruments()
    paced = PacedInstruments(recorded, 0.01)
    paced.record(metrics.DRAWINGS, outcome="finished")
    deadline = time.monotonic() + 30.0
    while not recorded.counters:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    paced.record(metrics.DRAWINGS, outcome="finished")
    paced.close()
    assert recorded.counters[("imagine_drawings", "finished")] == 2


def test_nothing_is_lost_between_threads() -> None:
    recorded = MemoryInstruments()
    paced = PacedInstruments(recorded, 0.001)

    def note() -> None:
        for _ in range(2000):
            paced.record(metrics.DRAWINGS, outcome="x")

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    paced.close()
    assert recorded.counters[("imagine_drawings", "x")] == 8000


def test_what_cannot_be_recorded_is_logged_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryInstruments):
        def record(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
            if metric in (metrics.COST, metrics.STORE_BYTES):
                raise ValueError("no such label")
            super().record(metric, value, **labels)

    recorded = Broken()
    paced = PacedInstruments(recorded, NEVER_S)
    paced.record(metrics.COST, 1.0, pool="a", model="b")
    paced.record(metrics.STORE_BYTES, 1.0)
    paced.record(metrics.DRAWINGS, outcome="finished")
    paced.flush()
    paced.close()
    assert caplog.text.count("imagine_store_bytes could not be recorded") == 1
    assert "imagine_cost could not be recorded" in caplog.text
    assert recorded.counters[("imagine_drawings", "finished")] == 1


def test_memory_is_bounded() -> None:
    recorded = MemoryInstruments()
    paced = PacedInstruments(recorded, NEVER_S)
    for number in range(MAX_NOTED_VALUES + 5):
        paced.record(metrics.STORE_PUT_SECONDS, float(number), outcome="finished")
    paced.close()
    observed = recorded.observed[("imagine_store_put_seconds", "finished")]
    assert (len(observed), observed[0]) == (MAX_NOTED_VALUES, 5.0)
