"""`PoolSettings`: one pool, and what only one accelerator has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from serve_app.errors import ConfigurationError
from serve_app.limits import GuidanceScale, NumInferenceSteps, PixelSide

BUNDLED_MODEL = "small-sdxl"
"""Name of the model that ships with the package."""

MODELS_DIR = Path(__file__).parent / "models"


class AcceleratorSettings(BaseModel):
    """Settings of one accelerator alone: a field of `PoolSettings` by the accelerator's name."""

    model_config = ConfigDict(extra="forbid")


class CudaSettings(AcceleratorSettings):
    """What only the accelerator ``cuda`` has. The last two change pictures and are off by default.

    Attributes:
        compile: Let torch.compile write kernels for the shapes of ``warm_up_sizes`` and ``warm_up_rows``: for all of
            the UNet and the VAE's decoder, or for the UNet's transformer blocks and the decoder. Other shapes run
            as without.
        warm_up_sizes: (width, height) in pixels that are made ready before the replica is. Empty: the default size.
        warm_up_rows: Row counts that are made ready. Empty: 1 and 2, or, when compiling, the powers of 2 up to
            ``max_rows``. When compiling, every step is filled up to one of them or to ``max_rows``.
        max_graphs: CUDA graphs kept, one for each shape and row count; 0 uses none.
        attention: Which of torch's attention kernels is tried first; ``auto`` is torch's own choice.
        channels_last: Lay convolutions out with channels last.
        fused_qkv: Compute queries, keys and values of self-attention in one product.
        fused_layers: Compute what belongs together in residual and transformer blocks in one pass over memory, with
            kernels in Triton; has no effect with ``compile``, which finds the same by itself.
        text_states_once: Compute cross-attention's keys and values once per picture instead of in every step; takes
            25 MB for each row in flight of a full-size SDXL.
        vae_dtype: Compute type of the VAE. ``auto``: the UNet's, but bfloat16 where the model says that its VAE
            overflows in float16 (float32 on devices without bfloat16).
        vae_tiling_above_px: Decode pictures of more pixels in overlapping tiles of at most so many: less memory,
            slightly other pictures.
        cpu_offload: Keep in host memory what is not in use: the text ``encoders``, or ``all`` layers one by one.
        fp8: Compute the UNet's large linear layers in 8 bits; needs a device that knows the type, and ``fused_layers``.
        skip_guidance_after: Share of a picture's steps after which it is no longer guided.
    """

    compile: Literal["off", "blocks", "whole"] = "off"
    warm_up_sizes: list[tuple[PixelSide, PixelSide]] = Field(default_factory=list)
    warm_up_rows: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    max_graphs: Annotated[int, Field(ge=0, le=1024)] = 64
    attention: Literal["auto", "flash", "cudnn", "efficient"] = "auto"
    channels_last: bool = True
    fused_qkv: bool = True
    fused_layers: bool = True
    text_states_once: bool = True
    vae_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    vae_tiling_above_px: Annotated[int, Field(ge=512 * 512)] | None = None
    cpu_offload: Literal["none", "encoders", "all"] = "none"
    fp8: bool = False
    skip_guidance_after: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0

    @model_validator(mode="after")
    def _offload_alone(self) -> Self:
        if self.cpu_offload == "all" and (self.compile != "off" or self.fp8):
            raise ValueError(
                "cpu_offload=all moves layers while they run: it goes with neither compile nor fp8"
            )
        if self.fp8 and (self.compile != "off" or not self.fused_layers):
            raise ValueError("fp8 is part of fused_layers: it goes without compile only")
        return self


class CpuSettings(AcceleratorSettings):
    """What only the accelerator ``cpu`` has.

    Attributes:
        layers: Who computes the UNet and the VAE's decoder. ``fused``: oneDNN's weight layouts and fused operations;
            ``ipex``: Intel's extension for PyTorch; ``compiled``: PyTorch's compiler with frozen weights, for one
            picture at a time of ``default_size``; ``plain``: PyTorch as it is. ``auto``: ``fused``; in
            bfloat16 ``ipex`` where it can be imported and fits PyTorch; in float16 ``plain``.
        pin_cores: Compute on physical cores that no other replica of the node computes on. ``auto`` does so where
            enough of them are free and the container has no smaller CPU quota; ``on`` fails where that is not so.
    """

    layers: Literal["auto", "fused", "ipex", "compiled", "plain"] = "auto"
    pin_cores: Literal["auto", "on", "off"] = "auto"


