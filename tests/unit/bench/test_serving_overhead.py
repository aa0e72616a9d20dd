"""Serving overhead: arithmetic, order of the turns, the bare engine and the plain server as they are measured."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from bench.closed_loop import Answer
from bench.light_client import LightClient
from bench.serving_overhead.__main__ import measured
from bench.serving_overhead.bare_engine import Turn, load
from bench.serving_overhead.figures import pictures_per_s, side_figures
from bench.serving_overhead.plain_server import plain_app
from bench.serving_overhead.sides import EngineSide, HttpSide, Side, bare_engine
from bench.whole_service import pool_for

TURN = Turn(clients=4, pictures=12, width=64, height=64, num_inference_steps=2, guidance_scale=0.0)


@contextmanager
def _listening(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def _answers(latency_s: float, pictures: int = 4) -> list[Answer]:
    return [Answer(number * latency_s, (number + 1) * latency_s) for number in range(pictures)]


def test_shares_are_taken_within_each_round() -> None:
    # The machine is twice as slow in the second round, for both.
    rounds = [
        {"engine": _answers(0.10), "service": _answers(0.12)},
        {"engine": _answers(0.20), "service": _answers(0.24)},
        {"engine": _answers(0.10), "service": _answers(0.10)},
    ]
    assert pictures_per_s(rounds[0]["engine"]) == pytest.approx(10.0)
    figures = side_figures(rounds, "engine")
    assert figures["engine"]["share"] == 1.0
    service = figures["service"]
    assert service["share"] == pytest.approx(0.8333, abs=1e-4)
    assert (service["least_share"], service["most_share"]) == (pytest.approx(0.8333, abs=1e-4), 1.0)
    assert service["pictures_per_s"] == pytest.approx(8.3333, abs=1e-4)
    assert service["latency_s"]["p99"] == pytest.approx(0.24)
    assert service["added_p50_s"] == pytest.approx(0.02)
    assert service["added_p99_s"] == pytest.approx(0.04)


class _Noting:
    """A side that writes down when it was asked, and for what."""

    def __init__(self, name: str, log: list[tuple[str, Turn]]) -> None:
        self.name = name
        self._log = log

    async def play(self, turn: Turn) -> list[Answer]:
        self._log.append((self.name, turn))
        return _answers(0.1, turn.pictures)


async def test_every_round_begins_with_another_side() -> None:
    log: list[tuple[str, Turn]] = []
    sides: list[Side] = [_Noting(name, log) for name in "abc"]
    found = await measured(sides, TURN, clients=(1, 4), rounds=2)
    names = "".join(name for name, _ in log)
    assert names == "abc" + "abc" * 2 + "bca" * 2
    assert [turn.pictures for _, turn in log[:3]] == [4, 4, 4]  # warming up
    assert [(turn.clients, turn.pictures, turn.first_seed) for _, turn in log[3::3]] == [
        (1, 4, 0),
        (4, 12, 0),
        (1, 4, 12),
        (4, 12, 12),
    ]
    assert {number: len(rounds) for number, rounds in found.items()} == {1: 2, 4: 2}
    assert list(found[4][1]) == ["a", "b", "c"]


async def test_the_bare_engine_draws_in_this_process() -> None:
    engine, dtype = load(pool_for("fake"))
    try:
        answers = await engine.play(TURN)
        pixels = await engine.play(replace(TURN, files=False, pictures=3))
    finally:
        engine.close()
    assert (len(answers), len(pixels), dtype) == (12, 3, "none")
    # Steps of 20 ms that pictures share: far sooner than one after the other.
    assert answers[-1].ended_s < 12 * 0.04


async def test_the_bare_engine_draws_in_a_process_of_its_own() -> None:
    async with bare_engine(pool_for("fake")) as (process, dtype):
        sides = [EngineSide(process, files=True), EngineSide(process, files=False)]
        assert [side.name for side in sides] == ["engine", "engine, pixels only"]
        assert [len(await side.play(TURN)) for side in sides] == [12, 12]
        assert dtype == "none"
    assert process.returncode is not None


async def test_the_plain_server_draws_one_picture_at_a_time() -> None:
    current, most, threads = 0, 0, set()

    def draw(prompt: str, width: int, height: int, steps: int, guidance_scale: float, seed: int) -> bytes:
        nonlocal current, most
        current += 1
        most = max(most, current)
        threads.add(threading.current_thread().name)
        time.sleep(0.002)
        current -= 1
        return f"{width}x{height} {steps} {guidance_scale} {seed}".encode()

    with _listening(plain_app(draw)) as url:
        async with LightClient(url) as client:
            health = await client.get("health", params={})
            answers = await HttpSide("plain", client).play(TURN)
        query: dict[str, str | int] = {"prompt": "x", "width": 64, "height": 128, "seed": 9}
        async with httpx.AsyncClient(base_url=url, trust_env=False) as full:
            picture = await full.get("imagine", params={**query, "num_inference_steps": 3})
    assert health.status_code == 200
    assert len(answers) == 12
    assert most == len(threads) == 1
    assert picture.headers["content-type"] == "image/png"
    assert picture.text == "64x128 3 0.0 9"


async def test_a_side_that_refuses_or_is_gone_ends_the_measurement() -> None:
    def draw(*_: object) -> bytes:
        raise RuntimeError("no picture")

    with _listening(plain_app(draw)) as url:
        async with LightClient(url) as client:
            with pytest.raises(ExceptionGroup) as failed:
                await HttpSide("failing", client).play(TURN)
            assert failed.group_contains(RuntimeError, match="answered 500")
    async with LightClient(url) as client:
        with pytest.raises(ExceptionGroup) as failed:
            await HttpSide("gone", client).play(TURN)
        assert failed.group_contains(httpx.ConnectError)
