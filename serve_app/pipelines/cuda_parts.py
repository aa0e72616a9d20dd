"""The parts of SDXL as a CUDA device runs them: `CudaWork`, `FastUNet`, `FastVae`, `FastTextEncoder`.

Each stands where diffusers' or transformers' own part is and is called like it. Without a device they run on the
CPU just so, which is how tests and ``make bench-cuda ARGS="--device cpu --tiny"`` go through them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from serve_app.pipelines.attention_layout import TextStates
from serve_app.pipelines.device_work import DeviceWork
from serve_app.pipelines.graphs import Graphs
from serve_app.pipelines.linear_schedule import LinearSchedules

_ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}

_OUT_OF_MEMORY = ("CUDA error: out of memory", "CUDA out of memory", "STATUS_ALLOC_FAILED")
"""What the driver, cuBLAS and cuDNN say when they find no memory themselves; torch has no class for it."""


class CudaWork(DeviceWork):
    """Nothing waits for the device within a step; each ends with one wait, so that the engine knows what it took.

    Args:
        device: A CUDA device, or the CPU in its place.
        graphs: Given up when memory runs out.
        text_states: See `TextStates`; None leaves the embeddings as they are.
    """

    def __init__(self, device: torch.device, graphs: Graphs, text_states: TextStates | None) -> None:
        super().__init__(device)
        self._graphs = graphs
        self._text_states = text_states
        self._cuda = device.type == "cuda"

    @contextmanager
    def denoising(self) -> Iterator[None]:
        """Waits at the end, once."""
        with self._giving_memory_up():
            yield
            if self._cuda:
                torch.cuda.current_stream(self.device).synchronize()

    def decoding(self) -> AbstractContextManager[None]:
        """A decode ends with its pixels on the host, so it waits by itself."""
        return self._giving_memory_up()

    @contextmanager
    def _giving_memory_up(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or self.is_out_of_memory(error):
                self._graphs.clear()
                if self._cuda:
                    torch.cuda.empty_cache()
            raise

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        """From page-locked memory, so that the host need not wait until it is copied."""
        if not self._cuda:
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def text_states(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `TextStates`."""
        if self._text_states is None:
            return tokens
        states: torch.Tensor = self._text_states(tokens)
        return states

    def noise_schedulers(self, own: Any) -> LinearSchedules:
        """Those that never wait."""
        return LinearSchedules(own, self.send)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """As the driver and its libraries say it."""
        return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)

    def works(self) -> bool:
        """Tries. After an illegal access or a fault of the hardware all calls of the process fail until it ends."""
        try:
            torch.zeros(1, device=self.device).cpu()
        except RuntimeError as error:
            return isinstance(error, torch.OutOfMemoryError) or self.is_out_of_memory(error)
        return True


@dataclass(frozen=True, slots=True)
class Compiled:
    """The shapes that were compiled; others must not start a compiler, which takes minutes.

    Attributes:
        latents: (height, width) of the latents.
        rows: Row counts of the UNet.
        sequence: Tokens of the text.
    """

    latents: frozenset[tuple[int, int]]
    rows: frozenset[int]
    sequence: int

    def context(
        self, sample: torch.Tensor, tokens: torch.Tensor | None = None
    ) -> AbstractContextManager[Any]:
        """Around a call: as compiled if it was, else as written."""
        height, width = sample.shape[-2:]
        known = (height, width) in self.latents and (
            tokens is None or (len(sample) in self.rows and tokens.shape[1] == self.sequence)
        )
        return nullcontext() if known else torch.compiler.set_stance("force_eager")


