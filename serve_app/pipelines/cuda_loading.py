"""`load_on`: SDXL as a CUDA device runs it fastest, from `PoolSettings.cuda`."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from serve_app.errors import ConfigurationError
from serve_app.model_source import model_defaults
from serve_app.pipelines.attention_layout import TextStates, can_use_text_states, fuse_self_attention
from serve_app.pipelines.cuda_parts import Compiled, CudaWork, FastTextEncoder, FastUNet, FastVae
from serve_app.pipelines.eight_bits import to_eight_bits
from serve_app.pipelines.fused_layers import fuse_layers
from serve_app.pipelines.fused_operations import check_kernels
from serve_app.pipelines.graphs import CudaRecorder, Graphs, record_by_repeating
from serve_app.pipelines.loading import first_line, load_stock, move
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.request import GenerationRequest
from serve_app.settings import CudaSettings, PoolSettings

log = logging.getLogger(__name__)

_FP8_CAPABILITY = (8, 9)  # Ada and Hopper: the first with 8-bit floating-point matrix units
_VARIANTS_OF_A_BLOCK = 8  # of transformer blocks that a UNet has for one shape, at most


def load_on(pool: PoolSettings, device: torch.device) -> SdxlPipeline:
    """Loads the pool's model and makes it ready for the shapes that are set.

    Args:
        pool: The pool.
        device: A CUDA device. The CPU takes its place in tests: the same code, but that nothing is recorded, only
            repeated, and that ``auto`` means float32.

    Raises:
        ConfigurationError: The model, the settings or the device cannot work.
    """
    try:
        return _load_on(pool, device)
    except torch.OutOfMemoryError as error:
        raise ConfigurationError(
            f"the model {pool.model} and what is made ready for it do not fit into the device's memory "
            f"({first_line(error)}): take a larger device, or set cuda.vae_tiling_above_px, then cuda.cpu_offload"
        ) from error


def _load_on(pool: PoolSettings, device: torch.device) -> SdxlPipeline:
    began = time.monotonic()
    cuda, on_cuda = pool.cuda, device.type == "cuda"
    dtype = _dtype(pool, device)
    if on_cuda:
        torch.backends.cudnn.benchmark = not pool.exact_batches
        torch.backends.cudnn.deterministic = pool.exact_batches
    stock, folder = load_stock(pool, dtype)
    if cuda.fp8:
        _check_fp8(stock.unet, device)
    defaults = model_defaults(folder, pool)
    _set_vae_dtype(stock.vae, dtype, cuda, device)
    whole = cuda.cpu_offload != "all"
    if not whole and cuda.channels_last:
        _lay_channels_last(stock)
    _place(stock, device, pool)
    # From here on the device itself lays out and puts together, not one thread of the host.
    if whole and cuda.channels_last:
        _lay_channels_last(stock)
    text_states = TextStates(stock.unet) if whole and _text_states_wanted(stock.unet, cuda) else None
    if whole and cuda.fused_qkv:
        fuse_self_attention(stock.unet)
    if whole and cuda.fused_layers and cuda.compile == "off":  # a compiler finds the same by itself
        check_kernels(device, stock.unet.dtype, in_8_bits=cuda.fp8)
        fuse_layers(stock.unet)
        fuse_layers(stock.vae.decoder)
    if cuda.fp8:
        log.info("%d layers of the UNet compute in 8 bits", to_eight_bits(stock.unet))
    scale = int(stock.vae_scale_factor)
    sizes = cuda.warm_up_sizes or [(defaults.width, defaults.height)]
    rows = _row_counts(cuda, pool.max_rows)
    compiled = None
    if cuda.compile != "off":
        compiled = Compiled(
            frozenset((height // scale, width // scale) for width, height in sizes),
            frozenset(rows),
            # Some tokenizers carry no limit of their own; the position embeddings always do.
            min(stock.tokenizer.model_max_length, stock.text_encoder.config.max_position_embeddings),
        )
        _compile(stock, cuda, len(sizes) * len(rows))
    graphs = Graphs(
        CudaRecorder() if on_cuda and whole else record_by_repeating,
        most=cuda.max_graphs if whole else 0,
        max_rows=pool.max_rows,
    )
    pipeline = SdxlPipeline(
        _parts(stock, graphs, cuda, scale, compiled),
        device=device,
        defaults=defaults,
        max_rows=pool.max_rows,
        max_pixels=pool.max_pixels,
        exact_batches=pool.exact_batches,
        work=CudaWork(device, graphs, text_states),
        fixed_rows=tuple(rows) if compiled else (),
        guided_share=cuda.skip_guidance_after,
    )
    _make_ready(pipeline, sizes, (pool.max_rows,) if pool.exact_batches else rows)
    log.info("loaded %s as %s on %s in %.1f s", pool.model, dtype, device, time.monotonic() - began)
    return pipeline


def _dtype(pool: PoolSettings, device: torch.device) -> torch.dtype:
    """float16 is as fast as bfloat16 and has three more bits; SDXL's UNet was trained to stay within its range."""
    if pool.dtype != "auto":
        chosen: torch.dtype = getattr(torch, pool.dtype)
        return chosen
    if pool.cuda.fp8:
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def _set_vae_dtype(vae: Any, dtype: torch.dtype, cuda: CudaSettings, device: torch.device) -> None:
    """SDXL's own VAE overflows in float16 and says so (``force_upcast``); repaired ones say that they do not."""
    if cuda.vae_dtype != "auto":
        vae.to(getattr(torch, cuda.vae_dtype))
    elif dtype is torch.float16 and vae.config.force_upcast:
        has_bf16 = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
        vae.to(torch.bfloat16 if has_bf16 else torch.float32)


