"""Worker processes that draw training pictures into shared memory while a model trains.

Workers are forked before anything touches CUDA, write into memory that they share with the trainer, and pass
only the numbers of full slots through pipes. They end with the trainer.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tools.small_sdxl.architecture import TOKENS
from tools.small_sdxl.captions import describe
from tools.small_sdxl.drawing import render_into
from tools.small_sdxl.labels import LABELS, labels_of
from tools.small_sdxl.scenes import Mix, random_scene
from tools.small_sdxl.vocabulary import encode

SLOTS = 3  # per worker: one being drawn, one full, one being read


@dataclass(frozen=True)
class Order:
    """A kind of batch: pictures of one size, how many, and how often it is drawn."""

    width: int
    height: int
    count: int
    weight: float = 1.0
    shrink: int = 1


@dataclass(frozen=True)
class Delivery:
    """A full slot, readable until it is handed back."""

    slot: int
    order: int
    pixels: npt.NDArray[np.uint8]  # (count, height, width, 4)
    ids: npt.NDArray[np.int16]  # (count, tokens)
    labels: npt.NDArray[np.uint8]  # (count, labels)


class Feed:
    """A crew of workers and the memory that they fill."""

    def __init__(self, orders: list[Order], tokenizer: Tokenizer, mix: Mix, workers: int, seed: int) -> None:
        self.orders, self.tokenizer, self.mix = orders, tokenizer, mix
        self.bytes = max(o.width * o.height * 4 * o.count for o in orders)
        most = max(o.count for o in orders)
        slots = workers * SLOTS
        self._pixels = np.frombuffer(mmap.mmap(-1, slots * self.bytes), np.uint8).reshape(slots, self.bytes)
        self._ids = np.frombuffer(mmap.mmap(-1, slots * most * TOKENS * 2), np.int16).reshape(
            slots, most, TOKENS
        )
        self._labels = np.frombuffer(mmap.mmap(-1, slots * most * len(LABELS)), np.uint8).reshape(
            slots, most, len(LABELS)
        )
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        context = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=self._work, args=(theirs, os.getpid(), f"{seed}/{number}"), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
            for slot in range(number * SLOTS, (number + 1) * SLOTS):
                ours.send(slot)

    def _work(self, pipe: Connection, parent: int, seed: str) -> None:
        rng = random.Random(seed)
        weights = [order.weight for order in self.orders]
        while os.getppid() == parent:
            if not pipe.poll(2.0):
                continue
            try:
                slot = pipe.recv()
                which = rng.choices(range(len(self.orders)), weights)[0]
                self._fill(slot, self.orders[which], rng)
                pipe.send((slot, which))
            except (EOFError, BrokenPipeError):
                return

    def _fill(self, slot: int, order: Order, rng: random.Random) -> None:
        pixels = self._view(slot, order)
        captions = []
        for k in range(order.count):
            scene = random_scene(rng, self.mix)
            captions.append(describe(scene, rng))
            self._labels[slot, k] = labels_of(scene)
            render_into(pixels[k], scene, order.shrink)
        self._ids[slot, : order.count] = encode(self.tokenizer, captions)

    def _view(self, slot: int, order: Order) -> npt.NDArray[np.uint8]:
        used = order.count * order.height * order.width * 4
        return self._pixels[slot, :used].reshape(order.count, order.height, order.width, 4)

    def ready(self, timeout: float = 0.0) -> Iterator[Delivery]:
        """What is full by now, after waiting at most this long for the first."""
        for pipe in wait(self._pipes, timeout):
            if not isinstance(pipe, Connection):
                continue
            try:
                slot, which = pipe.recv()
            except EOFError as gone:
                raise RuntimeError("a drawing process has died") from gone
            order = self.orders[which]
            yield Delivery(
                slot,
                which,
                self._view(slot, order),
                self._ids[slot, : order.count],
                self._labels[slot, : order.count],
            )

    def hand_back(self, slot: int) -> None:
        """Let the slot's worker draw into it again."""
        self._pipes[slot // SLOTS].send(slot)

    def close(self) -> None:
        """End the workers."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
