"""The pictures that training draws from: fresh ones from the workers, kept on the device and used again at will."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from tools.small_sdxl.feeding import Delivery, Feed, Order
from tools.small_sdxl.latents import PATCH, PatchBasis


def patch_latents(small: Tensor, mean: Tensor, encoder: Tensor) -> Tensor:
    """Latents of pictures at an eighth, (batch, height, width, 3) in [-1, 1]; as ``PatchBasis.encode``."""
    batch, height, width, _ = small.shape
    cut = small.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, 3).permute(0, 1, 3, 2, 4, 5)
    patches = cut.reshape(batch, height // PATCH, width // PATCH, PATCH * PATCH * 3)
    return ((patches - mean) @ encoder).permute(0, 3, 1, 2).contiguous()


@dataclass
class Shelf:
    """The pictures of one size."""

    pictures: Tensor
    ids: Tensor
    labels: Tensor
    filled: int = 0
    drawn: int = 0


class Pool:
    """Shelves by size, filled as the workers deliver; the oldest pictures make room.

    Args:
        feed: The workers.
        basis: Turns pictures into latents, which are what is kept; None keeps the pixels.
        device: Where to keep them.
        room: Bytes for each order.
    """

    def __init__(self, feed: Feed, basis: PatchBasis | None, device: torch.device, room: list[int]) -> None:
        self.feed, self.device = feed, device
        self.mean = self.encoder = None
        if basis is not None:
            self.mean = torch.from_numpy(basis.mean).to(device)
            self.encoder = torch.from_numpy(basis.encoder).to(device)
        self.shelves: list[Shelf | None] = [None] * len(feed.orders)
        self.room = room

    def _moved(self, rows: npt.NDArray[Any]) -> Tensor:
        """A copy on the device, queued behind what the device is doing: nothing waits for it."""
        tensor = torch.from_numpy(rows)
        if self.device.type != "cuda":
            return tensor.clone()
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _take(self, delivery: Delivery) -> None:
        pictures = self._moved(delivery.pixels)[..., :3]
        ids, labels = self._moved(delivery.ids), self._moved(delivery.labels)
        self.feed.hand_back(delivery.slot)
        if self.mean is not None and self.encoder is not None:
            pictures = patch_latents(pictures.float() / 127.5 - 1, self.mean, self.encoder).half()
        shelf = self.shelves[delivery.order]
        if shelf is None:
            each = pictures[0].numel() * pictures.element_size()
            size = max(1, self.room[delivery.order] // (each * len(pictures))) * len(pictures)
            made = [
                torch.zeros((size, *rows.shape[1:]), dtype=rows.dtype, device=self.device)
                for rows in (pictures, ids, labels)
            ]
            shelf = self.shelves[delivery.order] = Shelf(made[0], made[1], made[2])
        at = shelf.drawn % len(shelf.pictures)
        for rows, fresh in ((shelf.pictures, pictures), (shelf.ids, ids), (shelf.labels, labels)):
            rows[at : at + len(fresh)] = fresh
        shelf.drawn += len(pictures)
        shelf.filled = min(len(shelf.pictures), shelf.drawn)

    def refill(self, timeout: float = 0.0) -> None:
        """Take in what the workers have finished."""
        for delivery in self.feed.ready(timeout):
            self._take(delivery)

    def wait_for(self, order: int, count: int) -> None:
        """Wait until a shelf holds this many pictures."""
        while (shelf := self.shelves[order]) is None or shelf.filled < min(count, len(shelf.pictures)):
            self.refill(0.2)

    def drawn(self) -> int:
        """How many pictures have been drawn so far."""
        return sum(shelf.drawn for shelf in self.shelves if shelf is not None)

    def sample(self, order: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (or latents), token ids and labels of some pictures of one size."""
        self.refill()
        shelf = self.shelves[order]
        if shelf is None or shelf.filled < count:
            self.wait_for(order, count)
            return self.sample(order, count)
        rows = torch.randint(shelf.filled, (count,), device=self.device)
        return shelf.pictures[rows], shelf.ids[rows].long(), shelf.labels[rows].long()


def latent_orders(other_sizes: dict[tuple[int, int], float], count: int = 256) -> list[Order]:
    """Orders of pictures at an eighth: 64x64 first, then other sizes (latent rows and columns) by their share."""
    share = 1 - sum(other_sizes.values())
    orders = [Order(64, 64, count, share, shrink=2)]
    for (rows, columns), weight in other_sizes.items():
        orders.append(
            Order(columns * PATCH, rows * PATCH, max(1, count * 256 // (rows * columns)), weight, shrink=2)
        )
    return orders


class Clock:
    """Says when it is time again."""

    def __init__(self, every: float) -> None:
        self.every, self.last = every, time.monotonic()

    def due(self) -> bool:
        """Whether the interval has passed; starts the next one if so."""
        if time.monotonic() - self.last < self.every:
            return False
        self.last = time.monotonic()
        return True
