"""Trains the parts of the model in their order, on a CPU or a CUDA device, with or without drawing processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import torch

from tools.small_sdxl.architecture import new_text_encoders, new_unet, new_vae
from tools.small_sdxl.checkpoint import load_checkpoint, save_checkpoint
from tools.small_sdxl.denoising import LastStep
from tools.small_sdxl.feeding import Feed, Order
from tools.small_sdxl.latents import fit_basis
from tools.small_sdxl.pool import Pool, latent_orders
from tools.small_sdxl.recipe import Recipe
from tools.small_sdxl.scenes import Mix
from tools.small_sdxl.sources import (
    LatentSource,
    PictureSource,
    drawn_now,
    from_pool,
    pictures_from_pool,
    pictures_now,
)
from tools.small_sdxl.text_training import Source, fresh_captions, warm_up
from tools.small_sdxl.unet_training import UnetTrainer
from tools.small_sdxl.vae_training import VaeSettings, VaeTrainer
from tools.small_sdxl.vocabulary import save_tokenizer, train_tokenizer
from tools.small_sdxl.workspace import Workspace

#: Called with a name, the share done (0 to 1) and a note.
Report = Callable[[str, float, str], None]


class Part(StrEnum):
    """What can be trained, in the order in which it has to happen."""

    TOKENIZER = "tokenizer"
    BASIS = "basis"
    TEXT = "text"
    VAE = "vae"
    UNET = "unet"
    POLISH = "polish"


class Logged:
    """A report that is also appended to a file, a line of JSON at a time."""

    def __init__(self, report: Report, path: Path) -> None:
        self.report, self.path, self.start = report, path, time.time()

    def __call__(self, name: str, done: float, note: str) -> None:
        """Pass on, and note down."""
        self.report(name, done, note)
        line = {
            "wall": round(time.time() - self.start, 1),
            "what": name,
            "done": round(done, 4),
            "note": note,
        }
        with self.path.open("a") as log:
            log.write(json.dumps(line) + "\n")


class Training:
    """One run: its folder, its recipe, its device and its drawing processes."""

    def __init__(
        self, workspace: Workspace, recipe: Recipe, device: torch.device, workers: int, report: Report
    ) -> None:
        self.workspace, self.recipe, self.device = workspace, recipe, device
        self.workers, self.report = workers, report
        self.roomy = device.type == "cuda"

    def prepare(self, parts: set[Part]) -> None:
        """What takes seconds and comes first: the tokenizer and the principal components."""
        self.workspace.folder.mkdir(parents=True, exist_ok=True)
        if Part.TOKENIZER in parts and not self.workspace.tokenizer_folder.exists():
            save_tokenizer(train_tokenizer(), self.workspace.tokenizer_folder)
        if Part.BASIS in parts and not self.workspace.basis_file.exists():
            fit_basis().save(self.workspace.basis_file)

    def run(self, parts: set[Part]) -> None:
        """Train the parts one after another."""
        self.prepare(parts)
        if parts & {Part.TEXT, Part.UNET}:
            self._text_and_unet(parts)
        if parts & {Part.VAE, Part.POLISH}:
            self._vae(parts, self.workers, self.workspace.folder / "vae.jsonl")

    def _text_and_unet(self, parts: set[Part]) -> None:
        tokenizer, settings = self.workspace.tokenizer(), self.recipe.unet
        report = Logged(self.report, self.workspace.folder / "unet.jsonl")
        saved = load_checkpoint(self.workspace.unet_file) or {"step": 0}
        seed, feed = 100 + int(saved["step"]), None
        captions: Source = fresh_captions(tokenizer)
        pictures: LatentSource = drawn_now(tokenizer, self.workspace.basis())
        pool: Pool | None = None
        if self.workers:
            orders = latent_orders(settings.other_sizes, count=256 if self.roomy else 32)
            feed = Feed(orders, tokenizer, Mix(), self.workers, seed)
            room = [(14 if k == 0 else 2) * 10 ** (9 if self.roomy else 7) for k in range(len(orders))]
            pool = Pool(feed, self.workspace.basis(), self.device, room)
            captions, pictures = self._captions(pool), from_pool(pool)
        try:
            if Part.TEXT in parts and not self.workspace.text_file.exists():
                self._text(captions, report)
            if Part.UNET in parts:
                self._unet(pictures, pool, report)
        finally:
            if feed is not None:
                feed.close()

    def _captions(self, pool: Pool) -> Source:
        def source(count: int) -> tuple[torch.Tensor, torch.Tensor]:
            _, ids, labels = pool.sample(0, count)
            return ids, labels

        return source

    def _text(self, captions: Source, report: Report) -> None:
        torch.manual_seed(1)
        one, two = new_text_encoders()
        settings = self.recipe.text
        start = time.monotonic()
        for step, loss, accuracy in warm_up(one, two, captions, settings, self.device):
            done = step / settings.steps
            if settings.seconds is not None:
                done = max(done, (time.monotonic() - start) / settings.seconds)
            report("text encoders", min(1.0, done), f"step {step}, loss {loss:.3f}, labels {accuracy:.2%}")
        save_checkpoint({"one": one.state_dict(), "two": two.state_dict()}, self.workspace.text_file)

    def _unet(self, source: LatentSource, pool: Pool | None, report: Report) -> None:
        torch.manual_seed(3)
        text = self.workspace.text_encoders()
        trainer = UnetTrainer(new_unet(), text, source, self.recipe.unet, self.device)
        for at in trainer.run(self.workspace.unet_file, save_every=25.0 if self.roomy else 150.0):
            bands = " ".join(f"t<{edge}:{loss:.4f}" for edge, loss in at.bands.items())
            drawn = "" if pool is None else f", {pool.drawn()} drawn"
            rate = f"{at.pictures_per_second:.0f}/s, {trainer.pictures} seen{drawn}"
            report("UNet", trainer.gone(), f"step {at.step}, loss {at.loss:.4f}, {bands}, {rate}")

    def _vae(self, parts: set[Part], workers: int, log: Path) -> None:
        torch.manual_seed(5)
        report = Logged(self.report, log)
        tokenizer, feed = self.workspace.tokenizer(), None
        pictures: PictureSource = pictures_now(tokenizer)
        if workers:
            orders = [Order(512, 512, 8, 0.84), Order(768, 512, 5, 0.06), Order(512, 768, 5, 0.04)]
            orders.append(Order(1024, 1024, 2, 0.06))
            orders = orders if self.roomy else orders[:1]
            feed = Feed(orders, tokenizer, Mix(), workers, seed=500)
            room = [(6 if k == 0 else 1) * 10 ** (9 if self.roomy else 8) for k in range(len(orders))]
            pictures = pictures_from_pool(Pool(feed, None, self.device, room))
        try:
            vae, before = new_vae(), None
            if Part.VAE in parts:
                for settings in self.recipe.vae.values():
                    trainer = VaeTrainer(vae, self.workspace.basis(), pictures, settings, self.device)
                    before = self._vae_stage(trainer, before, report)
            if Part.POLISH in parts:
                self._polish(pictures, report)
        finally:
            if feed is not None:
                feed.close()

    def _vae_stage(self, trainer: VaeTrainer, before: Path | None, report: Report) -> Path:
        """Train one stage, starting from the weights of the one before; a finished stage is left as it is."""
        stage = trainer.settings.stage
        path = self.workspace.vae_file(stage)
        if before is not None and not path.exists():
            trainer.restore_weights(load_checkpoint(before) or {})
        for step, loss, decibels in trainer.run(path):
            report(f"VAE, {stage}", trainer.gone(), f"step {step}, loss {loss:.5f}, {decibels:.2f} dB")
        trainer.finish(path)
        return path

    def _polish(self, pictures: PictureSource, report: Report) -> None:
        while not (self.workspace.text_file.exists() and self.workspace.unet_file.exists()):
            time.sleep(1.0)  # the UNet's first checkpoint comes from the process beside this one
        last_step = LastStep(self.workspace.unet(), self.workspace.text_encoders(), self.device)
        settings: VaeSettings = self.recipe.polish
        trainer = VaeTrainer(
            new_vae(), self.workspace.basis(), pictures, settings, self.device, last_step=last_step
        )
        self._vae_stage(trainer, self.workspace.vae_file("encoder"), report)
