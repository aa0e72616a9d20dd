"""Where a training run keeps its files, and how models are put together from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import Tokenizer
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tools.small_sdxl.architecture import new_text_encoders, new_unet, new_vae
from tools.small_sdxl.checkpoint import load_checkpoint
from tools.small_sdxl.latents import PatchBasis

DEFAULT_RUN: Final = Path("runs/small-sdxl")
BUNDLED: Final = Path("serve_app/models/small-sdxl")


@dataclass(frozen=True)
class Workspace:
    """The folder of one run; outside version control, and enough to go on after any interruption."""

    folder: Path

    @property
    def tokenizer_folder(self) -> Path:
        """The finished tokenizer."""
        return self.folder / "tokenizer"

    @property
    def basis_file(self) -> Path:
        """The principal components."""
        return self.folder / "basis.json"

    @property
    def text_file(self) -> Path:
        """Both text encoders."""
        return self.folder / "text.pt"

    @property
    def unet_file(self) -> Path:
        """The UNet's checkpoint."""
        return self.folder / "unet.pt"

    def vae_file(self, stage: str) -> Path:
        """The checkpoint of a stage of the VAE."""
        return self.folder / f"vae-{stage}.pt"

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer."""
        return Tokenizer.from_file(str(self.tokenizer_folder / "tokenizer.json"))

    def basis(self) -> PatchBasis:
        """Load the principal components."""
        return PatchBasis.load(self.basis_file)

    def text_encoders(self) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
        """Load both text encoders."""
        one, two = new_text_encoders()
        saved = load_checkpoint(self.text_file)
        if saved is not None:
            one.load_state_dict(saved["one"])
            two.load_state_dict(saved["two"])
        return one.eval(), two.eval()

    def unet(self) -> UNet2DConditionModel:
        """Load the averaged UNet (fresh weights while there is no checkpoint)."""
        unet = new_unet()
        saved = load_checkpoint(self.unet_file)
        if saved is not None:
            unet.load_state_dict(saved["unet"])
            with torch.no_grad():
                for weight, mean in zip(unet.parameters(), saved["average"], strict=True):
                    weight.copy_(mean)
        return unet.eval()

    def vae(self) -> AutoencoderKL:
        """Load the VAE from its latest stage."""
        vae = new_vae()
        for stage in ("polish", "encoder", "full", "high", "low"):
            saved = load_checkpoint(self.vae_file(stage))
            if saved is not None:
                vae.load_state_dict(saved["vae"])
                break
        return vae.eval()
