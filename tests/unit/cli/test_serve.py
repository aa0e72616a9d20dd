"""``imagine serve`` before it starts anything: where its settings come from, and which ports it takes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from serve_app import local_page, local_service
from serve_app.cli import app
from serve_app.errors import ConfigurationError
from serve_app.settings import Settings
from tests.running_service import free_port

NOT_HERE = "not in this test"
Started = Callable[..., tuple[Settings, dict[str, Any]]]


class _Page:
    """Takes note of where the page would listen."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """What the command would start, told by the command line and the environment."""
    seen: dict[str, Any] = {}

    class Service:
        def __init__(self, settings: Settings, **places: Any) -> None:
            seen.update(settings=settings, **places)

        def start(self) -> None:
            raise ConfigurationError(NOT_HERE)

        def stop(self, *, keep_logs: bool = False) -> None:
            """Nothing to stop."""

    def page(**arguments: Any) -> _Page:
        seen["page_port"] = arguments["port"]
        return _Page(**arguments)

    for name in [name for name in os.environ if name.startswith("IMAGINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(local_service, "LocalService", Service)
    monkeypatch.setattr(local_page, "LocalPage", page)
    monkeypatch.setattr(local_page, "page_is_installed", lambda: True)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def start(*line: str, **environment: str) -> tuple[Settings, dict[str, Any]]:
        result = CliRunner().invoke(app, ["serve", *line], env=environment)
        assert NOT_HERE in result.output, result.output
        return seen["settings"], seen

    yield start
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_environment_says_what_no_option_does(started: Started) -> None:
    port = str(free_port())
    pools = '[{"name": "a", "accelerator": "fake"}, {"name": "b", "accelerator": "fake"}]'
    told = {"IMAGINE_POOLS": pools, "IMAGINE_STORE__URL": "memory:///kept", "PORT": port}
    settings, _ = started(**told)
    assert [pool.name for pool in settings.pools] == ["a", "b"]
    assert settings.store.url == "memory:///kept"
    # An option wins, on the line or by its own variable.
    settings, _ = started("--pictures", "memory:///mine", ACCELERATOR="fake", **told)
    assert [(pool.name, pool.accelerator) for pool in settings.pools] == [("default", "fake")]
    assert settings.store.url == "memory:///mine"


def test_the_page_leaves_the_services_port_alone(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = free_port()
    monkeypatch.setattr(local_page, "FIRST_PORT", usual)
    _, places = started("--port", str(usual), ACCELERATOR="fake")
    assert places["port"] == usual < places["page_port"]


@pytest.mark.parametrize("other", ["--ui-port", "--dashboard-port", "--metrics-port"])
def test_one_port_is_not_taken_twice(started: Started, other: str) -> None:
    port = str(free_port())
    with pytest.raises(AssertionError, match=f"are both {port}; choose another"):
        started("--port", port, other, port, ACCELERATOR="fake")


def test_what_is_wrong_with_settings_is_one_sentence(started: Started) -> None:
    with pytest.raises(AssertionError, match="imagine: pool names must be unique, got a, a\n"):
        started(IMAGINE_POOLS='[{"name": "a"}, {"name": "a"}]')
    with pytest.raises(AssertionError, match=r"imagine: setting pools\.0\.dtype: Input should be"):
        started("--dtype", "float8")
    with pytest.raises(AssertionError, match="imagine: the variable IMAGINE_POOLS holds no valid JSON\n"):
        started(IMAGINE_POOLS="[{name: a}]")
