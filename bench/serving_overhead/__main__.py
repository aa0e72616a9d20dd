"""``python -m bench.serving_overhead``: bare engine, whole service over HTTP, and FastAPI around diffusers, in turns.

All are loaded at once, and the idle ones wait. Each round asks every side for the same pictures with one client and
with eight, and begins with another side than the round before. A table goes to stderr, the whole as JSON to stdout.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.light_client import LightClient
from bench.serving_overhead.bare_engine import Turn
from bench.serving_overhead.figures import LEAST_SHARE, Rounds, side_figures
from bench.serving_overhead.sides import EngineSide, HttpSide, Side, bare_engine, plain_server
from bench.whole_service import FAKE, default_request, drawing_threads, pool_for, whole_service
from serve_app import accelerators
from serve_app.settings import BUNDLED_MODEL, CpuSettings, PoolSettings, Settings, StoreSettings

ENGINE, SERVICE, PLAIN = "engine", "service", "FastAPI + diffusers"


async def measured(
    sides: Sequence[Side], turn: Turn, *, clients: Sequence[int], rounds: int
) -> dict[int, Rounds]:
    """Plays the turn on every side in every round, with each number of clients.

    Args:
        sides: All loaded.
        turn: With the pictures of the largest number of clients; fewer clients ask for fewer in proportion, but for
            four at least.
        clients: Numbers of them.
        rounds: How often. One more before them, with a few pictures, is not counted.

    Returns:
        The rounds by number of clients.
    """
    found: dict[int, list[dict[str, Any]]] = {number: [] for number in clients}
    for side in sides:
        await side.play(replace(turn, clients=max(clients), pictures=max(clients)))
    for round_number in range(rounds):
        start = round_number % len(sides)
        for number in clients:
            pictures = max(4, turn.pictures * number // max(clients))
            one = replace(turn, clients=number, pictures=pictures, first_seed=round_number * turn.pictures)
            answers = {side.name: await side.play(one) for side in [*sides[start:], *sides[:start]]}
            found[number].append({side.name: answers[side.name] for side in sides})
    return {number: tuple(of_it) for number, of_it in found.items()}


async def _all_sides(
    url: str, pool: PoolSettings, turn: Turn, clients: Sequence[int], rounds: int
) -> tuple[dict[int, Rounds], str]:
    async with AsyncExitStack() as stack:
        engine, dtype = await stack.enter_async_context(bare_engine(pool))
        service = await stack.enter_async_context(LightClient(url))
        sides: list[Side] = [EngineSide(engine, files=True), EngineSide(engine, files=False)]
        sides.append(HttpSide(SERVICE, service))
        if pool.model != FAKE:
            plain = await stack.enter_async_context(plain_server(pool, dtype))
            sides.append(HttpSide(PLAIN, plain))
        return await measured(sides, turn, clients=clients, rounds=rounds), dtype


def main(
    model: Annotated[str, typer.Option(help="As for `imagine serve`, or fake.")] = BUNDLED_MODEL,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all sides.")] = 6,
    pictures: Annotated[int, typer.Option(min=8, help="Pictures of a round with most clients.")] = 48,
    clients: Annotated[int, typer.Option(min=1, help="Clients at once, beside one alone.")] = 8,
    num_threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads that draw, of each side; default: a core is left to the rest."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 when the aim is missed.")] = False,
) -> None:
    """Compare the whole service with its bare engine and with a plain server."""
    pool = pool_for(model)
    num_threads = num_threads or drawing_threads(pool)
    pool = pool.model_copy(update={"num_threads": num_threads})
    if accelerators.of_pool(pool).name == "cpu":
        # No side pins its threads: one process only can claim the cores.
        pool = pool.model_copy(update={"cpu": CpuSettings(pin_cores="off")})
    request = default_request(model)
    turn = Turn(
        clients,
        pictures,
        width=int(request["width"]),
        height=int(request["height"]),
        num_inference_steps=int(request["num_inference_steps"]),
        guidance_scale=request["guidance_scale"],
    )
    numbers = sorted({1, clients})
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(pools=[pool], store=StoreSettings(url=folder))
        with whole_service(settings) as url:
            found, dtype = asyncio.run(_all_sides(url, pool, turn, numbers, rounds))
    figures = {number: side_figures(of_it, ENGINE) for number, of_it in found.items()}
    share = figures[clients][SERVICE]["share"]
    met = share >= LEAST_SHARE
    console = Console(stderr=True)
    for number, sides in figures.items():
        console.print(_table(number, sides))
    console.print(
        f"service / engine with {clients} clients: {share:.3f} (aim {LEAST_SHARE}: {'met' if met else 'NOT met'})"
    )
    asked = {"model": model, "dtype": dtype, "request": request, "rounds": rounds, "pictures": pictures}
    asked["num_threads"] = num_threads
    print(json.dumps({**asked, "clients": figures, "service_share": share, "aim_met": met}))
    sys.exit(1 if strict and not met else 0)


def _table(clients: int, sides: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        f"{clients} client{'s' if clients > 1 else ''}",
        "pictures/s",
        "share (range)",
        "p50 s",
        "p99 s",
        "added p50 s",
        "added p99 s",
        box=None,
    )
    for name, one in sides.items():
        table.add_row(
            name,
            f"{one['pictures_per_s']:.2f}",
            f"{one['share']:.3f} ({one['least_share']:.2f}-{one['most_share']:.2f})",
            f"{one['latency_s']['p50']:.3f}",
            f"{one['latency_s']['p99']:.3f}",
            f"{one['added_p50_s']:+.3f}",
            f"{one['added_p99_s']:+.3f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
