"""Random traffic on the bundled model for minutes, with failures injected, and checks of what the engine promises.

Run ``python -m bench.soak --minutes 60``; with ``--service`` it is the whole service over HTTP (`bench.service_soak`).
Requests of all kinds come in bursts and lulls; some are cancelled, some too late, some poisoned (`bench.poison`), steps
and decodes run out of memory now and then, a few listeners raise.
The exit status is 1 when a check fails. The table of the checks goes to stderr, the whole as JSON to stdout.
"""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench.poison import MARKS, PoisonedPipeline
from bench.service_soak import soak_service
from bench.soak_checks import MIN_GROWTH_RUN_S, Check, checks_of
from bench.soak_listener import Asked, Tally
from bench.soak_warm_up import draw_every_size
from serve_app import accelerators
from serve_app.engine import Engine, Ticket
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import DeadlineExceeded, Overloaded
from serve_app.noise_schedulers import NOISE_SCHEDULERS
from serve_app.request import GenerationRequest, Priority, new_request_id
from serve_app.settings import BUNDLED_MODEL, PoolSettings

MAX_QUEUED_IMAGES = 24
# Pictures, as shares of the queue's bound; at the last one it has to refuse.
_BACKLOGS = (0.0, 0.1, 0.3, 0.7, 1.0, 10.0)
_PHASE_S = 6.0  # mean time at one backlog
_MEMORY_SHARE = 0.2  # of the time steps are short of memory
_DECODE_OOM_SHARE = 0.02  # of the decodes
_DRAIN_S = 300.0
_SUBJECTS = ("star", "circle", "square", "cat", "house", "tree", "moon", "fish")
_COLOURS = ("yellow", "red", "green", "blue", "black", "white", "purple", "orange")
_SIDES = (64, 96, 128, 160, 192, 256)


@dataclass(frozen=True)
class Reading:
    """What was seen of the process at one time.

    Attributes:
        at_s: Seconds since the start.
        rss_bytes: Resident memory.
        threads: Threads of the process.
        files: Its open file handles, sockets among them.
        rows_per_step: Rows of the last step.
        queued: Pictures waiting.
        stuck_s: Seconds since the engine got anywhere.
    """

    at_s: float
    rss_bytes: int
    threads: int
    files: int
    rows_per_step: int
    queued: int
    stuck_s: float


