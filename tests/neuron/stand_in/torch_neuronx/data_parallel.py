"""`DataParallel`: a batch divided among cores."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch

from torch_neuronx import experimental


class DataParallel(torch.nn.Module):
    """Gives every core an equal part of the rows, in a thread of its own.

    Without dynamic batching a part must be exactly as large as the graph was compiled for; with it, a multiple.
    """

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        device_ids: Sequence[int],
        dim: int = 0,
        set_dynamic_batching: bool = True,
    ) -> None:
        super().__init__()
        assert dim == 0
        self.module = module
        self.device_ids = list(device_ids)
        module.dynamic = set_dynamic_batching
        experimental.set_neuron_cores(module, self.device_ids[0], len(self.device_ids))

    def forward(self, *inputs: torch.Tensor) -> Any:
        rows, cores = inputs[0].shape[0], len(self.device_ids)
        each, rest = divmod(rows, cores)
        ends = [index * each + min(index, rest) for index in range(cores + 1)]
        parts = [tuple(one[start:end] for one in inputs) for start, end in pairwise(ends) if end > start]
        with ThreadPoolExecutor(cores) as pool:
            return _gather(list(pool.map(self._on_one_core, parts)))

    def _on_one_core(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        batch = self.module.batch
        if not self.module.dynamic:
            return self.module(*inputs)
        if inputs[0].shape[0] % batch:
            raise RuntimeError(f"{inputs[0].shape[0]} rows are no multiple of the compiled {batch}")
        chunks = zip(*(one.split(batch) for one in inputs), strict=True)
        return _gather([self.module(*chunk) for chunk in chunks])


def _gather(outputs: list[Any]) -> Any:
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(outputs)
    if isinstance(first, dict):
        return {key: _gather([one[key] for one in outputs]) for key in first}
    return type(first)(_gather(list(each)) for each in zip(*outputs, strict=True))
