"""The recipe of the bundled weights: what ``train`` does when nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from tools.small_sdxl.text_training import TextSettings
from tools.small_sdxl.unet_training import UnetSettings
from tools.small_sdxl.vae_training import VaeSettings

#: Where only time counts.
ENDLESS: Final = 10_000_000


@dataclass(frozen=True)
class Recipe:
    """The settings of every part; each stage of the VAE goes on from the weights of the one before."""

    text: TextSettings
    unet: UnetSettings
    vae: dict[str, VaeSettings]
    #: After the UNet, or from its latest checkpoint: the decoder learns to mend what the UNet draws.
    polish: VaeSettings


ON_CPU: Final = Recipe(
    text=TextSettings(),
    unet=UnetSettings(),
    vae={
        "low": VaeSettings("low", steps=900, batch=16, side=256),
        "high": VaeSettings("high", steps=500, batch=8, side=128),
        "full": VaeSettings("full", steps=450, batch=4, side=256, learning_rate=1.5e-3, noise=0.12),
        "encoder": VaeSettings("encoder", steps=700, batch=4, side=256),
    },
    polish=VaeSettings("polish", steps=150, batch=2, learning_rate=5e-4),
)


def on_cuda(seconds: float) -> Recipe:
    """The recipe of a GPU: text encoders and UNet in these seconds, the VAE beside them in the same."""
    text = min(20.0, 0.08 * seconds)
    return Recipe(
        text=TextSettings(ENDLESS, text, batch=1024),
        unet=UnetSettings(batch=384, steps=ENDLESS, seconds=seconds - text, warm_up=100, ema=0.999),
        vae={
            "low": VaeSettings("low", ENDLESS, batch=48, seconds=0.07 * seconds, ema=0.99),
            "full": VaeSettings("full", ENDLESS, batch=16, seconds=0.53 * seconds, noise=0.1, ema=0.998),
            "encoder": VaeSettings("encoder", ENDLESS, batch=16, seconds=0.14 * seconds, ema=0.99),
        },
        polish=VaeSettings(
            "polish", ENDLESS, batch=16, seconds=0.26 * seconds, learning_rate=8e-4, ema=0.998
        ),
    )


def for_seconds(seconds: float) -> Recipe:
    """The recipe of a CPU cut to a time for each part."""
    r = ON_CPU
    return Recipe(
        text=replace(r.text, seconds=seconds * 0.1),
        unet=replace(r.unet, seconds=seconds),
        vae={name: replace(stage, seconds=seconds / 5) for name, stage in r.vae.items()},
        polish=replace(r.polish, seconds=seconds / 5),
    )
