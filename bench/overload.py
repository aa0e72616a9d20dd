"""Five times as much as the service bears: what it still draws, how soon it refuses the rest, and what that costs.

Run ``python -m bench.overload``. It starts the whole service on this machine, measures its capacity with a closed loop,
then sends ``--factor`` times as much for ``--seconds``, at random moments that wait for nobody's answer, and measures
the capacity once more. Goodput is compared with the mean of both: a machine whose speed changes meanwhile, as those
that are shared do by more than the aim leaves room for, would decide the comparison with one of them. All of that
``--rounds`` times. The client is
one asyncio process, which drops the pictures; what of the machine it takes itself is told. Tables go to stderr, the
whole as JSON to stdout. The exit status is 1 when an aim is missed only with ``--strict``.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.closed_loop import Ask, closed_loop, rate_per_s
from bench.light_client import LightClient
from bench.overload_figures import aims_of, overload_figures, process_figures
from bench.whole_service import (
    ProcessReading,
    default_request,
    drawing_threads,
    pool_for,
    read_processes,
    whole_service,
)
from serve_app.load_test import PROMPTS, Load, Sample, run
from serve_app.settings import BUNDLED_MODEL, Settings, StoreSettings

_LONE_PICTURES = 5
_MOST_REFUSALS = 100
_QUEUE_SHARE = 0.75
"""`max_queue_s` over the seconds that are promised: accepted work takes up to a fifth longer than was predicted for it,
as neighbours take the machine now and then, and its own steps come on top."""

_SETTLE_S = 10.0
"""Most seconds at the beginning of each phase that are not counted."""


async def lone_picture_s(client: LightClient, query: dict[str, Any]) -> float:
    """Median seconds of a picture that nothing else is drawn beside."""
    answers = await closed_loop(_asking(client, query), clients=1, pictures=_LONE_PICTURES)
    return statistics.median(answer.latency_s for answer in answers)


async def measured_capacity_per_s(
    client: LightClient, query: dict[str, Any], *, clients: int, seconds: float, settle_s: float
) -> float:
    """Pictures a second that so many clients get who each ask for the next one when the last is there.

    Args:
        client: Of the service.
        query: What each asks for.
        clients: Enough of them to keep the device busy, and fewer than are refused.
        seconds: Counted.
        settle_s: Not counted, before.
    """
    answers = await closed_loop(_asking(client, query), clients=clients, seconds=settle_s + seconds)
    return rate_per_s([answer.ended_s for answer in answers], settle_s, settle_s + seconds)


def _asking(client: LightClient, query: dict[str, Any]) -> Ask:
    async def ask(number: int) -> None:
        params = {**query, "prompt": PROMPTS[number % len(PROMPTS)], "seed": number}
        for _ in range(_MOST_REFUSALS):
            answer = await client.get("imagine", params=params)
            if answer.status_code != 503:
                break
            # On a slow machine the queue's bound is less than all the clients: the others keep the device busy.
            await asyncio.sleep(float(answer.headers.get("retry-after", "1")))
        answer.raise_for_status()

    return ask


async def measure(
    url: str,
    query: dict[str, Any],
    *,
    bound_s: float,
    factor: float = 5.0,
    seconds: float = 120.0,
    capacity_seconds: float = 60.0,
    clients: int = 16,
    seed: int = 0,
) -> dict[str, Any]:
    """Capacity, overload, and capacity again, of the service at `url`.

    Args:
        url: Its address.
        query: Parameters of ``GET /imagine`` beside prompt and seed.
        bound_s: Seconds within which accepted work should be answered.
        factor: Arrivals over capacity.
        seconds: Of overload.
        capacity_seconds: Of each closed loop.
        clients: Of the closed loops.
        seed: Of the arrivals.

    Returns:
        `overload_figures` over the mean of both capacities, with both, ``lone_s``, ``offered_per_s``, ``client_cores``
        and ``processes`` (of this process's children).
    """
    async with LightClient(url) as client:
        capacity = partial(
            measured_capacity_per_s,
            client,
            query,
            clients=clients,
            seconds=capacity_seconds,
            settle_s=min(_SETTLE_S, capacity_seconds / 4),
        )
        lone_s = await lone_picture_s(client, query)
        capacity_before = await capacity()
        if capacity_before <= 0:
            raise RuntimeError(f"no picture came within {capacity_seconds:g} s")
        load = Load(factor * capacity_before, seconds, query, seed=seed)
        before, began, own_began = read_processes(), time.perf_counter(), time.process_time()
        halfway = asyncio.create_task(_read_after(seconds / 2))
        samples: list[Sample] = await run(load, client)
        took_s, own_s = time.perf_counter() - began, time.process_time() - own_began
        middle, after = await halfway, read_processes()
        capacity_after = await capacity()
    figures = overload_figures(
        samples,
        capacity_per_s=statistics.mean((capacity_before, capacity_after)),
        bound_s=bound_s,
        settle_s=min(_SETTLE_S, seconds / 4),
        seconds=seconds,
    )
    return {
        "offered_per_s": round(load.rate, 3),
        "lone_s": round(lone_s, 4),
        "capacity_before_per_s": round(capacity_before, 4),
        "capacity_after_per_s": round(capacity_after, 4),
        **figures,
        "client_cores": round(own_s / took_s, 3),
        "processes": process_figures(before, middle, after, took_s),
    }


async def _read_after(seconds: float) -> list[ProcessReading]:
    await asyncio.sleep(seconds)
    return await asyncio.to_thread(read_processes)


def main(
    model: Annotated[
        str, typer.Option(help="As for `imagine serve`, or fake: a pipeline that only waits.")
    ] = BUNDLED_MODEL,
    seconds: Annotated[float, typer.Option(min=4.0, help="Seconds of overload.")] = 120.0,
    capacity_seconds: Annotated[
        float, typer.Option(min=2.0, help="Seconds in which each capacity is measured.")
    ] = 60.0,
    rounds: Annotated[int, typer.Option(min=1, help="Of capacity, overload and capacity again.")] = 2,
    factor: Annotated[float, typer.Option(min=1.0, help="Load over capacity.")] = 5.0,
    clients: Annotated[int, typer.Option(min=1, help="Clients of the closed loop.")] = 16,
    bound_s: Annotated[
        float,
        typer.Option(
            min=1.0,
            help=f"Seconds promised for accepted work; the pool's max_queue_s is {_QUEUE_SHARE:g} of them.",
        ),
    ] = 10.0,
    steps: Annotated[int | None, typer.Option(min=1, help="num_inference_steps.")] = None,
    side: Annotated[int | None, typer.Option(min=64, help="Pixels of width and height.")] = None,
    num_threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads that draw; default: a core is left to those who refuse."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed is the same load; one more for each round.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 when an aim is missed.")] = False,
) -> None:
    """Overload a service of this machine's own and tell how it bears it."""
    query = default_request(model)
    query |= {} if steps is None else {"num_inference_steps": steps}
    query |= {} if side is None else {"width": side, "height": side}
    with tempfile.TemporaryDirectory() as pictures:
        pool = pool_for(model, max_queue_s=_QUEUE_SHARE * bound_s)
        num_threads = num_threads or drawing_threads(pool)
        pool = pool.model_copy(update={"num_threads": num_threads})
        settings = Settings(pools=[pool], store=StoreSettings(url=pictures))
        with whole_service(settings) as url:
            measured = [
                asyncio.run(
                    measure(
                        url,
                        query,
                        bound_s=bound_s,
                        factor=factor,
                        seconds=seconds,
                        capacity_seconds=capacity_seconds,
                        clients=clients,
                        seed=seed + number,
                    )
                )
                for number in range(rounds)
            ]
    aims = aims_of(measured)
    for figures in measured:
        _tell(figures, Console(stderr=True))
    table = Table("aim", "met", "seen", box=None)
    for aim in aims:
        table.add_row(aim.name, "yes" if aim.met else "NO", aim.seen)
    Console(stderr=True).print(table)
    report = {"model": model, "query": query, "factor": factor, "seconds": seconds, "clients": clients}
    report |= {"num_threads": num_threads, "max_queue_s": _QUEUE_SHARE * bound_s, "seed": seed}
    met = {aim.name: aim.met for aim in aims}
    print(json.dumps({**report, "rounds": measured, "aims": met}))
    sys.exit(1 if strict and not all(met.values()) else 0)


def _tell(figures: dict[str, Any], console: Console) -> None:
    console.print(
        f"capacity {figures['capacity_before_per_s']:.2f} pictures/s before and "
        f"{figures['capacity_after_per_s']:.2f} after, offered {figures['offered_per_s']:.2f}, goodput "
        f"{figures['goodput_per_s']:.2f} ({figures['goodput_share']:.1%} of their mean); "
        f"a lone picture takes {figures['lone_s']:.2f} s; this client took {figures['client_cores']:.2f} cores"
    )
    table = Table("seconds", "mean", "p50", "p90", "p95", "p99", "max", box=None)
    titles = {
        "accepted_s": "accepted",
        "refusal_s": "time to refusal",
        "retry_after_s": "Retry-After",
        "sent_late_s": "sent late",
    }
    for name, title in titles.items():
        if figures[name]:
            table.add_row(title, *(f"{value:.3f}" for value in figures[name].values()))
    console.print(table)
    memory = Table("process", "MiB before", "halfway", "after", "grown", "cores", box=None)
    for one in figures["processes"]:
        memory.add_row(
            one["process"],
            *(f"{one[key]:.0f}" for key in ("rss_before_mib", "rss_middle_mib", "rss_after_mib")),
            f"{one['grown_mib']:+.1f}",
            f"{one['cores']:.2f}",
        )
    console.print(memory)


if __name__ == "__main__":
    typer.run(main)