class PoolSettings(BaseModel):
    """One pool: replicas of one model on one kind of accelerator.

    Attributes:
        name: Unique name; also the name of the Ray Serve deployment.
        accelerator: A file name of ``serve_app/accelerators``, or ``auto`` for the best this machine has.
        model: The bundled model's name, a folder in diffusers layout, or a hub id.
        model_dirs: Folders that are looked into before the hub: a hub id ``a/b`` is taken from ``{folder}/a/b`` where
            that exists on the replica's node, such as a volume or a part of the image.
        revision: Hub revision to pin (commit, tag or branch).
        variant: Weight file variant such as ``fp16``; None tries ``fp16`` files where only those exist. Parts beside
            the UNet that have no files of it are taken without.
        hub_token: Hub token for gated models; the environment's ``HF_TOKEN`` is read by the hub's own code.
        hub_token_env: Environment variable with the token where the replica runs, such as one from a Secret.
        dtype: Compute type; ``auto`` is the accelerator's choice for this machine.
        num_threads: CPU threads of a replica, one for each physical core; None gives it the cores of the CPUs it
            reserved, or of one NUMA node.
        min_replicas: Fewest replicas; 0 scales to zero.
        max_replicas: Most replicas.
        target_ongoing_requests: Requests in flight per replica that autoscaling aims at; None: ``max_rows``.
        upscale_delay_s: Seconds of too much work before a replica is added (the first one comes at once).
        downscale_delay_s: Seconds of too little work before a replica is taken away.
        downscale_to_zero_delay_s: The same for the last one, where ``min_replicas`` is 0.
        graceful_shutdown_timeout_s: Seconds a replica that is taken away may use to finish its pictures.
        expected_start_s: Seconds from wanting a first replica to its first picture, until one start was measured.
        expected_step_s: Seconds of one row's denoising step of a megapixel, until measured; None: 1.
        ray_actor_options: Placement, merged over the accelerator's own (``num_cpus``, ``num_gpus``, ``resources``...).
        price_per_hour: Price of one replica for one hour, in any one currency; the router minimises it.
        num_inference_steps: Default steps; None reads them from the model.
        guidance_scale: Default guidance; None reads it from the model.
        default_size: Default (width, height) in pixels; None reads it from the model.
        sizes: The only (width, height) pairs that are drawn here; empty: all that the accelerator and model can.
        max_rows: Most rows of one denoising step.
        max_queued_images: Pictures that may wait in one replica before it refuses.
        max_queue_s: Predicted seconds of accepted work above which a replica refuses.
        exact_batches: Fill every step up to ``max_rows`` rows, so that pictures are bit-equal whatever else is drawn.
            A lone picture then costs a full step; ``docs/measurements.md`` says how much.
        concurrent_decodes: VAE decodes that may run beside a denoising step, each on an equal part of the CPU cores, at
            most one less than there are cores; 0 decodes between two steps on all of them. None is 1 where a CPU of
            at least two cores draws a model that is used without guidance, else 0.
        max_pixels: Most pixels of one picture.
        warmup: Draw a test picture before a replica calls itself ready.
        max_step_s: Seconds without any progress after which a replica with work counts as hung and ends itself; its
            drawings are drawn again elsewhere. Above the longest honest step, decode or encoding of a prompt.
        cuda: Settings of the accelerator ``cuda`` alone.
        cpu: Settings of the accelerator ``cpu`` alone.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")] = "default"
    accelerator: str = "auto"
    model: str = BUNDLED_MODEL
    model_dirs: list[str] = Field(default_factory=list)
    revision: str | None = None
    variant: str | None = None
    hub_token: SecretStr | None = None
    hub_token_env: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    num_threads: Annotated[int, Field(ge=1)] | None = None
    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    target_ongoing_requests: Annotated[float, Field(gt=0)] | None = None
    upscale_delay_s: Annotated[float, Field(ge=0)] = 10.0
    downscale_delay_s: Annotated[float, Field(ge=0)] = 300.0
    downscale_to_zero_delay_s: Annotated[float, Field(ge=0)] = 300.0
    graceful_shutdown_timeout_s: Annotated[float, Field(ge=0)] = 120.0
    expected_start_s: Annotated[float, Field(gt=0)] = 120.0
    expected_step_s: Annotated[float, Field(gt=0)] | None = None
    ray_actor_options: dict[str, object] = Field(default_factory=dict)
    price_per_hour: Annotated[float, Field(ge=0.0)] = 0.0
    num_inference_steps: NumInferenceSteps | None = None
    guidance_scale: GuidanceScale | None = None
    default_size: tuple[PixelSide, PixelSide] | None = None
    sizes: list[tuple[PixelSide, PixelSide]] = Field(default_factory=list)
    max_rows: Annotated[int, Field(ge=2, le=256)] = 8
    max_queued_images: Annotated[int, Field(ge=1)] = 64
    max_queue_s: Annotated[float, Field(gt=0)] = 600.0
    exact_batches: bool = False
    concurrent_decodes: Annotated[int, Field(ge=0, le=16)] | None = None
    max_pixels: Annotated[int, Field(ge=64 * 64)] = 2048 * 2048
    warmup: bool = True
    max_step_s: Annotated[float, Field(gt=0)] = 300.0
    cuda: CudaSettings = Field(default_factory=CudaSettings)
    cpu: CpuSettings = Field(default_factory=CpuSettings)

    @model_validator(mode="after")
    def _replica_range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas={self.max_replicas} is less than min_replicas={self.min_replicas}"
            )
        return self

    @model_validator(mode="after")
    def _default_among_sizes(self) -> Self:
        if self.default_size and self.sizes and self.default_size not in self.sizes:
            raise ValueError(f"default_size={self.default_size} is none of sizes={self.sizes}")
        return self

    def token(self) -> str | None:
        """The hub token, read where the model is loaded; None leaves it to the hub's own code (``HF_TOKEN``).

        Raises:
            ConfigurationError: ``hub_token_env`` names a variable that is not set here.
        """
        if self.hub_token is not None:
            return self.hub_token.get_secret_value()
        if self.hub_token_env is None:
            return None
        token = os.environ.get(self.hub_token_env)
        if not token:
            raise ConfigurationError(
                f"pool {self.name}: hub_token_env names {self.hub_token_env}, which is not set where its replica runs"
            )
        return token

    @model_validator(mode="after")
    def _settings_of_its_own_accelerator(self) -> Self:
        problem = None if self.accelerator == "auto" else self.set_for_others(self.accelerator)
        if problem:
            raise ValueError(problem)
        return self

    def set_for_others(self, accelerator: str) -> str | None:
        """A sentence about the first setting that only another accelerator than `accelerator` has, or None."""
        for name, value in self:
            if not isinstance(value, AcceleratorSettings) or name == accelerator:
                continue
            changed = [field for field, own in value if own != type(value)().__dict__[field]]
            if changed:
                return f"pool {self.name}: {name}.{changed[0]} has no effect on accelerator {accelerator}; remove it"
        return None
