"""`HttpService` against answers as the service gives them, and as what stands before it does."""

from __future__ import annotations

import json

import httpx
import pytest

from gradio_ui.client import EventParser, HttpService, ServiceError, ServiceEvent


def service_that_answers(answer: httpx.Response | Exception) -> HttpService:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return HttpService("http://service.test/serve/", transport=httpx.MockTransport(handle))


async def test_requests_go_below_the_path_prefix() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, json={"id": "j"})

    service = HttpService("http://service.test/serve", transport=httpx.MockTransport(handle))
    assert await service.submit({"prompt": "x"}) == {"id": "j"}
    assert (seen[0].method, str(seen[0].url)) == ("POST", "http://service.test/serve/api/jobs")
    assert json.loads(seen[0].content) == {"prompt": "x"}


async def test_the_key_goes_along_with_every_request() -> None:
    seen: list[str | None] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json=[], headers={"Content-Type": "image/png"})

    for key in ("imk_1", ""):
        service = HttpService("http://service.test", api_key=key, transport=httpx.MockTransport(handle))
        await service.pools()
        await service.picture("j", "0_0.png")
        assert [event async for event in service.events("j")] == []
    assert seen == ["Bearer imk_1"] * 3 + [None] * 3


async def test_a_refusal_keeps_field_and_wait() -> None:
    body = {"error": {"code": "too_many_jobs", "message": "full", "field": None, "request_id": "r"}}
    with pytest.raises(ServiceError) as caught:
        await service_that_answers(httpx.Response(429, json=body, headers={"Retry-After": "7"})).submit({})
    error = caught.value
    assert (error.status, error.code, error.message, error.retry_after_s) == (429, "too_many_jobs", "full", 7)
    body["error"] |= {"code": "invalid_request", "message": "width: too wide", "field": "width"}
    with pytest.raises(ServiceError) as caught:
        await service_that_answers(httpx.Response(422, json=body)).submit({})
    assert caught.value.field == "width"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(502, text="<html>Bad gateway</html>"),
        httpx.Response(504, json=["nonsense"]),
        httpx.Response(
            404, text="Path '/api/pools' not found. Ping http://.../-/routes for available routes."
        ),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
    ],
)
async def test_a_service_that_is_not_there_is_told_from_one_that_refuses(
    answer: httpx.Response | Exception,
) -> None:
    with pytest.raises(ServiceError) as caught:
        await service_that_answers(answer).pools()
    assert caught.value.is_away
    assert not caught.value.is_unknown
    assert "<html>" not in caught.value.message


async def test_what_the_service_does_not_know_is_told_from_a_service_that_is_not_there() -> None:
    body = {"error": {"code": "not_found", "message": "no job x", "field": None, "request_id": "r"}}
    with pytest.raises(ServiceError) as caught:
        await service_that_answers(httpx.Response(404, json=body)).job("x")
    assert caught.value.is_unknown
    assert not caught.value.is_away


async def test_a_picture_that_took_too_long_is_told_from_a_service_that_is_not_there() -> None:
    body = {"error": {"code": "deadline_exceeded", "message": "600 s are over", "field": None}}
    with pytest.raises(ServiceError) as caught:
        await service_that_answers(httpx.Response(504, json=body)).replay(b"")
    assert not caught.value.is_away


async def test_another_server_at_the_address_is_found_out() -> None:
    for answer in (httpx.Response(200, text="<html>"), httpx.Response(200, json={"pools": []})):
        with pytest.raises(ServiceError, match="not this service"):
            await service_that_answers(answer).pools()


async def test_events_go_on_after_the_last_one_and_end_with_204() -> None:
    asked: list[str | None] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        if len(asked) > 1:
            return httpx.Response(204)
        text = ': heartbeat\n\nid: 3\nevent: step\ndata: {"step":1}\n\nid: 4\nevent: finished\ndata: {"step":2}\n\n'
        return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})

    service = HttpService("http://service.test", transport=httpx.MockTransport(handle))
    events = [event async for event in service.events("j")]
    assert events == [ServiceEvent("3", "step", {"step": 1}), ServiceEvent("4", "finished", {"step": 2})]
    assert [event async for event in service.events("j", "4")] == []
    assert asked == [None, "4"]


def test_the_parser_takes_what_the_standard_allows() -> None:
    parser = EventParser()
    lines = [
        "event:a",
        'data:{"x":',
        "data: 1}",
        "retry: 5",
        "",
        "data: no json",
        "",
        "",
        'data: {"y": 2}',
        "",
    ]
    events = [event for line in lines if (event := parser.feed(line)) is not None]
    assert events == [ServiceEvent("", "a", {"x": 1}), ServiceEvent("", "message", {"y": 2})]


async def test_only_a_picture_is_taken_for_one() -> None:
    with pytest.raises(ServiceError, match="something else than a picture"):
        await service_that_answers(httpx.Response(200, json={})).picture("j", "0_0.png")
    file = await service_that_answers(
        httpx.Response(200, content=b"x", headers={"content-type": "image/webp", "X-Seed": "7"})
    ).replay(b"y")
    assert (file.data, file.media_type, file.headers["x-seed"]) == (b"x", "image/webp", "7")
