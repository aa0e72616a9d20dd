"""What `imagine doctor` looks at in a running service, from outside, as a client would; and what to do about it."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from serve_app import __version__

SIDE = 256
"""Pixels: small, so that slow hardware passes in bearable time."""

_QUICK = httpx.Timeout(15.0)
_MAX_CLOCK_SKEW_S = 30.0
_PROMPT = "a red star on a blue background"


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        check: Its name.
        state: How it ended.
        found: What was seen.
        remedy: What to do, where something is wrong.
    """

    check: str
    state: State
    found: str
    remedy: str = ""


class _Wrong(Exception):
    """A check found something; the rest of it makes no sense, and that of the later ones neither, if so marked."""

    def __init__(self, found: str, remedy: str, state: State = State.WRONG, *, go_on: bool = False) -> None:
        super().__init__(found)
        self.finding = (state, found, remedy)
        self.go_on = go_on or state is not State.WRONG


async def examine(client: httpx.AsyncClient, *, timeout_s: float) -> AsyncIterator[Finding]:
    """Checks the service at the client's ``base_url``, one thing after the other; stops where nothing can follow.

    Args:
        client: Knows the address and the key.
        timeout_s: Longest wait for a picture.

    Yields:
        A finding for each check as it ends.
    """
    patient = httpx.Timeout(timeout_s, connect=15.0)
    checks: list[tuple[str, bool, Callable[[], Awaitable[str]]]] = [
        ("address", True, lambda: _address(client)),
        ("clock", False, lambda: _clock(client)),
        ("pools", True, lambda: _pools(client)),
        ("picture", True, lambda: _picture(client, patient)),
        ("same seed, same picture", False, lambda: _repeatable(client, patient)),
        ("picture by url", False, lambda: _by_url(client, patient)),
        ("refusal", False, lambda: _refusal(client)),
        ("job and its events", False, lambda: _job(client, timeout_s)),
    ]
    for name, decisive, check in checks:
        try:
            yield Finding(name, State.OK, await check())
        except _Wrong as wrong:
            yield Finding(name, *wrong.finding)
            if decisive and not wrong.go_on:
                return
        except (httpx.TimeoutException, TimeoutError):
            yield Finding(
                name, State.WRONG, "no answer in time", "See the load (dashboards), or raise --timeout."
            )
            if decisive:
                return
        except httpx.TransportError as error:
            found = str(error) or type(error).__name__
            yield Finding(name, State.WRONG, found, "Does the service run, and does this machine reach it?")
            if decisive:
                return


async def _address(client: httpx.AsyncClient) -> str:
    answer = await client.get("", headers={"Accept": "application/json"}, timeout=_QUICK)
    if answer.status_code in (401, 403):
        raise _Wrong(f"answers {answer.status_code}", "Give the key with --api-key or IMAGINE_API_KEY.")
    facts = _object(answer)
    if facts.get("name") != "imagine":
        raise _Wrong(
            f"answers {answer.status_code}, but is not this service",
            "Check the address and its path prefix; the gateway must cut the prefix off (/serve/imagine -> /imagine).",
        )
    version = str(facts.get("version"))
    if version != __version__:
        raise _Wrong(
            f"version {version}, this command is {__version__}", "Use the same version.", State.WARNING
        )
    return f"version {version}"


async def _clock(client: httpx.AsyncClient) -> str:
    answer = await client.get("live", timeout=_QUICK)
    try:
        skew_s = time.time() - parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError):
        raise _Wrong("the answer has no date", "A gateway removes it.", State.SKIPPED) from None
    if abs(skew_s) > _MAX_CLOCK_SKEW_S:
        raise _Wrong(
            f"{abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} this machine",
            "Run NTP on both: deadlines, retention and object stores need a right clock.",
            State.WARNING,
        )
    return "as this machine's"


async def _pools(client: httpx.AsyncClient) -> str:
    answer = await client.get("ready", timeout=_QUICK)
    pools = _object(answer).get("pools", [])
    up = [pool["name"] for pool in pools if pool.get("ready")]
    away = [pool["name"] for pool in pools if not pool.get("ready")]
    if not up:
        raise _Wrong(
            f"none can draw ({', '.join(away) or 'none configured'})",
            "See `serve status`: unsatisfiable resources, a model that is not found, or pools that are at zero.",
            State.WARNING,
        )
    if away:
        raise _Wrong(
            f"{', '.join(up)} can draw, {', '.join(away)} not",
            "Fine for pools at zero; else see `serve status` and the replicas' logs.",
            State.WARNING,
        )
    return f"{', '.join(up)} can draw"


async def _drawn(client: httpx.AsyncClient, patience: httpx.Timeout, **query: Any) -> httpx.Response:
    asked = {"prompt": _PROMPT, "width": SIDE, "height": SIDE, "num_inference_steps": 2, **query}
    answer = await client.get("imagine", params=asked, timeout=patience)
    if answer.status_code == 422:  # fixed sizes: take the model's own
        del asked["width"], asked["height"]
        answer = await client.get("imagine", params=asked, timeout=patience)
    if answer.status_code in (401, 403):
        raise _Wrong(f"answers {answer.status_code}", "Give the key with --api-key or IMAGINE_API_KEY.")
    _check_room(answer)
    if answer.status_code in (404, 408, 413, 502, 504):
        raise _Wrong(
            f"answers {answer.status_code}", "A gateway in between gives up: raise its timeouts, see its log."
        )
    if answer.status_code != 200:
        raise _Wrong(f"answers {answer.status_code}: {_message(answer)}", "See the replicas' logs.")
    return answer


