"""Only a replica's process gives up collecting what it has loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from serve_app import lasting_objects
from serve_app.lasting_objects import spare_lasting_objects


@pytest.fixture(autouse=True)
def _collected_again() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_a_replica_spares_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting_objects, "in_replica", lambda: True)
    there = len(gc.get_objects())
    spare_lasting_objects()
    assert gc.get_freeze_count() > there / 2


def test_other_processes_go_on_as_before() -> None:
    before = gc.get_freeze_count()
    spare_lasting_objects()
    assert gc.get_freeze_count() == before
