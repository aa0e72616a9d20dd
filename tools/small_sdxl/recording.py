"""Makes an update fast on CUDA: weights in half the bytes, and the whole update recorded as one graph.

A small model spends most of its time on launching kernels; a recorded graph launches them all at once.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Step = Callable[..., tuple[Tensor, ...]]
#: How many updates may wait on the device: enough to keep it busy, few enough that time budgets hold.
AHEAD = 2


class Working:
    """The copy of a model that computes, in another type; or the model itself when none is asked for."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        self.masters: list[Tensor] = list(model.parameters())
        self.model: Any = model if dtype is None else copy.deepcopy(model).to(dtype)
        self.copies: list[Tensor] = list(self.model.parameters())
        self.apart = dtype is not None

    def clear(self) -> None:
        """Forget the gradients."""
        for weight in (*self.masters, *self.copies):
            weight.grad = None

    def pull(self) -> None:
        """Hand the copy's gradients to the master weights."""
        if self.apart:
            for master, made in zip(self.masters, self.copies, strict=True):
                if made.grad is not None:
                    master.grad = made.grad.to(master.dtype)
                    made.grad = None

    @torch.no_grad()
    def push(self) -> None:
        """Bring the copy up to date with the master weights."""
        if self.apart:
            torch._foreach_copy_(self.copies, self.masters)


@torch.no_grad()
def follow(average: list[Tensor], weights: Sequence[Tensor], keep: Tensor) -> None:
    """Moves an average towards the weights, in place: keeps this share of it. Nothing waits for the device."""
    away = torch._foreach_sub([weight.detach() for weight in weights], average)
    torch._foreach_mul_(away, 1 - keep)
    torch._foreach_add_(average, away)


class Recorder:
    """Calls an update; on CUDA, from its recording for inputs of these shapes."""

    def __init__(self, step: Step, record: bool) -> None:
        self.step, self.record = step, record
        self.graphs: dict[tuple[Any, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], tuple[Tensor, ...]]] = {}
        self.pool: Any = None
        self.done: list[torch.cuda.Event] = []

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run one update."""
        if not self.record:
            return self.step(*inputs)
        key = tuple(tuple(each.shape) for each in inputs)
        if key not in self.graphs:
            try:
                return self._record(key, inputs)
            except RuntimeError:
                logging.getLogger(__name__).exception("this update cannot be recorded: going on without")
                self.record = False
                torch.cuda.synchronize()
                return self.step(*inputs)
        graph, held, outputs = self.graphs[key]
        for mine, fresh in zip(held, inputs, strict=True):
            mine.copy_(fresh)
        graph.replay()
        finished = torch.cuda.Event()  # type: ignore[no-untyped-call]
        finished.record()
        self.done.append(finished)
        if len(self.done) > AHEAD:
            self.done.pop(0).synchronize()
        return outputs

    def _record(self, key: tuple[Any, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Run some real updates on a side stream, as recording asks for, then record one."""
        held = [each.clone() for each in inputs]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            answer: tuple[Tensor, ...] = ()
            for _ in range(3):
                answer = self.step(*held)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            outputs = self.step(*held)
        self.pool = self.pool or graph.pool()
        self.graphs[key] = (graph, held, outputs)
        return answer