def _check_room(answer: httpx.Response) -> None:
    error = _object(answer).get("error")
    if isinstance(error, dict) and error.get("code") == "store_unavailable":
        return  # a 503 that more replicas do not help against
    if answer.status_code in (429, 503):
        after = answer.headers.get("retry-after", "?")
        raise _Wrong(f"refused for now: {_message(answer)}", f"Try again in {after} s, or add replicas.")


async def _picture(client: httpx.AsyncClient, patience: httpx.Timeout) -> str:
    began = time.monotonic()
    answer = await _drawn(client, patience, seed=1)
    with Image.open(io.BytesIO(answer.content)) as picture:
        size = picture.size
        ranges = [channel.getextrema() for channel in picture.convert("RGB").split()]
        flat = all(range_[0] == range_[1] for range_ in ranges)
    if flat:
        raise _Wrong(
            "one flat colour",
            "The weights or the compute type do not work: try dtype float32 or another model.",
            go_on=True,
        )
    seconds = time.monotonic() - began
    return f"{size[0]}x{size[1]} in {seconds:.1f} s by pool {answer.headers.get('x-pool', '?')}"


async def _repeatable(client: httpx.AsyncClient, patience: httpx.Timeout) -> str:
    first = await _drawn(client, patience, seed=2)
    again = await _drawn(client, patience, seed=2, **_same_pool(first))
    pixels = [Image.open(io.BytesIO(one.content)).convert("RGB").tobytes() for one in (first, again)]
    difference = max(abs(x - y) for x, y in zip(*pixels, strict=True))
    if difference > 2:
        raise _Wrong(
            f"they differ by up to {difference} of 255",
            "Do all replicas of the pool have the same model revision and dtype?",
        )
    return "yes" if difference == 0 else f"within {difference} of 255"


def _same_pool(answer: httpx.Response) -> dict[str, str]:
    """Nothing where a gateway takes the service's own headers away."""
    return {"pool": answer.headers["x-pool"]} if "x-pool" in answer.headers else {}


async def _by_url(client: httpx.AsyncClient, patience: httpx.Timeout) -> str:
    body = {"prompt": _PROMPT, "step": 1, "size": f"{SIDE}x{SIDE}"}
    answer = await client.post("api/text2image", json=body, timeout=patience)
    if answer.status_code == 422:  # fixed sizes: take the model's own
        del body["size"]
        answer = await client.post("api/text2image", json=body, timeout=patience)
    _check_room(answer)
    if answer.status_code != 200:
        raise _Wrong(
            f"answers {answer.status_code}: {answer.text[:200]}",
            "Is the store reachable and writable (store.url, its credentials, its quota)?",
        )
    url = answer.json()["output"][0]["url"]
    here, there = urlsplit(str(client.base_url)), urlsplit(url)
    if (here.netloc, here.path.rstrip("/")) != (there.netloc, there.path.partition("/images/")[0]):
        raise _Wrong(
            f"{url} does not begin with {client.base_url}",
            "Let the gateway send X-Forwarded-Proto, -Host and -Prefix, or set public_url.",
        )
    for _ in range(4):  # each on a connection of its own: any replica may answer
        async with httpx.AsyncClient(headers=client.headers, timeout=_QUICK) as fresh:
            opened = await fresh.get(url)
        if opened.status_code != 200:
            raise _Wrong(
                f"{url} answers {opened.status_code}",
                "With several ingress replicas the store must be one that all of them see (s3://, a shared volume).",
            )
    return "opens"


async def _refusal(client: httpx.AsyncClient) -> str:
    answer = await client.get("imagine", params={"prompt": _PROMPT, "width": 7}, timeout=_QUICK)
    error = _object(answer).get("error", {})
    if answer.status_code != 422 or error.get("field") != "width":
        raise _Wrong(
            f"a wrong width is answered {answer.status_code} without naming it",
            "A gateway replaces error answers (such as nginx's proxy_intercept_errors); turn that off.",
        )
    return "names the field at fault"


async def _job(client: httpx.AsyncClient, timeout_s: float) -> str:
    body = {"prompt": _PROMPT, "width": SIDE, "height": SIDE, "num_inference_steps": 4, "priority": "batch"}
    answer = await client.post("api/jobs", json=body, timeout=_QUICK)
    if answer.status_code == 422:
        answer = await client.post("api/jobs", json={"prompt": _PROMPT, "priority": "batch"}, timeout=_QUICK)
    if answer.status_code != 202:
        raise _Wrong(
            f"answers {answer.status_code}: {_message(answer)}",
            "See the log of the deployment Jobs, and the store.",
        )
    job = answer.json()["id"]
    moments: list[float] = []
    last = ""
    async with (
        asyncio.timeout(timeout_s),
        client.stream("GET", f"api/jobs/{job}/events", timeout=timeout_s) as events,
    ):
        async for line in events.aiter_lines():
            if line.startswith("event:"):
                last = line.removeprefix("event:").strip()
                moments.append(time.monotonic())
    if last != "finished":
        raise _Wrong(f"ended with {last or 'nothing'}", f"Look at api/jobs/{job} for its error.")
    if len(moments) > 2 and moments[-1] - moments[0] < 0.005:
        raise _Wrong(
            "all events came at once, at the end",
            "A gateway buffers answers: turn that off for text/event-stream (nginx: proxy_buffering off).",
            State.WARNING,
        )
    return f"finished, {len(moments)} events as they happened"


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _message(answer: httpx.Response) -> str:
    error = _object(answer).get("error")
    return str(error["message"]) if isinstance(error, dict) and "message" in error else answer.text[:200]
