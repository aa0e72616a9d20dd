"""The recipe of the bundled weights: what ``train`` does when nothing else is said."""

from __future__ import annotations

from typing import Final

from tools.small_sdxl.scenes import Mix
from tools.small_sdxl.unet_training import UnetSettings
from tools.small_sdxl.vae_training import VaeSettings

TEXT_STEPS: Final = 900

VAE_STAGES: Final[dict[str, VaeSettings]] = {
    "low": VaeSettings("low", steps=900, batch=16, side=256),
    "full": VaeSettings("full", steps=900, batch=4, side=256),
    "encoder": VaeSettings("encoder", steps=200, batch=4, side=256),
}

#: Steps count on through the stages: each goes on from the checkpoint of the one before.
UNET_STAGES: Final[dict[str, UnetSettings]] = {
    "shapes first": UnetSettings(
        batch=32, steps=2000, learning_rate=2e-3, last_step_share=0.4, mix=Mix(0.72, 0.02, 0.02)
    ),
}
