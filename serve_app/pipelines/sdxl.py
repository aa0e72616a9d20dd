"""The step maths of SDXL on torch and diffusers, for every device: `SdxlPipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from serve_app.capabilities import Capabilities, ModelDefaults
from serve_app.engine.state import ImageState
from serve_app.errors import GenerationFailed
from serve_app.pipelines.device_work import DeviceWork
from serve_app.pipelines.noise_schedulers import PictureSchedule
from serve_app.pipelines.preview import LinearPreview
from serve_app.pipelines.sdxl_conditioning import Conditioning, guidance_embedding, joined_rows
from serve_app.pipelines.sdxl_text import MAX_PROMPT_TOKENS, TextEmbedding, TextEncoder
from serve_app.pipelines.shared_cores import SharedCores
from serve_app.request import GenerationRequest
from serve_app.result import Pixels


class SdxlPipeline:
    """A `StepPipeline` over the components of a loaded `StableDiffusionXLPipeline`.

    The rows of one UNet call are pictures at any step of any schedule. Latents and schedulers stay in float32
    whatever the UNet's dtype, and noise is always drawn on the CPU in float32: a seed means the same first noise
    on every device. In float32 a picture equals diffusers' own with a CPU generator of the same seed.

    Args:
        stock: The loaded `StableDiffusionXLPipeline`, its components already on `device`.
        device: Where the UNet runs.
        defaults: What requests get that leave something open.
        max_rows: Most rows of one step.
        max_pixels: Most pixels of one picture.
        exact_batches: Fill every step up to `max_rows` rows: a picture is then bit-equal whatever else is drawn.
        cores: The cores a CPU shares between denoising and decodes beside it.
        concurrent_decodes: See `Capabilities`.
        capabilities: What the components are limited to, without noise schedulers; None where they take any size and
            `max_rows`, `max_pixels` and the settings after them decide.
        work: How the device wants to be worked with; its own object, where the defaults will not do.
        fixed_rows: Row counts that steps are filled up to, ascending; see `Capabilities`. `exact_batches` wins.
        guided_share: Guide only in this share of a picture's steps, from the first on. Less than 1 changes pictures.
    """

    def __init__(
        self,
        stock: Any,
        *,
        device: torch.device,
        defaults: ModelDefaults,
        max_rows: int,
        max_pixels: int,
        exact_batches: bool = False,
        cores: SharedCores | None = None,
        concurrent_decodes: int = 0,
        capabilities: Capabilities | None = None,
        work: DeviceWork | None = None,
        fixed_rows: tuple[int, ...] = (),
        guided_share: float = 1.0,
    ) -> None:
        self._cores = cores
        self._work = work or DeviceWork(device)
        self._guided_share = guided_share
        self._unet, self._vae, self._device = stock.unet, stock.vae, device
        self._scale = int(stock.vae_scale_factor)
        self._guidance_channels: int | None = stock.unet.config.time_cond_proj_dim
        if self._vae.dtype == torch.float16 and self._vae.config.force_upcast:
            self._vae.to(dtype=torch.float32)  # as stock does around each decode: it overflows in float16
        # Asked once: diffusers looks through all modules of a model for it each time, a millisecond and more.
        self._dtype: torch.dtype = self._unet.dtype
        self._vae_dtype: torch.dtype = self._vae.dtype
        self._schedulers = self._work.noise_schedulers(stock.scheduler)
        tokenizers = [one for one in (stock.tokenizer, stock.tokenizer_2) if one is not None]
        encoders = [one for one in (stock.text_encoder, stock.text_encoder_2) if one is not None]
        self._text = TextEncoder(
            tokenizers,
            encoders,
            zero_for_empty=bool(stock.config.force_zeros_for_empty_prompt),
            device=device,
            max_tokens=MAX_PROMPT_TOKENS if capabilities is None else capabilities.max_prompt_tokens,
        )
        self._defaults = replace(defaults, scheduler_name=self._schedulers.own_name)
        # Whole latents are enough: the UNet interpolates odd ones on its way up, as in stock.
        multiple = max(8, self._scale)
        capabilities = capabilities or Capabilities(
            max_rows=max_rows,
            size_multiple=multiple,
            min_side=max(64, multiple),
            max_side=4096,
            max_pixels=max_pixels,
            previews=True,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            fixed_rows=(max_rows,) if exact_batches else fixed_rows,
            concurrent_decodes=concurrent_decodes,
        )
        self._capabilities = replace(capabilities, scheduler_names=self._schedulers.names)
        if cores is not None:
            cores.at_once = 1 + self._capabilities.concurrent_decodes
        self._preview = LinearPreview(self._unet.config.in_channels, self._scale)
        self._joined: tuple[list[Conditioning], Conditioning] | None = None  # of the last step, and for whom

    def _denoising(self) -> AbstractContextManager[None]:
        return self._work.denoising() if self._cores is None else self._cores.denoising()

    def _decoding(self) -> AbstractContextManager[None]:
        return self._work.decoding() if self._cores is None else self._cores.decoding()

    def compile_unet(self) -> None:
        """Has PyTorch's compiler make the UNet anew at its first call with a shape."""
        self._unet.compile(dynamic=False)

    def limit(self, **changes: Any) -> None:
        """Narrows the capabilities, for what was done to the model after it was loaded; before the first picture.

        Args:
            **changes: Fields of `Capabilities`.
        """
        self._capabilities = replace(self._capabilities, **changes)

    @property
    def capabilities(self) -> Capabilities:
        """What can be drawn."""
        return self._capabilities

    @property
    def defaults(self) -> ModelDefaults:
        """See `serve_app.model_source.model_defaults`; with the canonical name of the noise scheduler."""
        return self._defaults

    @property
    def dtype(self) -> torch.dtype:
        """Compute type of the UNet."""
        return self._dtype

    @torch.inference_mode()
    def prepare(self, request: GenerationRequest, index: int) -> ImageState:
        """Encodes the text and draws the first latents.

        An empty negative prompt counts as none, for which most SDXL models want zeros.

        Raises:
            UnsupportedRequest: The noise scheduler cannot make that many steps, or a text is too long here.
        """
        with self._denoising():
            return self._prepare(request, index)

    def _prepare(self, request: GenerationRequest, index: int) -> ImageState:
        schedule = self._schedulers.schedule(
            request.scheduler_name, request.num_inference_steps, request.image_seed(index)
        )
        # Models that take guidance as an input are never guided by a second row (as in stock).
        guided = request.guided and self._guidance_channels is None
        texts: tuple[TextEmbedding, ...] = (
            self._text.pair(request.prompt, request.negative_prompt)
            if guided
            else (self._text.prompt(request.prompt),)
        )
        size = (request.height, request.width)
        conditioning = Conditioning(
            tokens=self._work.text_states(torch.stack([text.tokens for text in texts])),
            pooled=torch.stack([text.pooled for text in texts]),
            time_ids=torch.tensor([[*size, 0, 0, *size]] * len(texts), dtype=torch.float32).to(self._device),
            guidance_embedding=None
            if self._guidance_channels is None
            else guidance_embedding(request.guidance_scale, self._guidance_channels).to(
                self._device, self._dtype
            ),
        )
        height, width = request.height // self._scale, request.width // self._scale
        latents = torch.randn(
            (1, self._unet.config.in_channels, height, width),
            generator=schedule.generator,
            dtype=torch.float32,
        )
        return ImageState(
            request=request,
            index=index,
            # Rows of one call must be equally long; padding the shorter would change its picture.
            batch_key=(height, width, conditioning.tokens.shape[1]),
            rows=len(texts),
            total_steps=len(schedule),
            latents=self._work.send(latents) * schedule.init_noise_sigma,
            conditioning=conditioning,
            noise_scheduler=schedule,
        )

    @torch.inference_mode()
    def denoise_step(self, batch: Sequence[ImageState]) -> None:
        """Gathers the rows, calls the UNet once, scatters: guidance and the scheduler's step per picture."""
        with self._denoising():
            noise = self._predict(batch)
            self._advance(batch, torch.split_with_sizes(noise, [state.rows for state in batch]))

    def _predict(self, batch: Sequence[ImageState]) -> torch.Tensor:
        """(rows, channels, height, width) float32: what the UNet says of every row of `batch`."""
        samples, timesteps = [], []
        for state in batch:
            schedule = _schedule(state)
            sample = schedule.scaled(state.latents, state.step).to(self._dtype)
            samples += [sample] * state.rows
            timesteps += [schedule.timestep(state.step)] * state.rows
        rows = len(samples)
        filling = self._capabilities.filled_rows(rows) - rows
        samples += samples[:1] * filling  # with copies of the first row, whose answers are thrown away
        timesteps += timesteps[:1] * filling
        told = self._join([_conditioning(state) for state in batch], filling)
        noise: torch.Tensor = self._unet(
            joined_rows(samples),
            self._work.send(torch.tensor(timesteps, dtype=torch.float32)),
            encoder_hidden_states=told.tokens,
            timestep_cond=told.guidance_embedding,
            added_cond_kwargs={"text_embeds": told.pooled, "time_ids": told.time_ids},
            return_dict=False,
        )[0]
        return noise[:rows].float()

    def _join(self, parts: list[Conditioning], filling: int) -> Conditioning:
        """All rows of `parts`, and `filling` copies of the first; the same object while the batch stays the same."""
        members = parts + parts[:1] * filling
        if self._joined is not None and _same(self._joined[0], members):
            return self._joined[1]
        self._joined = None  # first: a large batch's memory may be needed for the next one
        told = Conditioning.joined(parts + [parts[0].first_row()] * filling)
        self._joined = members, told
        return told

    def _advance(self, batch: Sequence[ImageState], noises: Sequence[torch.Tensor]) -> None:
        """All states or none."""
        snapshots = [_schedule(state).snapshot() for state in batch]
        latents = []
        try:
            for state, noise in zip(batch, noises, strict=True):
                if state.rows == 2:
                    negative, positive = noise.chunk(2)
                    noise = negative + state.request.guidance_scale * (positive - negative)
                latents.append(_schedule(state).advance(noise, state.latents, state.step))
        except BaseException:
            for state, snapshot in zip(batch, snapshots, strict=True):
                _schedule(state).restore(snapshot)
            raise
        for state, new in zip(batch, latents, strict=True):
            state.latents = new
            if (
                state.rows == 2
                and self._guided_share * state.total_steps <= state.step + 1 < state.total_steps
            ):
                state.rows, state.conditioning = 1, _conditioning(state).positive()

    @torch.inference_mode()
    def decode(self, state: ImageState) -> Pixels:
        """The finished picture, rounded as stock does.

        Raises:
            GenerationFailed: The latents or the pixels are not finite.
        """
        config = self._vae.config
        latents = state.latents
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            mean, std = (torch.tensor(one, device=latents.device).view(1, -1, 1, 1) for one in (mean, std))
            latents = latents * std / config.scaling_factor + mean
        else:
            latents = latents / config.scaling_factor
        with self._decoding():
            image = self._vae.decode(latents.to(self._vae_dtype), return_dict=False)[0][0].float()
            if not torch.isfinite(image).all():
                raise GenerationFailed("the model's picture is not finite; another seed or size may work")
            self._preview.learn(state.latents, image)
            return _pixels(
                (image * 0.5 + 0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0)
            )

    @torch.inference_mode()
    def preview(self, state: ImageState) -> Pixels | None:
        """What the picture would become from here, an eighth of its size; None before the first finished picture."""
        denoised = _schedule(state).denoised
        small = self._preview.draw(state.latents if denoised is None else denoised)
        return None if small is None else _pixels(small)

    def decodes_beside(self, count: int) -> None:
        """A CPU's cores are shared out anew."""
        if self._cores is not None:
            self._cores.beside = count

    def is_out_of_memory(self, error: BaseException) -> bool:
        """torch's own error for devices, and the CPU allocator's, which has no class of its own."""
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or self._work.is_out_of_memory(error):
            return True
        return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)

    def works(self) -> bool:
        """As the device says."""
        return self._work.works()


def _pixels(image: torch.Tensor) -> Pixels:
    """From (height, width, 3) uint8."""
    height, width, _ = image.shape
    # Put in order where the picture is: numpy takes longer for it than a device.
    return Pixels(width=width, height=height, rgb=image.contiguous().cpu().numpy().tobytes())


def _conditioning(state: ImageState) -> Conditioning:
    conditioning: Conditioning = state.conditioning
    return conditioning


def _schedule(state: ImageState) -> PictureSchedule:
    schedule: PictureSchedule = state.noise_scheduler
    return schedule


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
