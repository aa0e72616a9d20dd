"""How a device wants to be worked with: `DeviceWork`, what `SdxlPipeline` asks instead of asking what device it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from serve_app.pipelines.noise_schedulers import NoiseSchedulers


class DeviceWork:
    """What holds for any device; one with ways of its own changes the methods that differ.

    Args:
        device: Where the tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def denoising(self) -> AbstractContextManager[None]:
        """Around each preparation and each step."""
        return nullcontext()

    def decoding(self) -> AbstractContextManager[None]:
        """Around each decode."""
        return nullcontext()

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the host on the device; the host's own must not be written to afterwards."""
        return tensor.to(self.device)

    def text_states(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the UNet gets of the text.

        Args:
            tokens: (rows, sequence, channels) of the text encoders.

        Returns:
            (rows, sequence, any number of channels), on the device.
        """
        return tokens

    def noise_schedulers(self, own: Any) -> NoiseSchedulers:
        """The noise schedulers of a model whose own one is `own`."""
        return NoiseSchedulers(own)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error` is this device's own way to say so; torch's own classes need no mention."""
        return False

    def works(self) -> bool:
        """Whether it still computes, after an error."""
        return True
