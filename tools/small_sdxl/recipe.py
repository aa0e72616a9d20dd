"""The recipe of the bundled weights: what ``train`` does when nothing else is said."""

from __future__ import annotations

from typing import Final

from tools.small_sdxl.scenes import Mix
from tools.small_sdxl.unet_training import UnetSettings
from tools.small_sdxl.vae_training import VaeSettings

TEXT_STEPS: Final = 900

#: Each goes on from the weights of the one before.
VAE_STAGES: Final[dict[str, VaeSettings]] = {
    "low": VaeSettings("low", steps=900, batch=16, side=256),
    "high": VaeSettings("high", steps=500, batch=8, side=128),
    "full": VaeSettings("full", steps=450, batch=4, side=256, learning_rate=1.5e-3, noise=0.12),
    "encoder": VaeSettings("encoder", steps=700, batch=4, side=256),
}
#: After the UNet: the decoder learns to mend what the UNet draws.
POLISH: Final = VaeSettings("polish", steps=150, batch=2, side=512, learning_rate=5e-4, noise=0.08)

#: The bundled weights had ``other_sizes`` 0.06, and 0.04 from step 1,860 on; 0.05 stands for both.
#: Steps count on through the stages: each goes on from the checkpoint of the one before, and a stage's
#: ``steps`` (or ``until``) is the count at which it ends. The learning rate of the fourth and of the last stage decays
#: to its end; ``decay_from`` is the share of ``steps`` at which that begins.
UNET_STAGES: Final[dict[str, UnetSettings]] = {
    "shapes, high t": UnetSettings(
        batch=32, steps=2250, until=590, learning_rate=2e-3, last_step_share=0.4, mix=Mix(0.72, 0.02, 0.02)
    ),
    "shapes, every t": UnetSettings(
        batch=32,
        steps=2250,
        until=890,
        learning_rate=2e-3,
        last_step_share=0.25,
        few_steps_share=0.25,
        mix=Mix(0.68, 0.03, 0.03),
    ),
    "more subjects": UnetSettings(
        batch=32,
        steps=2250,
        until=1340,
        learning_rate=2e-3,
        last_step_share=0.25,
        few_steps_share=0.25,
        mix=Mix(0.48, 0.08, 0.07),
    ),
    "all subjects, other sizes": UnetSettings(
        batch=32,
        steps=2250,
        learning_rate=2e-3,
        decay_from=0.54,
        last_step_share=0.25,
        few_steps_share=0.25,
        other_sizes=0.05,
        mix=Mix(0.42, 0.10, 0.08),
    ),
    "pairs, accessories, many sizes": UnetSettings(
        batch=32,
        steps=4250,
        learning_rate=2e-3,
        decay_from=0.72,
        last_step_share=0.25,
        few_steps_share=0.25,
        other_sizes=0.35,
        mix=Mix(0.28, 0.14, 0.14),
    ),
}
