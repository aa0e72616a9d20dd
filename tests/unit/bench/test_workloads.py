"""The benchmark's arrivals."""

from __future__ import annotations

import statistics
from collections import Counter
from itertools import pairwise

import pytest

from bench.batching.workloads import sweeps, trace

KINDS = sweeps(256)[0].kinds


def test_every_rate_gets_the_same_arrivals_faster_or_slower() -> None:
    slow, fast = (trace(KINDS, 30, rate, seed=1) for rate in (1.0, 4.0))
    assert [job.at_s for job in slow] == pytest.approx([4 * job.at_s for job in fast])
    assert [(job.kind, job.seed) for job in slow] == [(job.kind, job.seed) for job in fast]
    assert [job.at_s for job in trace(KINDS, 30, 1.0, seed=2)] != [job.at_s for job in slow]


def test_a_short_trace_has_exactly_its_rate_and_its_mix() -> None:
    jobs = trace(KINDS, 30, 2.0, seed=3)
    assert jobs[-1].at_s == pytest.approx(15.0)
    assert set(Counter(job.kind for job in jobs).values()) == {10}


def test_gaps_are_exponential() -> None:
    jobs = trace(KINDS, 4000, 1.0, seed=4)
    gaps = [later.at_s - job.at_s for job, later in pairwise(jobs)]
    assert statistics.stdev(gaps) == pytest.approx(1.0, rel=0.1)
    assert sum(gap > 2.0 for gap in gaps) / len(gaps) == pytest.approx(0.135, abs=0.02)


def test_no_prompt_comes_twice_in_a_run() -> None:
    jobs = [job for label in ("a", "b") for job in trace(KINDS, 200, 1.0, seed=5, label=label)]
    assert len({job.prompt for job in jobs}) == 400


def test_sizes_are_ones_that_stock_diffusers_takes() -> None:
    for workload in sweeps(192):
        assert all(kind.width % 16 == 0 and kind.height % 16 == 0 for kind in workload.kinds)
