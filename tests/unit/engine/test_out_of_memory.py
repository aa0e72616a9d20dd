"""Calls that find no memory are made again with all of it: nothing keeps what the failed one had computed."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from serve_app.engine.state import ImageState
from tests.unit.engine.driving import ask, make, put, run


class _Activations:
    """What a network has computed when it fails."""


@pytest.mark.parametrize("call", ["prepare", "denoise_step"])
@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_what_finds_no_memory_alone_is_tried_once_more_with_all_of_it(
    monkeypatch: pytest.MonkeyPatch, call: str, guidance: float
) -> None:
    engine, pipeline, _ = make()
    original = getattr(pipeline, call)
    kept: list[weakref.ref[_Activations]] = []

    def scarce_once(*arguments: Any) -> Any:
        if kept:
            assert kept[0]() is None, "what the failed call computed takes the memory of the next one"
            return original(*arguments)
        activations = _Activations()
        kept.append(weakref.ref(activations))
        raise MemoryError

    monkeypatch.setattr(pipeline, call, scarce_once)
    lone = put(engine, ask(guidance=guidance))
    run(engine)
    assert lone.pictures, lone.failures


def test_fewer_rows_are_tried_with_all_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, pipeline, _ = make()
    original = pipeline.denoise_step
    kept: list[weakref.ref[_Activations]] = []

    def scarce(batch: Sequence[ImageState]) -> None:
        assert all(one() is None for one in kept), (
            "what the failed call computed takes the memory of the next one"
        )
        activations = _Activations()
        if len(batch) > 2:
            kept.append(weakref.ref(activations))
            raise MemoryError
        original(batch)

    monkeypatch.setattr(pipeline, "denoise_step", scarce)
    recorders = [put(engine, ask(seed=seed)) for seed in range(8)]
    run(engine)
    assert len(kept) == 2, "eight rows, then four"
    assert all(one.pictures for one in recorders)