class FastUNet:
    """A `UNet2DConditionModel`, recorded by shape.

    Args:
        unet: Compiled in place, or not.
        graphs: Where calls are recorded.
        attention: As `CudaSettings.attention`.
        compiled: Which shapes were compiled; None where nothing was.
    """

    def __init__(self, unet: Any, graphs: Graphs, *, attention: str, compiled: Compiled | None) -> None:
        self._unet = unet
        self._graphs = graphs
        self._attention = attention
        self._compiled = compiled
        self.config = unet.config
        self.dtype: torch.dtype = unet.dtype

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        *,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None,
        added_cond_kwargs: dict[str, torch.Tensor],
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """As the UNet's own, always answering a tuple."""
        tensors = {
            "sample": sample,
            "timestep": timestep,
            "tokens": encoder_hidden_states,
            "pooled": added_cond_kwargs["text_embeds"],
            "time_ids": added_cond_kwargs["time_ids"],
        }
        if timestep_cond is not None:
            tensors["guidance"] = timestep_cond
        (noise,) = self._graphs.call("unet", self._run, tensors)
        return (noise,)

    def _run(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        tokens: torch.Tensor,
        pooled: torch.Tensor,
        time_ids: torch.Tensor,
        guidance: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        with ExitStack() as stack:
            stack.enter_context(_attention(self._attention))
            if self._compiled is not None:
                stack.enter_context(self._compiled.context(sample, tokens))
            (noise,) = self._unet(
                sample,
                timestep,
                encoder_hidden_states=tokens,
                timestep_cond=guidance,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
                return_dict=False,
            )
        return (noise,)


class FastVae:
    """The decoding half of an `AutoencoderKL`, recorded by shape; in tiles above a size.

    Args:
        vae: Its decoder compiled in place, or not.
        graphs: Where calls are recorded.
        tiling_above_px: Pixels above which a picture is decoded in tiles of at most so many; None never does.
        pixels_per_latent: Pixels of one latent.
        compiled: Which shapes were compiled; None where nothing was.
    """

    def __init__(
        self,
        vae: Any,
        graphs: Graphs,
        *,
        tiling_above_px: int | None,
        pixels_per_latent: int,
        compiled: Compiled | None,
    ) -> None:
        self._vae = vae
        self._graphs = graphs
        self._most_latents = None if tiling_above_px is None else tiling_above_px / pixels_per_latent
        if self._most_latents is not None:
            _tile(vae, math.isqrt(int(self._most_latents)))
        self._compiled = compiled
        self.config = vae.config
        self.dtype: torch.dtype = vae.dtype

    def decode(self, latents: torch.Tensor, *, return_dict: bool = False) -> tuple[torch.Tensor]:
        """As the VAE's own, always answering a tuple."""
        height, width = latents.shape[-2:]
        if self._most_latents is not None and height * width > self._most_latents:
            # Tiles have shapes of their own, which nobody compiled.
            with nullcontext() if self._compiled is None else torch.compiler.set_stance("force_eager"):
                image: torch.Tensor = self._vae.tiled_decode(latents, return_dict=False)[0]
            return (image,)
        (image,) = self._graphs.call("VAE", self._run, {"latents": latents})
        return (image,)

    def _run(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
        with nullcontext() if self._compiled is None else self._compiled.context(latents):
            return (self._vae.decode(latents, return_dict=False)[0],)


def _tile(vae: Any, most: int) -> None:
    """Makes a VAE's tiles no larger than the pictures that are decoded whole, or their memory would be no smaller.

    diffusers' are as large as what the VAE was trained on, which for SDXL is a whole picture of 1024x1024.

    Args:
        vae: An `AutoencoderKL`.
        most: Latents of a side.
    """
    side = most - most % 4  # a quarter of a tile lies over the next one
    if side < vae.tile_latent_min_size:
        pixels = vae.tile_sample_min_size // vae.tile_latent_min_size
        vae.tile_latent_min_size, vae.tile_sample_min_size = side, side * pixels


@dataclass(frozen=True, slots=True)
class _TextOutput:
    """What `TextEncoder` reads of transformers' output."""

    hidden_states: tuple[torch.Tensor, ...]
    first: torch.Tensor

    def __getitem__(self, place: int) -> torch.Tensor:
        if place:
            raise IndexError(place)
        return self.first


class FastTextEncoder:
    """A CLIP text encoder, recorded by the number of chunks.

    Args:
        encoder: Of transformers.
        graphs: Where calls are recorded.
        name: Of this encoder among those of `graphs`.
    """

    def __init__(self, encoder: Any, graphs: Graphs, name: str) -> None:
        self._encoder = encoder
        self._graphs = graphs
        self._name = name
        self.config = encoder.config

    def __call__(self, ids: torch.Tensor, *, output_hidden_states: bool = True) -> _TextOutput:
        """As the encoder's own, with the hidden states of the last two layers."""
        first, last_but_one, last = self._graphs.call(self._name, self._run, {"ids": ids})
        return _TextOutput((last_but_one, last), first)

    def _run(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        output = self._encoder(ids, output_hidden_states=True)
        return output[0], output.hidden_states[-2], output.hidden_states[-1]


def _attention(name: str) -> AbstractContextManager[Any]:
    if name == "auto":
        return nullcontext()
    others = [kernel for kernel in (*_ATTENTION.values(), SDPBackend.MATH) if kernel is not _ATTENTION[name]]
    return sdpa_kernel([_ATTENTION[name], *others], set_priority=True)
