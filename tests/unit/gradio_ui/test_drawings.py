"""Following drawings, and what closing a page does to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from gradio_ui.client import ServiceError
from gradio_ui.drawings import MAX_UNFINISHED, Tab
from gradio_ui.fake_client import FakeService
from gradio_ui.tabs import Tabs

ORDER = {
    "prompt": "a cat",
    "num_inference_steps": 4,
    "preview_every": 1,
    "seed": 7,
    "width": 64,
    "height": 64,
}
LONG = {**ORDER, "num_inference_steps": 1000}


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    service = FakeService(delay_s=0.01)
    yield service
    await service.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def heard_until(tab: Tab, state: str) -> list[dict[str, Any]]:
    views: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        async for view in tab.listen():
            if view:
                views.append(view)
                if view["state"] == state:
                    break
    return views


async def test_a_drawing_is_followed_to_its_pictures(service: FakeService) -> None:
    tab = Tab(service)
    await tab.draw({**ORDER, "num_images": 2}, keep=False)
    views = await heard_until(tab, "finished")
    assert [view["progress"] for view in views] == sorted(view["progress"] for view in views)
    assert any(view["previews"].get("0") for view in views)
    entries = views[-1]["entries"]
    assert [(entry["seed"], entry["width"], entry["model"]) for entry in entries] == [
        (7, 64, "small-sdxl"),
        (8, 64, "small-sdxl"),
    ]
    assert entries[0]["id"].endswith("/0_0.png")
    assert entries[0]["thumbnail"].startswith("data:image/webp;base64,")
    assert entries[0]["seconds"]["denoise"] == 0.2
    assert sum(entry["cost"] for entry in entries) == pytest.approx(0.0001)


async def test_late_listeners_hear_where_everything_stands(service: FakeService) -> None:
    tab = Tab(service)
    await tab.draw(ORDER, keep=False)
    await until(lambda: not tab.unfinished)
    assert [view["state"] for view in await heard_until(tab, "finished")] == ["finished"]


async def test_cancelling_reaches_the_service(service: FakeService) -> None:
    tab = Tab(service)
    drawing = await tab.draw(LONG, keep=True)
    await tab.cancel(drawing.id)
    assert (await heard_until(tab, "cancelled"))[-1]["words"] == "Stopped"
    assert service.cancelled == [drawing.id]
    await tab.cancel(drawing.id)
    await tab.cancel("another")
    assert service.cancelled == [drawing.id]


async def test_a_service_that_comes_back_goes_on_with_the_drawing(service: FakeService) -> None:
    tab = Tab(service)
    drawing = await tab.draw({**ORDER, "num_inference_steps": 60}, keep=False)
    await until(lambda: drawing.body["step"] > 2)
    service.break_streams()
    await until(lambda: drawing.trouble is not None)
    assert "goes on when it is back" in drawing.view()["words"]
    assert not drawing.ended
    service.away = False
    views = await heard_until(tab, "finished")
    assert views[-1]["trouble"] is False
    assert len(service.orders) == 1


async def test_a_job_that_is_gone_fails_with_words(service: FakeService) -> None:
    tab = Tab(service)
    drawing = await tab.draw(LONG, keep=False)
    await until(lambda: drawing.body["step"] > 0)
    service._jobs.clear()
    gone = ServiceError("gone", status=404, code="not_found")
    service._find = lambda job_id: (_ for _ in ()).throw(gone)  # type: ignore[method-assign]
    assert drawing.task is not None
    drawing.task.cancel()
    await asyncio.gather(drawing.task, return_exceptions=True)
    await tab._watch(drawing)
    assert drawing.view()["state"] == "failed"
    assert "does not know it any more" in drawing.view()["words"]


async def test_a_proxy_that_knows_no_path_yet_is_a_service_that_starts(service: FakeService) -> None:
    tab = Tab(service)
    drawing = await tab.draw({**ORDER, "num_inference_steps": 60}, keep=False)
    await until(lambda: drawing.body["step"] > 2)
    find, answers = service._find, 0

    def not_yet(job_id: str) -> Any:
        nonlocal answers
        answers += 1
        raise ServiceError("it answered 404 Not Found", status=404)

    service._find = not_yet  # type: ignore[method-assign]
    service.break_streams()
    await until(lambda: answers > 0 and drawing.trouble is not None)
    assert "goes on when it is back" in drawing.view()["words"]
    assert not drawing.ended
    service._find = find  # type: ignore[method-assign]
    service.away = False
    assert (await heard_until(tab, "finished"))[-1]["trouble"] is False


async def test_a_page_that_closes_cancels_what_was_not_asked_to_finish(service: FakeService) -> None:
    tabs = Tabs(service, reload_s=0.02, lost_s=0.02)
    tab = tabs.get("a" * 32)
    stays = await tab.draw(LONG, keep=True)
    goes = await tab.draw(LONG, keep=False)
    views = tabs.listen("a" * 32)
    await anext(views)
    await asyncio.sleep(0.1)
    assert service.cancelled == []  # somebody listens
    tabs.goodbye("a" * 32)
    await views.aclose()
    await until(lambda: service.cancelled == [goes.id])
    await asyncio.sleep(0.05)
    assert service.cancelled == [goes.id]
    assert (await service.job(stays.id))["state"] == "running"
    assert tabs.get("a" * 32) is not tab


async def test_a_goodbye_is_not_forgotten_when_the_connection_closes_after_it(service: FakeService) -> None:
    tabs = Tabs(service, reload_s=0.02, lost_s=60.0)
    goes = await tabs.get("a" * 32).draw(LONG, keep=False)
    views = tabs.listen("a" * 32)
    await anext(views)
    tabs.goodbye("a" * 32)
    await views.aclose()
    await until(lambda: service.cancelled == [goes.id])


async def test_a_copy_of_a_page_stays_when_the_other_closes(service: FakeService) -> None:
    tabs = Tabs(service, reload_s=0.02, lost_s=0.02)
    drawing = await tabs.get("a" * 32).draw(LONG, keep=False)
    views, copy = tabs.listen("a" * 32), tabs.listen("a" * 32)
    await anext(views)
    await anext(copy)
    tabs.goodbye("a" * 32)
    await views.aclose()
    await asyncio.sleep(0.2)
    assert service.cancelled == []
    await copy.aclose()
    await until(lambda: service.cancelled == [drawing.id])


async def test_a_reload_keeps_everything(service: FakeService) -> None:
    tabs = Tabs(service, reload_s=0.3, lost_s=0.3)
    drawing = await tabs.get("a" * 32).draw(LONG, keep=False)
    views = tabs.listen("a" * 32)
    await anext(views)
    tabs.goodbye("a" * 32)
    await views.aclose()
    again = tabs.listen("a" * 32)
    view = await anext(again)
    assert view is not None
    assert view["id"] == drawing.id
    await asyncio.sleep(0.5)
    assert service.cancelled == []
    await again.aclose()
    await tabs.aclose()


async def test_a_browser_finds_again_what_it_asked_to_finish(service: FakeService) -> None:
    first = Tab(service)
    drawing = await first.draw(ORDER, keep=True)
    await first.close()
    second = Tab(service)
    assert await second.attach(drawing.id, ORDER, keep=True)
    assert await second.attach(drawing.id, ORDER, keep=True)
    assert not await second.attach("f" * 32, ORDER, keep=True)  # long gone
    views = await heard_until(second, "finished")
    assert {view["id"] for view in views} == {drawing.id}
    assert views[-1]["entries"][0]["prompt"] == "a cat"


async def test_one_page_has_a_bound(service: FakeService) -> None:
    tab = Tab(service)
    for _ in range(MAX_UNFINISHED):
        await tab.draw(LONG, keep=False)
    with pytest.raises(ServiceError) as caught:
        await tab.draw(LONG, keep=False)
    assert caught.value.status == 429
    await tab.leave()
    assert len(service.cancelled) == MAX_UNFINISHED
    service.refusal = ServiceError("full", status=429, retry_after_s=3)
    with pytest.raises(ServiceError, match="full"):
        await Tab(service).draw(ORDER, keep=False)


async def test_a_listener_is_sent_home_when_nothing_happens(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradio_ui.drawings.QUIET_S", 0.05)
    heard = [view async for view in Tab(service).listen()]
    assert heard[-1] is None
    assert all(view == {} for view in heard[:-1])


class SlowToAccept(FakeService):
    """Accepts an order only when it is told to, as a service whose keeper of jobs is being restarted."""

    def __init__(self) -> None:
        super().__init__(delay_s=0.01)
        self.accepts = asyncio.Event()

    async def submit(self, order: Mapping[str, Any]) -> dict[str, Any]:
        await self.accepts.wait()
        return await super().submit(order)


async def test_a_listener_stays_while_an_order_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio_ui.drawings.QUIET_S", 0.05)
    service = SlowToAccept()
    tab = Tab(service)
    listening = asyncio.create_task(heard_until(tab, "finished"))
    drawing = asyncio.create_task(tab.draw(ORDER, keep=False))
    await asyncio.sleep(0.2)
    service.accepts.set()
    assert (await listening)[-1]["id"] == (await drawing).id
    await service.aclose()


async def test_an_order_that_was_on_its_way_when_the_page_closed_is_cancelled() -> None:
    service = SlowToAccept()
    tab = Tab(service)
    orders = [asyncio.create_task(tab.draw(LONG, keep=keep)) for keep in (False, True)]
    await asyncio.sleep(0)
    await tab.leave()
    service.accepts.set()
    goes, _ = await asyncio.gather(*orders)
    assert service.cancelled == [goes.id]
    await tab.close()
    await service.aclose()
