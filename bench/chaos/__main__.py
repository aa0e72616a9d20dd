"""Constant load on the service over several Ray nodes of this machine, while its parts are killed in turn.

Run ``python -m bench.chaos --minutes 10``. The pools draw with the accelerator ``fake``: what is measured is what
clients notice, not how fast pictures are. Faults come one after the other, each after the last one is healed: a pool's
replica, an ingress replica, the keeper of the jobs, a step that hangs, a whole node, Serve's controller, the HTTP
proxy. The table goes to stderr, the whole as JSON to stdout. The exit status is 1 when a promise was not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.chaos.cluster import ChaosCluster
from bench.chaos.faults import Fault, Injury, answers_again, inject, whole_again
from bench.chaos.load import ConstantLoad
from bench.chaos.log_lines import DrawnAgain
from bench.chaos.orders import Way
from bench.chaos.report import HEALED_WITHIN_S, as_data, checks_of, figures

CALM_S = 5.0
"""Between the healing of one fault and the next one."""

_PATIENCE_S = 2.0 * HEALED_WITHIN_S  # then the next fault comes all the same, and the check has failed

log = logging.getLogger("bench.chaos")


async def run(
    cluster: ChaosCluster, *, minutes: float, seed: int, rate: float, faults: list[Fault]
) -> dict[str, Any]:
    """The load and the faults.

    Args:
        cluster: Running.
        minutes: How long requests are sent. No fault begins later, so the last one is healed a little after that.
        seed: Of requests and victims.
        rate: Requests per second.
        faults: In turn, from the first on again when all of them were there.

    Returns:
        The report.
    """
    load = ConstantLoad(cluster.url, rate=rate, seed=seed)
    await load.learn()
    again, stop = DrawnAgain(cluster.log_dir), asyncio.Event()
    await asyncio.to_thread(again.since_last)
    sending = asyncio.create_task(load.run(stop))
    injuries: list[Injury] = []
    drawn_again: list[int] = []
    chance = random.Random(seed + 1)
    try:
        await asyncio.sleep(2 * CALM_S)
        for fault in itertools.cycle(faults):
            if load.now_s >= minutes * 60:
                break
            drawn_again.append(await asyncio.to_thread(again.since_last))
            injuries.append(Injury(fault, load.now_s))
            await _one_fault(injuries[-1], cluster, load, chance)
            await asyncio.sleep(CALM_S)
        stop.set()
        await sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    drawn_again.append(await asyncio.to_thread(again.since_last))
    stretches = figures(load.samples, injuries, drawn_again)
    checks = checks_of(load.samples, injuries, stretches)
    return {
        "minutes": round(load.now_s / 60, 2),
        "seed": seed,
        "rate_per_s": rate,
        "requests": len(load.samples),
        "not_sent": load.not_sent,
        "faults": as_data(stretches),
        "checks": {check.name: {"passed": check.passed, "seen": check.seen} for check in checks},
        "passed": all(check.passed for check in checks),
    }


async def _one_fault(
    injury: Injury, cluster: ChaosCluster, load: ConstantLoad, chance: random.Random
) -> None:
    """Lets it happen and waits until all is well again, or until there is no more patience."""

    def now_s() -> float:
        return load.now_s

    async with asyncio.TaskGroup() as watching:

        def about_to() -> None:
            injury.at_s = now_s()
            injury.in_flight_at_ingress = load.in_flight(Way.BYTES, Way.OPENAI)
            # Only after the kill, since nothing is awaited in between, does it get its turn.
            watching.create_task(answers_again(injury, cluster.url, now_s, _PATIENCE_S))

        try:
            await inject(injury, cluster, chance, about_to)
        except TimeoutError:
            log.error("%s: nothing died of it", injury.fault.value)
            return
        log.info("%5.1f s: %s, pids %s", injury.at_s, injury.fault.value, sorted(injury.dead_pids))
        await whole_again(injury, cluster, now_s, _PATIENCE_S)


def show(report: dict[str, Any], console: Console) -> None:
    """The report for people."""
    columns = [name for name in report["faults"][0] if name != "at_s"]
    table = Table(*(name.replace("_", " ") for name in columns), box=None)
    for one in report["faults"]:
        table.add_row(*("-" if one[name] is None else str(one[name]) for name in columns))
    console.print(table)
    checks = Table("promise", "kept", "seen", box=None)
    for name, check in report["checks"].items():
        checks.add_row(name, "yes" if check["passed"] else "NO", check["seen"])
    console.print(checks)


def main(
    minutes: Annotated[float, typer.Option(min=0.2, max=120.0, help="How long requests are sent.")] = 10.0,
    seed: Annotated[int | None, typer.Option(help="Of requests and victims; printed.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second.")] = 6.0,
    fault: Annotated[
        list[Fault] | None, typer.Option(help="Only this one; several times for several.")
    ] = None,
) -> None:
    """Kill parts of the service under load, and tell what its clients notice."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    seed = random.randrange(2**31) if seed is None else seed
    # What Ray prints about dead workers is not a part of the report.
    with contextlib.redirect_stdout(sys.stderr), ChaosCluster() as cluster:
        report = asyncio.run(run(cluster, minutes=minutes, seed=seed, rate=rate, faults=fault or list(Fault)))
    show(report, Console(stderr=True, width=200))
    print(json.dumps(report))
    sys.exit(0 if report["passed"] else 1)


if __name__ == "__main__":
    typer.run(main)
