"""The arithmetic: `Round`s of all sides to medians, added latencies and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.closed_loop import Answer
from serve_app.load_test import percentiles

LEAST_SHARE = 0.95
"""Of the bare engine's throughput, for the whole service."""

Rounds = Sequence[Mapping[str, Sequence[Answer]]]
"""Answers of every side, by name, for each round of one number of clients."""


def pictures_per_s(answers: Sequence[Answer]) -> float:
    """Pictures over the time from the first question to the last answer."""
    began, ended = min(one.asked_s for one in answers), max(one.ended_s for one in answers)
    return len(answers) / (ended - began)


def side_figures(rounds: Rounds, baseline: str) -> dict[str, dict[str, Any]]:
    """Figures of every side, by name.

    Args:
        rounds: Of one number of clients.
        baseline: Name of the side that the others are compared with.

    Returns:
        For each: ``pictures_per_s`` (median of the rounds), ``latency_s`` over all rounds, ``share`` (median over the
        rounds of its throughput over the baseline's in the same round, so that what drifts concerns both),
        ``least_share`` and ``most_share`` of the rounds, and ``added_p50_s`` and ``added_p99_s`` over the baseline.
    """
    figures: dict[str, dict[str, Any]] = {}
    latencies = {
        name: percentiles([one.latency_s for turn in rounds for one in turn[name]]) for name in rounds[0]
    }
    for name in rounds[0]:
        rates = [pictures_per_s(turn[name]) for turn in rounds]
        shares = [rate / pictures_per_s(turn[baseline]) for rate, turn in zip(rates, rounds, strict=True)]
        figures[name] = {
            "pictures_per_s": round(statistics.median(rates), 4),
            "share": round(statistics.median(shares), 4),
            "least_share": round(min(shares), 4),
            "most_share": round(max(shares), 4),
            "latency_s": latencies[name],
            "added_p50_s": round(latencies[name]["p50"] - latencies[baseline]["p50"], 4),
            "added_p99_s": round(latencies[name]["p99"] - latencies[baseline]["p99"], 4),
        }
    return figures
