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


#: What made the bundled weights, in the steps that its machine did in its time: on any other the same number of
#: updates, however long they take.
PUBLISHED: Final = Recipe(
    text=TextSettings(steps=369, batch=1024),
    unet=UnetSettings(batch=384, steps=3823, warm_up=100, ema=0.999),
    vae={
        "low": VaeSettings("low", steps=1973, batch=48, ema=0.99),
        "full": VaeSettings("full", steps=1343, batch=16, noise=0.1, ema=0.998),
        "encoder": VaeSettings("encoder", steps=778, batch=16, ema=0.99),
    },
    polish=VaeSettings("polish", steps=605, batch=16, learning_rate=8e-4, ema=0.998),
)

#: Batches that suit a CPU; for runs that end by the clock.
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
    """The recipe of a GPU by the clock: text encoders and UNet in these seconds, the VAE beside them in the same."""
    r, text = PUBLISHED, min(20.0, 0.08 * seconds)
    shares = {"low": 0.07, "full": 0.53, "encoder": 0.14}
    return Recipe(
        text=replace(r.text, steps=ENDLESS, seconds=text),
        unet=replace(r.unet, steps=ENDLESS, seconds=seconds - text),
        vae={
            name: replace(stage, steps=ENDLESS, seconds=shares[name] * seconds)
            for name, stage in r.vae.items()
        },
        polish=replace(r.polish, steps=ENDLESS, seconds=0.26 * seconds),
    )


def for_seconds(seconds: float) -> Recipe:
    """The recipe of a CPU by the clock: a time for each part."""
    r = ON_CPU
    return Recipe(
        text=replace(r.text, seconds=seconds * 0.1),
        unet=replace(r.unet, seconds=seconds),
        vae={name: replace(stage, seconds=seconds / 5) for name, stage in r.vae.items()},
        polish=replace(r.polish, seconds=seconds / 5),
    )
