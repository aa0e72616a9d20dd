"""The jobs through a handle: restarts of the other side are bridged, for a while."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.handle import DeploymentHandle

from serve_app import jobs_handle
from serve_app.errors import JobsUnavailable, NotFound
from serve_app.jobs import JobEvent, JobProgress, JobRecord, JobState, JobView
from serve_app.jobs_handle import HandleJobs
from serve_app.request import RequestDraft

RECORD = JobRecord(id="x", draft=RequestDraft("x"), created_at=0.0)
VIEW = JobView(RECORD, JobProgress(JobState.RUNNING))


def task_error(cause: Exception) -> RayTaskError:
    """As Ray wraps what a replica raised."""
    return cast(RayTaskError, RayTaskError("get", "traceback", cause).as_instanceof_cause())


class Response:
    """The answer to one call, unary or streaming."""

    def __init__(self, *items: Any) -> None:
        self._items = items
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Any:
        (item,) = self._items
        if isinstance(item, Exception):
            raise item
        return item
        yield

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterate()

    async def _iterate(self) -> AsyncGenerator[Any, None]:
        for item in self._items:
            if isinstance(item, Exception):
                raise item
            yield item


class Handle:
    """A handle whose calls get prepared answers, the last one again and again."""

    def __init__(self, *responses: Response) -> None:
        self._responses = list(responses)
        self.calls: list[tuple[Any, ...]] = []

    def options(self, *, stream: bool) -> Handle:
        assert stream
        return self

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> Response:
            self.calls.append((method, *arguments))
            return self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]

        return type("Method", (), {"remote": staticmethod(cast(Callable[..., Response], remote))})


def jobs(handle: Handle) -> HandleJobs:
    return HandleJobs(cast(DeploymentHandle, handle), call_timeout_s=0.3, away_s=0.3)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_handle, "_PAUSE_S", 0.01)


async def test_a_call_is_repeated_when_the_replica_dies() -> None:
    handle = Handle(Response(ActorDiedError()), Response(ActorDiedError()), Response(VIEW))
    assert await jobs(handle).get("x") == VIEW
    assert handle.calls == [("get", "x")] * 3


async def test_when_nobody_comes_back_the_client_is_told_when_to_try_again() -> None:
    with pytest.raises(JobsUnavailable) as refusal:
        await jobs(Handle(Response(ActorDiedError()))).cancel("x")
    assert refusal.value.retry_after_s > 0
    with pytest.raises(JobsUnavailable):
        _ = [event async for event in jobs(Handle(Response(ActorDiedError()))).events("x")]


async def test_domain_errors_come_as_they_were_raised() -> None:
    handle = Handle(Response(task_error(NotFound("no such job"))))
    with pytest.raises(NotFound, match="no such job"):
        await jobs(handle).get("x")
    with pytest.raises(NotFound, match="no such job"):
        _ = [event async for event in jobs(handle).events("x")]
    assert len(handle.calls) == 2


async def test_events_go_on_where_they_were_cut() -> None:
    first, second = (JobEvent(number, VIEW.progress) for number in (1, 2))
    last = JobEvent(1_000_001, JobProgress(JobState.FINISHED), record=RECORD)
    cut = Response(first, second, ActorDiedError())
    handle = Handle(cut, Response(ActorDiedError()), Response(last))
    assert [event async for event in jobs(handle).events("x", 0)] == [first, second, last]
    assert handle.calls == [("events", "x", 0), ("events", "x", 2), ("events", "x", 2)]
    assert cut.cancelled
