"""Calls of a network recorded once per shape and replayed: `Graphs`.

A network of a thousand small kernels takes the host longer to start than a fast device to compute. A recorded call
starts as one. It reads and writes fixed memory, so inputs are copied there first.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch

log = logging.getLogger(__name__)

Outputs = tuple[torch.Tensor, ...]

Run = Callable[..., Outputs]
"""A network's call: named tensors in, tensors out. It must do the same for the same shapes, and never wait."""

Replay = Callable[[], None]
Record = Callable[[Callable[[], Outputs]], tuple[Replay, Outputs]]
"""Runs a call without arguments and answers how to repeat it and where its outputs then are."""

Key = tuple[tuple[str, torch.Size, torch.dtype], ...]

_TRIES_BEFORE_RECORDING = 1
"""Calls of a new shape that are made as usual: one that never comes again is not worth a recording."""

_CALLS_BEFORE_TRYING_AGAIN = 200
"""Calls of a shape that found no memory to be recorded, before it is tried once more."""

_REMEMBERED_SHAPES = 4096


@dataclass(slots=True)
class _Buffer:
    """Fixed memory of one argument, shared by all recordings that fit into it: only one of them runs at a time."""

    memory: torch.Tensor
    holds: torch.Tensor | None = None  # what was copied last, so that the same tensor is not copied again
    version: int = 0


@dataclass(slots=True)
class _Recording:
    inputs: dict[str, tuple[_Buffer, torch.Tensor]]  # the buffer, and its first rows
    replay: Replay
    outputs: Outputs


class Graphs:
    """Records calls by shape; the least recently used recording makes room for a new one.

    From one thread. All tensors' first dimension counts rows.

    Args:
        record: How the device records.
        most: Recordings kept at a time, of all networks together.
        max_rows: Rows that buffers are made for; a call with more rows gets buffers of its own.
    """

    def __init__(self, record: Record, *, most: int, max_rows: int) -> None:
        self._record = record
        self._most = most
        self._max_rows = max_rows
        self._recordings: OrderedDict[tuple[str, Key], _Recording] = OrderedDict()
        self._buffers: dict[tuple[str, str, torch.Size, torch.dtype], _Buffer] = {}
        self._seen: OrderedDict[tuple[str, Key], int] = OrderedDict()
        self._refused: set[tuple[str, Key]] = set()

    def __len__(self) -> int:
        return len(self._recordings)

    def call(self, name: str, run: Run, tensors: dict[str, torch.Tensor]) -> Outputs:
        """What `run` answers for `tensors`, in memory of its own.

        Args:
            name: Of the network; calls of different networks are recorded apart.
            run: The network.
            tensors: Its arguments, by their names.

        Raises:
            torch.OutOfMemoryError: There was no memory for it even after all recordings were given up.
        """
        key = name, tuple((argument, one.shape, one.dtype) for argument, one in tensors.items())
        recording = self._recordings.get(key)
        if recording is None:
            if self._worth_recording(key):
                recording = self._recorded(key, run, tensors)
            if recording is None:
                return self._as_usual(run, tensors)
        self._recordings.move_to_end(key)
        _fill(recording, tensors)
        recording.replay()
        return tuple(output.clone() for output in recording.outputs)

    def clear(self) -> None:
        """Gives all recordings and buffers up."""
        self._recordings.clear()
        self._buffers.clear()

    def _as_usual(self, run: Run, tensors: dict[str, torch.Tensor]) -> Outputs:
        """Without a recording. What finds no memory beside them is called once more when they are gone."""
        try:
            return run(**tensors)
        except torch.OutOfMemoryError:
            if not self._recordings:
                raise
        # Only here: the error holds all that the call had made.
        log.warning("out of memory beside %d recorded calls: they are given up", len(self))
        self.clear()
        return run(**tensors)

    def _worth_recording(self, key: tuple[str, Key]) -> bool:
        if key in self._refused or not self._most:
            return False
        seen = self._seen.pop(key, 0)
        self._seen[key] = seen + 1
        if len(self._seen) > _REMEMBERED_SHAPES:
            self._seen.popitem(last=False)
        return seen >= _TRIES_BEFORE_RECORDING

    def _recorded(
        self, key: tuple[str, Key], run: Run, tensors: dict[str, torch.Tensor]
    ) -> _Recording | None:
        """None where the device refuses to record this, it is then called as usual for good; or for lack of memory."""
        while len(self._recordings) >= self._most:
            self._recordings.popitem(last=False)
        used = {id(buffer) for one in self._recordings.values() for buffer, _ in one.inputs.values()}
        self._buffers = {place: buffer for place, buffer in self._buffers.items() if id(buffer) in used}
        inputs = {}
        try:
            for argument, tensor in tensors.items():
                buffer = self._buffer(key[0], argument, tensor)
                inputs[argument] = buffer, buffer.memory[: len(tensor)]
                inputs[argument][1].copy_(tensor)
                buffer.holds = None
            fixed = {argument: rows for argument, (_, rows) in inputs.items()}
            replay, outputs = self._record(lambda: run(**fixed))
        except RuntimeError as error:  # a lack of memory, or the device's own for what cannot be recorded
            log.warning("a call of the %s cannot be recorded, it is made step by step: %s", key[0], error)
            if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
                self.clear()
                self._seen[key] = -_CALLS_BEFORE_TRYING_AGAIN
                return None
            if len(self._refused) >= _REMEMBERED_SHAPES:
                self._refused.clear()
            self._refused.add(key)
            return None
        recording = _Recording(inputs, replay, outputs)
        self._recordings[key] = recording
        return recording

    def _buffer(self, name: str, argument: str, tensor: torch.Tensor) -> _Buffer:
        place = name, argument, tensor.shape[1:], tensor.dtype
        buffer = self._buffers.get(place)
        if buffer is None or len(buffer.memory) < len(tensor):
            # Recordings made with a smaller one keep theirs.
            memory = tensor.new_zeros((max(self._max_rows, len(tensor)), *tensor.shape[1:]))
            buffer = self._buffers[place] = _Buffer(memory)
        return buffer


def _fill(recording: _Recording, tensors: dict[str, torch.Tensor]) -> None:
    for argument, tensor in tensors.items():
        buffer, rows = recording.inputs[argument]
        # Inference tensors count no versions; those of this project are never written to after they were handed over.
        version = 0 if tensor.is_inference() else tensor._version
        if buffer.holds is tensor and buffer.version == version:
            continue
        rows.copy_(tensor)
        buffer.holds, buffer.version = tensor, version


class CudaRecorder:
    """How CUDA devices record: CUDA graphs, all in one pool of memory, since only one of them runs at a time."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._alive: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Replay, Outputs]:
        """As `Record`."""
        # On the stream of the recording, because some libraries set themselves up per stream at their first call.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(2):  # what chooses its kernels by trying them must have chosen
                run()
        torch.cuda.current_stream().wait_stream(self._stream)
        if not self._alive:  # a pool ends with its last graph, and must not be named again
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = run()
        self._alive.add(graph)
        return graph.replay, outputs


def record_by_repeating(run: Callable[[], Outputs]) -> tuple[Replay, Outputs]:
    """For devices that cannot record: the call is made again, from and to the same fixed memory."""
    outputs = tuple(output.clone() for output in run())

    def replay() -> None:
        for place, output in zip(outputs, run(), strict=True):
            place.copy_(output)

    return replay, outputs