class Soak:
    """One run.

    Args:
        pipeline: The clean pipeline; it is poisoned here.
        minutes: How long requests are submitted.
        seed: Of all random choices.
        most_samples: Most pictures compared with those drawn alone.
        max_queued_images: Most pictures that may wait.
    """

    def __init__(
        self,
        pipeline: StepPipeline,
        *,
        minutes: float,
        seed: int,
        most_samples: int,
        max_queued_images: int = MAX_QUEUED_IMAGES,
    ) -> None:
        self.clean = pipeline
        self.max_queued_images = max_queued_images
        self.duration_s = minutes * 60
        self._random = random.Random(seed)
        self.poisoned = PoisonedPipeline(pipeline, seed=seed + 1)
        self.poisoned.decode_oom_share = _DECODE_OOM_SHARE
        self.engine = Engine(self.poisoned, max_queued_images=max_queued_images)
        self._most_samples = most_samples
        self._phase_s = min(_PHASE_S, self.duration_s / 10)
        self._cancels: list[tuple[float, int, Ticket, Asked]] = []
        self._numbers = itertools.count()
        self._open: set[Asked] = set()
        self.accepted_pictures = 0
        self.refused: Counter[str] = Counter()
        self.readings: list[Reading] = []

    def unheard(self) -> int:
        """Accepted pictures whose end nobody heard of."""
        return sum(asked.request.num_images - len(asked.ended) for asked in self._open)

    def run(self) -> dict[str, Any]:
        """Submits, drains, stops, checks; the report as plain data."""
        if self.duration_s >= MIN_GROWTH_RUN_S:
            draw_every_size(self.clean, _SIDES)
        with tempfile.TemporaryDirectory() as folder:
            self.tally = Tally(self.poisoned, Path(folder), self._most_samples)
            self.engine.start()
            began = time.monotonic()
            try:
                self._submit_until(began, began + self.duration_s)
                self.poisoned.memory_rows = None
                drained = self._drain(began)
            finally:
                stopped = self.engine.stop(_DRAIN_S)
            checks = checks_of(self, drained=drained, stopped=stopped)
        return self._report(checks)

    def _submit_until(self, began: float, until: float) -> None:
        backlog, next_phase, next_reading = 0.0, began, began
        while (now := time.monotonic()) < until:
            if now >= next_phase:
                backlog = self._random.choice(_BACKLOGS) * self.max_queued_images
                next_phase = now + self._random.expovariate(1 / self._phase_s)
                scarce = self._random.random() < _MEMORY_SHARE
                # Two rows always fit: a guided picture alone.
                self.poisoned.memory_rows = self._random.randint(2, 6) if scarce else None
            if now >= next_reading:
                self._read(now - began)
                next_reading = now + min(1.0, self.duration_s / 50)
            self._cancel_due(now)
            self._open = {asked for asked in self._open if len(asked.ended) < asked.request.num_images}
            if self._unfinished() < backlog:
                self._submit()
            time.sleep(self._random.uniform(0.0, 0.03))

    def _unfinished(self) -> int:
        stats = self.engine.stats()
        return stats.queued_images + stats.running_images

    def _submit(self) -> None:
        chance = self._random.random
        asked = Asked(
            self._request(),
            self.tally,
            kept=chance() < 0.3,
            raises_at=self._random.randint(0, 3) if chance() < 0.02 else None,
        )
        try:
            ticket = self.engine.submit(asked.request, asked)
        except (Overloaded, DeadlineExceeded) as refusal:
            self.refused[type(refusal).__name__] += 1
            if isinstance(refusal, Overloaded) and refusal.retry_after_s <= 0:
                self.tally.wrong(f"retry after {refusal.retry_after_s} s")
            return
        self.accepted_pictures += asked.request.num_images
        self._open.add(asked)
        if chance() < 0.15:
            at = time.monotonic() + self._random.expovariate(1.0)
            heapq.heappush(self._cancels, (at, next(self._numbers), ticket, asked))

    def _request(self) -> GenerationRequest:
        pick, chance = self._random.choice, self._random.random
        prompt = f"a {pick(_COLOURS)} {pick(_SUBJECTS)} on a {pick(_COLOURS)} background"
        if chance() < 0.08:
            prompt = f"{prompt}, {pick(MARKS)}"
        elif chance() < 0.1:
            prompt = ", ".join([prompt] * 12)  # longer than the text encoders' window
        return GenerationRequest(
            request_id=new_request_id(),
            prompt=prompt,
            negative_prompt=pick(("", "", "blurry")),
            height=pick(_SIDES),
            width=pick(_SIDES),
            num_inference_steps=self._random.randint(1, 8),
            guidance_scale=pick((0.0, 0.0, 1.0, 3.0, 7.5)),
            seed=self._random.randrange(2**32),
            num_images=pick((1, 1, 1, 2, 4)),
            scheduler_name=pick((None, *(scheduler.name for scheduler in NOISE_SCHEDULERS))),
            priority=pick(list(Priority)),
            deadline=time.time() + self._random.uniform(0.01, 8.0) if chance() < 0.12 else None,
            preview_every=pick((0, 0, 1)),
        )

    def _cancel_due(self, now: float) -> None:
        while self._cancels and self._cancels[0][0] <= now:
            _, _, ticket, asked = heapq.heappop(self._cancels)
            asked.cancelled = True
            ticket.cancel()

    def _read(self, at_s: float) -> None:
        process, stats = psutil.Process(), self.engine.stats()
        self.readings.append(
            Reading(
                at_s,
                process.memory_info().rss,
                process.num_threads(),
                process.num_fds(),
                stats.last_step_rows,
                stats.queued_images,
                stats.stuck_for_s,
            )
        )

    def _drain(self, began: float) -> bool:
        until = time.monotonic() + _DRAIN_S
        while self._unfinished() and time.monotonic() < until:
            self._cancel_due(time.monotonic())
            time.sleep(0.02)
        # A picture leaves the engine just before its listener hears of it.
        while sum(self.tally.ends.values()) < self.accepted_pictures and time.monotonic() < until:
            time.sleep(0.02)
        self.drained_after_s = time.monotonic() - began - self.duration_s
        return not self._unfinished()

    def _report(self, checks: list[Check]) -> dict[str, Any]:
        stats = self.engine.stats()
        fifth = max(1, len(self.readings) // 5)
        return {
            "minutes": round(self.duration_s / 60, 2),
            "accepted_pictures": self.accepted_pictures,
            "ends": dict(self.tally.ends),
            "refused": dict(self.refused),
            "steps": stats.steps_done,
            "oom_steps": self.poisoned.oom_steps,
            "oom_decodes": len(self.poisoned.oom_decodes),
            "rows_per_step_first_fifth": float(np.mean([r.rows_per_step for r in self.readings[:fifth]])),
            "rows_per_step_last_fifth": float(np.mean([r.rows_per_step for r in self.readings[-fifth:]])),
            "most_queued": max(reading.queued for reading in self.readings),
            "rss_mib": _first_and_last([reading.rss_bytes / 2**20 for reading in self.readings]),
            "threads": _first_and_last([reading.threads for reading in self.readings]),
            "files": _first_and_last([reading.files for reading in self.readings]),
            "drained_after_s": round(self.drained_after_s, 1),
            "checks": {check.name: {"passed": check.passed, "seen": check.seen} for check in checks},
            "passed": all(check.passed for check in checks),
            "problems": self.tally.problems[:20],
        }


def _first_and_last(values: list[float]) -> list[float]:
    return [round(values[0], 1), round(values[-1], 1)]


def main(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long requests are submitted.")] = 10.0,
    seed: Annotated[int | None, typer.Option(help="Of all random choices; printed.")] = None,
    dtype: Annotated[str, typer.Option(help="As for `imagine serve`.")] = "float32",
    num_threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Most pictures to draw again alone.")] = 200,
    service: Annotated[
        bool, typer.Option("--service", help="The whole service over HTTP instead of the engine alone.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="With --service: as for `imagine serve`, or fake.")
    ] = BUNDLED_MODEL,
) -> None:
    """Put the engine, or the whole service, under random load and check what it promises."""
    logging.getLogger("serve_app").setLevel(
        logging.CRITICAL
    )  # failures are ordered here; no need to read of each
    seed = random.randrange(2**31) if seed is None else seed
    report: dict[str, Any]
    if service:
        report = soak_service(model, minutes=minutes, seed=seed, dtype=dtype, num_threads=num_threads)
    else:
        pool = PoolSettings.model_validate({"dtype": dtype, "num_threads": num_threads})
        pipeline = accelerators.choose("auto").load_pipeline(pool)
        report = Soak(pipeline, minutes=minutes, seed=seed, most_samples=samples).run()
    report = {"seed": seed} | report
    table = Table("check", "passed", "seen", box=None)
    for name, check in report["checks"].items():
        table.add_row(name, "yes" if check["passed"] else "NO", str(check["seen"]))
    console = Console(stderr=True)
    console.print({name: value for name, value in report.items() if name != "checks"})
    console.print(table)
    print(json.dumps(report))
    sys.exit(0 if report["passed"] else 1)


if __name__ == "__main__":
    typer.run(main)
