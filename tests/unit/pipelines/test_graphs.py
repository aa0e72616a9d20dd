"""`Graphs` on a recorder that repeats, and on CUDA graphs where there is a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from serve_app.pipelines.graphs import CudaRecorder, Graphs, Outputs, record_by_repeating

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=on_cuda)]


class Counting:
    """Counts recordings and remembers the memory they read."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, run: Callable[[], Outputs]) -> Any:
        self.recorded += 1
        return record_by_repeating(run)


def double(x: torch.Tensor, y: torch.Tensor) -> Outputs:
    return 2 * x + y, x.sum(-1)


def rows(count: int, start: float = 0.0, device: str = "cpu") -> dict[str, torch.Tensor]:
    x = torch.arange(3.0 * count, device=device).reshape(count, 3) + start
    return {"x": x, "y": torch.full_like(x, start)}


@pytest.mark.parametrize("device", DEVICES)
@torch.inference_mode()
def test_recorded_calls_answer_what_plain_ones_do(device: str) -> None:
    graphs = Graphs(CudaRecorder() if device == "cuda" else record_by_repeating, most=4, max_rows=4)
    kept = []
    for turn in range(6):
        for count in (1, 3, 2, 6):  # 6: more than buffers are made for
            tensors = rows(count, float(turn), device)
            kept.append((graphs.call("double", double, tensors), double(**tensors)))
    assert len(graphs) == 4
    for (
        answers,
        expected,
    ) in kept:  # compared at the end: no answer lies in memory that a later call writes to
        for answer, right in zip(answers, expected, strict=True):
            assert torch.equal(answer, right)


def test_a_shape_is_recorded_when_it_comes_again() -> None:
    record = Counting()
    graphs = Graphs(record, most=4, max_rows=4)
    graphs.call("double", double, rows(1))
    assert record.recorded == 0
    graphs.call("double", double, rows(1))
    graphs.call("double", double, rows(1))
    assert record.recorded == 1
    graphs.call("another", double, rows(1))
    graphs.call("another", double, rows(1))
    assert record.recorded == 2


def test_the_one_not_used_for_longest_makes_room() -> None:
    record = Counting()
    graphs = Graphs(record, most=2, max_rows=4)
    for count in (1, 1, 2, 2, 1, 3, 3):  # 2 goes when 3 comes
        graphs.call("double", double, rows(count))
    assert (record.recorded, len(graphs)) == (3, 2)
    graphs.call("double", double, rows(1))
    assert record.recorded == 3
    graphs.call("double", double, rows(2))
    assert record.recorded == 4


def test_memory_of_shapes_that_went_is_given_back() -> None:
    graphs = Graphs(record_by_repeating, most=2, max_rows=4)
    for width in range(3, 12):  # clients choose sizes
        for _ in range(2):
            x = torch.ones(1, width)
            graphs.call("double", double, {"x": x, "y": x})
    assert len(graphs) == 2
    assert len(graphs._buffers) == 4, "two arguments of two shapes"


def test_none_are_made_when_none_may_be() -> None:
    record = Counting()
    graphs = Graphs(record, most=0, max_rows=4)
    for _ in range(4):
        assert torch.equal(graphs.call("double", double, rows(1))[0], double(**rows(1))[0])
    assert record.recorded == 0


def test_an_input_that_stays_is_copied_once_but_never_missed() -> None:
    graphs = Graphs(record_by_repeating, most=4, max_rows=4)
    stays, other = torch.ones(2, 3), torch.zeros(2, 3)
    for _ in range(2):
        graphs.call("double", double, {"x": stays, "y": stays})
    (recording,) = graphs._recordings.values()
    fixed = recording.inputs["x"][1]
    fixed.fill_(7.0)  # so that one sees whether it is copied again
    answer, _ = graphs.call("double", double, {"x": stays, "y": other})
    assert torch.equal(answer, torch.full((2, 3), 14.0)), "the same tensor was copied again"
    stays.add_(1.0)
    answer, _ = graphs.call("double", double, {"x": stays, "y": other})
    assert torch.equal(answer, torch.full((2, 3), 4.0)), "a tensor that was written to was not copied"
    # Another shape uses the same memory, so what it held before must come back.
    for _ in range(3):
        graphs.call("double", double, rows(1, 5.0))
    answer, _ = graphs.call("double", double, {"x": stays, "y": other})
    assert torch.equal(answer, torch.full((2, 3), 4.0))


def test_what_cannot_be_recorded_is_called_as_usual() -> None:
    def refusing(run: Callable[[], Outputs]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(refusing, most=4, max_rows=4)
    for turn in range(3):
        tensors = rows(2, float(turn))
        assert torch.equal(graphs.call("double", double, tensors)[0], double(**tensors)[0])
    assert len(graphs._refused) == 1


def test_where_there_is_no_memory_to_record_all_recordings_are_given_up_and_the_call_is_made() -> None:
    full = False

    def record(run: Callable[[], Outputs]) -> Any:
        if full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record_by_repeating(run)

    graphs = Graphs(record, most=4, max_rows=4)
    for _ in range(2):
        graphs.call("double", double, rows(1))
    assert len(graphs) == 1
    full = True
    for _ in range(2):
        assert torch.equal(graphs.call("double", double, rows(3))[0], double(**rows(3))[0])
    assert len(graphs) == 0
    full = False
    for _ in range(250):  # memory that was missing once may be free later
        graphs.call("double", double, rows(3))
    assert len(graphs) == 1
    assert torch.equal(graphs.call("double", double, rows(1))[0], double(**rows(1))[0])


def test_a_call_without_memory_beside_the_recordings_is_made_once_more_without_them() -> None:
    """A picture that is drawn alone has no rows to give up: recordings are all there is to give."""
    graphs = Graphs(record_by_repeating, most=4, max_rows=4)
    enough = True

    def scarce(x: torch.Tensor, y: torch.Tensor) -> Outputs:
        if len(x) == 4 and (len(graphs) or not enough):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return double(x, y)

    for _ in range(2):
        graphs.call("double", scarce, rows(1))
    assert len(graphs) == 1
    assert torch.equal(graphs.call("double", scarce, rows(4))[0], double(**rows(4))[0])
    assert len(graphs) == 0
    enough = False
    with pytest.raises(torch.OutOfMemoryError):
        graphs.call("another", scarce, rows(4))
