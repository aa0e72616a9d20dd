"""SDXL's residual and transformer blocks with fewer, larger operations: `fuse_layers`.

diffusers' blocks start an operation for every bias, addition, norm and activation, each reading and writing the whole
tensor, and change its layout around each transformer. The fused ones do the same sums with a third of the operations
and no change of layout. They hold diffusers' own layers, so weights, their names and what was done to them stay.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from serve_app.pipelines.fused_residual import (
    FusedNorm,
    FusedResnet,
    FusedUpsample,
    TimeStates,
    ends_with_norm,
    is_plain_resnet,
)
from serve_app.pipelines.fused_transformer import FusedTransformer, is_plain_transformer
from serve_app.pipelines.upsampling import knows_upsample


def fuse_layers(model: nn.Module) -> int:
    """Puts fused blocks in the place of all of diffusers' own that are as in SDXL; others stay.

    Args:
        model: A UNet, or a VAE's decoder; changed in place.

    Returns:
        How many were replaced.
    """
    count = _replace(model)
    timed = [
        module
        for module in model.modules()
        if isinstance(module, FusedResnet) and isinstance(module.time_emb_proj, nn.Linear)
    ]
    if timed:
        TimeStates(timed)
    return count


def _replace(model: nn.Module) -> int:
    count = 0
    if ends_with_norm(model):
        whole: Any = model
        whole.conv_norm_out, whole.conv_act = FusedNorm(whole.conv_norm_out), nn.Identity()
        count += 1
    for name, child in list(model.named_children()):
        fused: nn.Module | None = None
        if is_plain_resnet(child):
            fused = FusedResnet(child)
        elif is_plain_transformer(child):
            fused = FusedTransformer(child)
        elif knows_upsample(child):
            fused = FusedUpsample(child)
        if fused is None:
            count += _replace(child)
        else:
            setattr(model, name, fused)
            count += 1
    return count