def _text_states_wanted(unet: Any, cuda: CudaSettings) -> bool:
    if cuda.text_states_once and not can_use_text_states(unet):
        log.warning("this UNet's cross-attention is not as in SDXL: its keys are computed in every step")
        return False
    return cuda.text_states_once


def _lay_channels_last(stock: Any) -> None:
    stock.unet.to(memory_format=torch.channels_last)
    stock.vae.to(memory_format=torch.channels_last)


def _place(stock: Any, device: torch.device, pool: PoolSettings) -> None:
    """Everything on the device, or in host memory until it is used."""
    on_device = {"unet": stock.unet, "vae": stock.vae}
    offloaded = {"text_encoder": stock.text_encoder, "text_encoder_2": stock.text_encoder_2}
    if pool.cuda.cpu_offload == "none":
        on_device, offloaded = on_device | offloaded, {}
    elif pool.cuda.cpu_offload == "all":
        # What is offloaded learns the order of its layers from its first call as a whole, and notes every layer until
        # then: a VAE is never called as a whole. Its encoder is never called at all.
        on_device = {"post_quant_conv": stock.vae.post_quant_conv}
        offloaded |= {"unet": stock.unet, "decoder": stock.vae.decoder}
    for part in on_device.values():
        if part is not None:  # some VAEs have no such convolution
            move(part, device, pool)
    if not offloaded:
        return
    from diffusers.hooks import apply_group_offloading

    for part in offloaded.values():
        apply_group_offloading(
            part,
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=device.type == "cuda",  # the next layer is copied while one runs
        )


def _check_fp8(unet: Any, device: torch.device) -> None:
    """Refuses what cannot be.

    Raises:
        ConfigurationError: The device or the compute type does not go with it.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _FP8_CAPABILITY:
        raise ConfigurationError("cuda.fp8 needs a GPU of compute capability 8.9 or more; remove it")
    if unet.dtype is not torch.bfloat16:
        raise ConfigurationError(
            "cuda.fp8 needs dtype auto or bfloat16: its products answer in no other type"
        )


def _row_counts(cuda: CudaSettings, max_rows: int) -> list[int]:
    """Ascending; when compiling, the last one is `max_rows`, as every step is filled up to one of them."""
    compiling = cuda.compile != "off"
    usual = [2**power for power in range(max_rows.bit_length())] if compiling else [1, 2]
    counts = {min(rows, max_rows) for rows in cuda.warm_up_rows or usual}
    return sorted(counts | {max_rows} if compiling else counts)


def _compile(stock: Any, cuda: CudaSettings, shapes: int) -> None:
    """In place; the compiler runs at the first call of each shape."""
    import torch._dynamo

    limit = shapes * _VARIANTS_OF_A_BLOCK
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, limit)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4 * limit)
    if cuda.compile == "whole":
        stock.unet.compile(dynamic=False)
    else:
        stock.unet.compile_repeated_blocks(dynamic=False)
    stock.vae.decoder.compile(dynamic=False)


def _parts(
    stock: Any, graphs: Graphs, cuda: CudaSettings, scale: int, compiled: Compiled | None
) -> SimpleNamespace:
    """What `SdxlPipeline` wants of a stock pipeline, with the fast parts in the place of the slow ones."""
    # Layers that come and go cannot be recorded.
    fixed = cuda.cpu_offload == "none"
    encoders = {
        name: FastTextEncoder(getattr(stock, name), graphs, name) if fixed else getattr(stock, name)
        for name in ("text_encoder", "text_encoder_2")
    }
    return SimpleNamespace(
        unet=FastUNet(stock.unet, graphs, attention=cuda.attention, compiled=compiled),
        vae=FastVae(
            stock.vae,
            graphs,
            tiling_above_px=cuda.vae_tiling_above_px,
            pixels_per_latent=scale**2,
            compiled=compiled,
        ),
        vae_scale_factor=stock.vae_scale_factor,
        scheduler=stock.scheduler,
        tokenizer=stock.tokenizer,
        tokenizer_2=stock.tokenizer_2,
        config=stock.config,
        **encoders,
    )


def _make_ready(pipeline: SdxlPipeline, sizes: list[tuple[int, int]], rows: Any) -> None:
    """Runs every shape often enough to be compiled and recorded; one that finds no memory is left for later."""
    request = GenerationRequest("warm-up", "", "", 0, 0, 2, 0.0, 0)
    for width, height in sizes:
        of_size = replace(request, width=width, height=height)
        for prompt in ("a red star", "a blue star"):  # texts of their own: known ones are not encoded again
            pipeline.prepare(replace(of_size, prompt=prompt), 0)
        for count in rows:
            states = [pipeline.prepare(of_size, 0) for _ in range(count)]
            try:
                for _ in range(states[0].total_steps):
                    pipeline.denoise_step(states)
                    for state in states:
                        state.step += 1
                if count == rows[0]:
                    for _ in range(2):
                        pipeline.decode(states[0])
            except RuntimeError as error:
                if not pipeline.is_out_of_memory(error):
                    raise
                log.warning("no memory for %d rows of %dx%d", count, width, height)
                break
