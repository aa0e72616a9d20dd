"""What runs on this machine is looked after until a signal comes: the page comes back, Ray's end is told."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import psutil
import pytest

from serve_app import local_page, local_watch
from serve_app.errors import PoolUnavailable
from serve_app.local_page import LocalPage
from serve_app.local_service import LocalService
from serve_app.local_watch import keep_up
from serve_app.settings import Settings
from tests.running_service import free_port


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_watch, "LOOK_EVERY_S", 0.01)


@pytest.fixture
def page() -> Iterator[LocalPage]:
    page = LocalPage(host="127.0.0.1", port=free_port(), service_url="http://127.0.0.1:9", dashboard_url=None)
    page.start()
    yield page
    page.stop()


def kill(page: LocalPage) -> int:
    assert page._process is not None
    page._process.kill()
    page._process.wait()
    return page._process.pid


class Service:
    """Ends after some looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise PoolUnavailable("Ray has ended")


def watched(service: Service, page: LocalPage | None) -> list[str]:
    told: list[str] = []
    with pytest.raises(PoolUnavailable, match="Ray has ended"):
        keep_up(cast(LocalService, service), page, told.append)
    return told


def test_a_page_that_ends_by_itself_is_started_again(
    page: LocalPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_page, "LIVED_S", 0.0)
    ended = kill(page)
    assert watched(Service(5), page) == ["The web page has ended with status -9, and is started again."]
    assert page._process is not None
    assert page._process.pid != ended
    assert page._process.poll() is None


def test_a_page_that_ends_at_once_is_told_of_once_and_left_alone(page: LocalPage) -> None:
    kill(page)
    (told,) = watched(Service(5), page)
    assert told == "The web page has ended with status -9, and is not started again. The service goes on."


def test_nothing_is_told_while_all_is_well(page: LocalPage) -> None:
    assert watched(Service(5), page) == []
    assert watched(Service(5), None) == []


def child_lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("reaped", [False, True])
def test_the_end_of_a_process_of_rays_is_noticed(reaped: bool, tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    service = LocalService(Settings(), host="127.0.0.1", port=1)
    service._temp_dir = tmp_path
    service._own = [psutil.Process(child.pid)]
    try:
        service.check()
        child.kill()
        if reaped:
            child.wait()
        while child_lives(child.pid):
            time.sleep(0.01)
        with pytest.raises(PoolUnavailable, match="a process of Ray has ended by itself"):
            service.check()
    finally:
        child.kill()
        child.wait()
