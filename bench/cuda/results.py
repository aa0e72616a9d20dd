"""`Results`: every figure by subject and task, in one JSON file written after each, and latents beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Figures = dict[str, float | str]


class Results:
    """A folder of results; several processes use it one after another.

    Args:
        folder: Made if missing.
        options: What must be the same for a run to go on.

    Raises:
        ValueError: The folder was measured with other options.
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "results.json"
        self._latents = folder / "latents"
        self._content: dict[str, Any] = {"options": options, "description": {}, "figures": {}}
        self.read()
        if self._content["options"] != options:
            raise ValueError(f"{self._file} was measured with other options: {self._content['options']}")

    def read(self) -> None:
        """Takes over what another process wrote."""
        if self._file.is_file():
            self._content = json.loads(self._file.read_text(encoding="utf-8"))

    @property
    def description(self) -> dict[str, Any]:
        """Device and versions."""
        described: dict[str, Any] = self._content["description"]
        return described

    def describe(self, description: dict[str, Any]) -> None:
        """Says what was measured on."""
        self._content["description"] = description
        self._write()

    def subjects(self) -> list[str]:
        """In the order of measuring."""
        return list(self._content["figures"])

    def get(self, subject: str, task: str) -> Figures | None:
        """Figures of a task that is done, ``error`` or ``skipped`` with the reason of one that is not; None before."""
        found: Figures | None = self._content["figures"].get(subject, {}).get(task)
        return found

    def put(self, subject: str, task: str, figures: Figures) -> None:
        """Adds or replaces, and writes."""
        self._content["figures"].setdefault(subject, {})[task] = figures
        self._write()

    def forget_failures(self) -> None:
        """Lets what failed or was impossible be tried again."""
        for tasks in self._content["figures"].values():
            for task in [task for task, figures in tasks.items() if {"error", "skipped"} & set(figures)]:
                del tasks[task]
        self._write()

    def put_latents(self, subject: str, task: str, latents: npt.NDArray[np.float32], picture: bytes) -> None:
        """Keeps the last latents of a picture, and its RGB bytes."""
        self._latents.mkdir(exist_ok=True)
        np.savez(self._place(subject, task), latents=latents, picture=np.frombuffer(picture, dtype=np.uint8))

    def latents(
        self, subject: str, task: str
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int16]] | None:
        """(latents, picture) as kept, or None."""
        file = self._place(subject, task)
        if not file.is_file():
            return None
        with np.load(file) as kept:
            return kept["latents"].astype(np.float32), kept["picture"].astype(np.int16)

    def _place(self, subject: str, task: str) -> Path:
        return self._latents / (f"{subject} {task}".replace(" ", "_").replace(",", "") + ".npz")

    def _write(self) -> None:
        fresh = self._file.with_suffix(".tmp")
        fresh.write_text(json.dumps(self._content, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self._file)
