"""SDXL's networks alone on a GPU, by diffusers' layers, `fused_layers` and `fp8`: ``python -m bench.cuda.layers``.

Makes a UNet and a VAE of SDXL base's exact shapes with random weights on the device, no file needed, in a minute:
the error of each kind against float32, milliseconds of a step and of a decode. All kinds are called as the service
calls them, recorded as CUDA graphs.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKL, UNet2DConditionModel
from rich.console import Console
from rich.table import Table

from bench.cuda.sides import timed_ms
from serve_app.pipelines.attention_layout import TextStates, fuse_self_attention
from serve_app.pipelines.cuda_parts import FastUNet, FastVae
from serve_app.pipelines.eight_bits import to_eight_bits
from serve_app.pipelines.fused_layers import fuse_layers
from serve_app.pipelines.fused_operations import check_kernels
from serve_app.pipelines.graphs import CudaRecorder, Graphs, record_by_repeating
from tools.make_sdxl import UNET, UNET_COMMON, VAE, VAE_COMMON

KINDS = {"diffusers' layers": "float16", "fused_layers": "float16", "fp8": "bfloat16"}
_PIXELS_OF_A_LATENT = 8
_CHECKED_SIDE = 64  # latents of the picture whose errors are told


class Networks:
    """Both, in float32, and copies of them in each kind.

    Args:
        device: Where they are.
        size: ``full`` or ``tiny``.
    """

    def __init__(self, device: torch.device, size: str) -> None:
        self._device = device
        self._generator = torch.Generator(device).manual_seed(0)
        self.unet = self._made(UNet2DConditionModel, {**UNET_COMMON, **UNET[size]})
        self.vae = self._made(AutoencoderKL, {**VAE_COMMON, **VAE[size]})

    def _made(self, kind: Any, config: dict[str, Any]) -> Any:
        with torch.device("meta"):
            model = kind.from_config(config)
        model.to_empty(device=self._device)
        for name, weight in model.named_parameters():
            if weight.ndim < 2:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
            else:  # so that numbers keep their size from layer to layer
                weight.copy_(self._random(*weight.shape) / math.sqrt(weight[0].numel()))
        return model.eval()

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device)

    def inputs(self, rows: int, side: int) -> dict[str, Any]:
        """A step's arguments, float32: the same latents in every row, other texts."""
        self._generator.manual_seed(5)
        config = self.unet.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        pixels = float(side * _PIXELS_OF_A_LATENT)
        return {
            "sample": self._random(1, 4, side, side).repeat(rows, 1, 1, 1),
            "timestep": torch.full((rows,), 500.0, device=self._device),
            "encoder_hidden_states": self._random(rows, 77, config.cross_attention_dim),
            "text_embeds": self._random(rows, pooled),
            "time_ids": torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]] * rows, device=self._device),
        }

    def step(self, kind: str) -> Callable[[dict[str, Any]], torch.Tensor]:
        """A UNet of this kind, as the service calls it; None of `KINDS` is the float32 reference."""
        if kind not in KINDS:
            return lambda told: self.unet(**_arguments(told, torch.float32), return_dict=False)[0]
        dtype = getattr(torch, KINDS[kind])
        unet: Any = copy.deepcopy(self.unet).to(dtype).to(memory_format=torch.channels_last)
        states = TextStates(unet).to(self._device)
        fuse_self_attention(unet)
        if kind != "diffusers' layers":
            fuse_layers(unet)
        if kind == "fp8":
            to_eight_bits(unet)
        fast = FastUNet(unet, self._graphs(), attention="auto", compiled=None)

        def call(told: dict[str, Any]) -> torch.Tensor:
            arguments = _arguments(told, dtype)
            arguments["encoder_hidden_states"] = states(arguments["encoder_hidden_states"])
            return fast(**arguments, timestep_cond=None)[0]

        return call

    def decode(self, fused: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        """A VAE in bfloat16, as the service calls it."""
        vae: Any = copy.deepcopy(self.vae).to(torch.bfloat16).to(memory_format=torch.channels_last)
        if fused:
            fuse_layers(vae.decoder)
        fast = FastVae(vae, self._graphs(), tiling_above_px=None, pixels_per_latent=64, compiled=None)
        return lambda latents: fast.decode(latents.to(torch.bfloat16))[0]

    def _graphs(self) -> Graphs:
        record = CudaRecorder() if self._device.type == "cuda" else record_by_repeating
        return Graphs(record, most=16, max_rows=16)


def _arguments(told: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        "sample": told["sample"].to(dtype),
        "timestep": told["timestep"],
        "encoder_hidden_states": told["encoder_hidden_states"].to(dtype),
        "added_cond_kwargs": {"text_embeds": told["text_embeds"].to(dtype), "time_ids": told["time_ids"]},
    }


def relative_error(one: torch.Tensor, right: torch.Tensor) -> float:
    """L2, relative to the right one's."""
    return float((one.float() - right).norm() / right.norm())


@torch.inference_mode()
def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu to see with --tiny that it works.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="Tiny networks.")] = False,
    repeats: Annotated[int, typer.Option(min=1)] = 12,
) -> None:
    """Errors against float32 and milliseconds of SDXL's networks by diffusers' layers, fused_layers and fp8."""
    console = Console()
    where = torch.device(device)
    if where.type == "cuda":
        if not torch.cuda.is_available():
            console.print("There is no CUDA device here: nothing was measured.")
            return
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False  # of the reference
        console.print(torch.cuda.get_device_name(), "torch", torch.__version__)
    check_kernels(where, torch.float16 if where.type == "cuda" else torch.float32, in_8_bits=True)
    networks = Networks(where, "tiny" if tiny else "full")
    shapes = [(1, 16), (2, 16)] if tiny else [(2, 128), (1, 64), (4, 64), (16, 128)]
    side = 16 if tiny else _CHECKED_SIDE
    told = networks.inputs(2, side)
    right = networks.step("float32")(told)
    table = Table(
        "", "error", *(f"{rows} x {_PIXELS_OF_A_LATENT * side} px, ms" for rows, side in shapes), box=None
    )
    for kind in KINDS:
        step = networks.step(kind)
        figures = [f"{relative_error(step(told), right):.2e}"]
        for rows, length in shapes:
            arguments = networks.inputs(rows, length)
            times = timed_ms(lambda step=step, told=arguments: step(told), where, repeats)  # type: ignore[misc]
            figures.append(f"{statistics.median(times):.2f}")
        table.add_row(f"step, {kind}", *figures)
        del step
    console.print(table)
    sides = [16] if tiny else [128, 64]
    table = Table("", "error", *(f"{_PIXELS_OF_A_LATENT * side} px, ms" for side in sides), box=None)
    latents = {length: networks.inputs(1, length)["sample"] for length in {*sides, side}}
    right = networks.vae.decode(latents[side], return_dict=False)[0]
    for fused in (False, True):
        decode = networks.decode(fused)
        figures = [f"{relative_error(decode(latents[side]), right):.2e}"]
        for length in sides:
            times = timed_ms(lambda decode=decode, z=latents[length]: decode(z), where, repeats)  # type: ignore[misc]
            figures.append(f"{statistics.median(times):.2f}")
        table.add_row("decode, fused_layers" if fused else "decode, diffusers' layers", *figures)
        del decode
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
