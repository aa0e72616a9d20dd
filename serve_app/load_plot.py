"""A load test as one SVG picture, made without any plotting library: latency over time, and its percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from serve_app.load_test import PERCENTILES, REFUSALS, Sample, percentiles

WIDTH, HEIGHT = 900, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 90, 40, 50
_COLOURS = {"answered": "#2a6fdb", "refused": "#e0a100", "failed": "#d1352b"}


def plot(samples: Sequence[Sample], title: str) -> str:
    """The SVG document. Latencies are on a logarithmic scale, since waits of seconds and of minutes both matter."""
    shown = [sample for sample in samples if sample.latency_s > 0]
    lowest, highest = _decades([sample.latency_s for sample in shown])
    span_s = max([sample.due_s for sample in shown], default=1.0) or 1.0

    def x(due_s: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * due_s / span_s

    def y(latency_s: float) -> float:
        share = (math.log10(latency_s) - lowest) / (highest - lowest)
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for decade in range(lowest, highest + 1):
        height = y(10.0**decade)
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="#ddd"/>'
        )
        parts.append(
            f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{10.0**decade:g} s</text>'
        )
    for tick in range(6):
        at = span_s * tick / 5
        parts.append(
            f'<text x="{x(at):.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{at:.0f}</text>'
        )
    parts.append(
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">seconds since the start</text>'
    )
    for sample in shown:
        kind = _kind(sample)
        parts.append(
            f'<circle cx="{x(sample.due_s):.1f}" cy="{y(sample.latency_s):.1f}" r="2.5" fill="{_COLOURS[kind]}" '
            f'fill-opacity="0.6"><title>{escape(sample.outcome)} {sample.latency_s:.3f} s</title></circle>'
        )
    found = percentiles([sample.latency_s for sample in shown if sample.answered])
    label = HEIGHT + 0.0
    for name in (f"p{p}" for p in PERCENTILES if f"p{p}" in found):
        height = y(max(found[name], 10.0**lowest))
        label = min(height + 4, label - 13)  # each above the one before, also where they nearly coincide
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="#2a6fdb" '
            f'stroke-dasharray="4 3"/><text x="{WIDTH - _RIGHT + 4}" y="{label:.1f}">{name} '
            f"{found[name]:.2f} s</text>"
        )
    for number, (kind, colour) in enumerate(_COLOURS.items()):
        count = sum(_kind(sample) == kind for sample in samples)
        parts.append(f'<text x="{WIDTH - 320 + 105 * number}" y="22" fill="{colour}">{count} {kind}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _kind(sample: Sample) -> str:
    return "answered" if sample.answered else "refused" if sample.outcome in REFUSALS else "failed"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Powers of ten around all values."""
    lowest, highest = min(values, default=0.1), max(values, default=1.0)
    low, high = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    return low, max(high, low + 1)
