"""`load_neuron_sdxl`: a model compiled for AWS Neuron as a `SdxlPipeline`.

optimum-neuron loads it (`NeuronStableDiffusionXLPipeline`), places it on the cores and runs its graphs. Its own
``__call__`` is not used: it draws one fixed batch from its first step to its last, at the compiled size whatever was
asked. Its UNet takes a timestep per row, so the step maths of every other accelerator draws with it too. What is here
makes its parts look like diffusers' own to that maths, and fills every call up to the batch it was compiled for.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict

from serve_app.errors import ConfigurationError
from serve_app.model_files import check_host_memory, local_folder
from serve_app.model_source import hub_files, model_defaults, network_failures
from serve_app.neuron_model import COMPILER, CORES, CompiledModel, largest_graph_bytes, read_compiled
from serve_app.pipelines.loading import first_line, from_cache, not_downloadable, quiet
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.settings import PoolSettings

log = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DTYPE_SETTINGS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}

_NEEDED_FILES = ("model_index.json", *(f"{part}/*" for part in (
    "scheduler", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae_decoder"
)))  # fmt: skip


def load_neuron_sdxl(pool: PoolSettings) -> SdxlPipeline:
    """Loads the pool's compiled model onto two cores.

    Raises:
        ConfigurationError: The model is not compiled, incomplete, or for another device, compiler or setting, or the
            machine lacks cores, memory or AWS's packages; with the remedy.
    """
    began = time.monotonic()
    quiet()
    folder = local_folder(pool.model, pool.model_dirs) or _download(pool)
    compiled = read_compiled(folder)
    _check_settings(pool, compiled)
    check_host_memory(folder, largest_graph_bytes(folder))
    stock = _load(compiled)
    pipeline = SdxlPipeline(
        stock,
        device=torch.device("cpu"),  # inputs and outputs of the graphs; the runtime moves them
        defaults=model_defaults(folder, pool, size=(compiled.width, compiled.height)),
        max_rows=pool.max_rows,
        max_pixels=pool.max_pixels,
        capabilities=compiled.capabilities(max_rows=pool.max_rows, exact_batches=pool.exact_batches),
    )
    log.info(
        "loaded %s for %dx%d, %d rows a step, in %.1f s",
        pool.model,
        compiled.width,
        compiled.height,
        compiled.rows,
        time.monotonic() - began,
    )
    return pipeline


def _check_settings(pool: PoolSettings, compiled: CompiledModel) -> None:
    """Refuses settings that a compiled model cannot follow.

    Raises:
        ConfigurationError: Which, and what it is compiled for.
    """
    size = (compiled.width, compiled.height)
    if pool.default_size not in (None, size):
        raise ConfigurationError(
            f"default_size {list(pool.default_size or ())} is impossible: {pool.model} is compiled for {list(size)}"
        )
    if pool.dtype != "auto" and _DTYPE_SETTINGS[pool.dtype] != compiled.float_dtype:
        raise ConfigurationError(
            f"dtype {pool.dtype} is impossible: {pool.model} is compiled for {compiled.float_dtype} inputs; "
            "leave dtype at auto"
        )
    if compiled.width * compiled.height > pool.max_pixels:
        raise ConfigurationError(
            f"max_pixels {pool.max_pixels} is less than the {compiled.width}x{compiled.height} that {pool.model} "
            "is compiled for: raise it"
        )


def _load(compiled: CompiledModel) -> SimpleNamespace:
    """The parts as `SdxlPipeline` wants them, on the cores.

    Raises:
        ConfigurationError: AWS's packages are missing or older than the model, or the cores do not take it.
    """
    try:
        from optimum.neuron import NeuronStableDiffusionXLPipeline
        from optimum.neuron.utils.version_utils import check_compiler_compatibility, get_neuronxcc_version
        from torch_neuronx import DataParallel
    except (ImportError, RuntimeError) as error:  # optimum-neuron's lazy imports raise the latter
        raise ConfigurationError(
            f"AWS Neuron's packages do not work here ({first_line(error)}): install the extra `neuron` from AWS's own "
            "package index; docs/neuron.md says how"
        ) from error
    try:
        check_compiler_compatibility(COMPILER, compiled.compiler_version)
    except RuntimeError as error:
        raise ConfigurationError(
            f"{compiled.folder} is compiled by {COMPILER} {compiled.compiler_version}, which is newer than the "
            f"{get_neuronxcc_version()} here: update AWS Neuron's packages and driver, or compile the model again"
        ) from error
    _check_instance(compiled)
    try:
        pipeline: Any = NeuronStableDiffusionXLPipeline.from_pretrained(compiled.folder, export=False)
    except (RuntimeError, ValueError, OSError, AssertionError) as error:
        raise ConfigurationError(
            f"{compiled.folder} cannot be loaded onto {CORES} Neuron cores: {first_line(error)}"
        ) from error

    def batch(part: Any, of_one_core: int) -> int:
        return of_one_core * (CORES if isinstance(part.model, DataParallel) else 1)

    if not isinstance(pipeline.unet.model, DataParallel):
        raise ConfigurationError(
            f"optimum-neuron put the UNet of {compiled.folder} on one core: it is not of the release that this "
            "service was made for; install the extra `neuron`"
        )
    return SimpleNamespace(
        unet=_Unet(pipeline.unet, _config(compiled.folder / "unet"), _DTYPES[compiled.float_dtype]),
        vae=_Vae(
            pipeline.vae_decoder,
            _config(compiled.folder / "vae_decoder"),
            batch(pipeline.vae_decoder, compiled.decoder_batch),
        ),
        text_encoder=_TextEncoder(
            pipeline.text_encoder,
            compiled.sequence_length,
            batch(pipeline.text_encoder, compiled.text_batch),
        ),
        text_encoder_2=_TextEncoder(
            pipeline.text_encoder_2,
            compiled.sequence_length,
            batch(pipeline.text_encoder_2, compiled.text_batch),
        ),
        tokenizer=pipeline.tokenizer,
        tokenizer_2=pipeline.tokenizer_2,
        scheduler=pipeline.scheduler,
        vae_scale_factor=pipeline.vae_scale_factor,
        config=pipeline.config,
    )


def _check_instance(compiled: CompiledModel) -> None:
    """Refuses a model of another generation of the device; does nothing where either is not known.

    Raises:
        ConfigurationError: Say, a model for Trainium2 on Inferentia2.
    """
    from optimum.neuron.utils.instance import current_instance_type, normalize_instance_type

    if compiled.instance_type is None:
        return
    try:
        here, wanted = current_instance_type(), normalize_instance_type(compiled.instance_type)
    except (RuntimeError, ValueError):  # no device that the driver shows, or a newer kind
        return
    if here != wanted:
        raise ConfigurationError(
            f"{compiled.folder} is compiled for {compiled.instance_type}, which this machine is not: compile it again "
            "with the right --instance-type"
        )


def _config(part: Path) -> FrozenDict:
    """A part's config.json as diffusers' own models have it: by attribute and by `get`."""
    return FrozenDict(json.loads((part / "config.json").read_text(encoding="utf-8")))


def _run(call: Callable[..., Any], *inputs: torch.Tensor) -> Any:
    """`call` with ordinary tensors, outside inference mode.

    Each core's rows run in a thread of their own. Inference mode does not reach it, and there its tensors may not be
    used freely.
    """
    with torch.inference_mode(False), torch.no_grad():
        return call(*(tensor.clone() for tensor in inputs))


def _filled(rows: torch.Tensor, batch: int) -> torch.Tensor:
    """`rows` and copies of the first one, `batch` in all."""
    return (
        torch.cat([rows, rows[:1].expand(batch - len(rows), *rows.shape[1:])]) if len(rows) < batch else rows
    )


class _Unet:
    """The compiled UNet. `SdxlPipeline` fills its calls up, by `Capabilities.fixed_rows`."""

    def __init__(self, part: Any, config: FrozenDict, dtype: torch.dtype) -> None:
        self._part = part
        self.config = config
        self.dtype = dtype

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        *,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: None,
        added_cond_kwargs: dict[str, torch.Tensor],
        return_dict: bool,
    ) -> tuple[torch.Tensor]:
        """(noise,) of every row, each at its own timestep."""
        texts = (encoder_hidden_states, added_cond_kwargs["text_embeds"], added_cond_kwargs["time_ids"])
        output = _run(self._call, sample, timestep, *(text.to(self.dtype) for text in texts))
        return (output[0],)

    def _call(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        tokens: torch.Tensor,
        pooled: torch.Tensor,
        time_ids: torch.Tensor,
    ) -> Any:
        return self._part(
            sample,
            timestep,
            encoder_hidden_states=tokens,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            return_dict=False,
        )


class _Vae:
    """The compiled VAE decoder."""

    dtype = torch.float32  # optimum-neuron converts to the type that was compiled

    def __init__(self, part: Any, config: FrozenDict, batch: int) -> None:
        self._part = part
        self._batch = batch
        self.config = config

    def decode(self, latents: torch.Tensor, *, return_dict: bool) -> tuple[torch.Tensor]:
        """(pictures,) of at most one batch."""
        images = _run(partial(self._part, return_dict=False), _filled(latents, self._batch))[0]
        return (images[: len(latents)],)


@dataclass(frozen=True)
class _Encoded:
    """What `TextEncoder` reads of an encoder's output.

    Attributes:
        first: Pooled embeddings of an encoder with a projection, else the last hidden state.
        hidden_states: One per layer, and the embeddings before them.
    """

    first: torch.Tensor
    hidden_states: Sequence[torch.Tensor]

    def __getitem__(self, index: int) -> torch.Tensor:
        return (self.first,)[index]


class _TextEncoder:
    """A compiled text encoder."""

    def __init__(self, part: Any, sequence_length: int, batch: int) -> None:
        self._part = part
        self._batch = batch
        self.config = SimpleNamespace(max_position_embeddings=sequence_length)

    def __call__(self, ids: torch.Tensor, *, output_hidden_states: bool) -> _Encoded:
        """Of at most one batch of texts."""
        part = partial(self._part, output_hidden_states=output_hidden_states)
        output = _run(part, _filled(ids, self._batch))
        rows = len(ids)
        return _Encoded(output[0][:rows], [states[:rows] for states in output.hidden_states])


def _download(pool: PoolSettings) -> Path:
    """The compiled model from the hub, or from its cache where the hub does not answer.

    Raises:
        ConfigurationError: The hub cannot be reached or has no such model, or it is not compiled: that is said before
            its gigabytes are fetched.
    """
    import huggingface_hub

    try:
        hub_files(pool)  # what follows would wait without end for a hub that does not answer
    except network_failures() as error:
        return from_cache(pool, error)
    token = pool.token()
    try:
        config = huggingface_hub.hf_hub_download(
            pool.model, "unet/config.json", revision=pool.revision, token=token
        )
        if "neuron" not in json.loads(Path(config).read_text(encoding="utf-8")):
            raise ConfigurationError(
                f"{pool.model} is not compiled for Neuron: compile it with `imagine compile --accelerator neuron "
                f"--model {pool.model} OUTPUT`, or use another accelerator"
            )
        return Path(
            huggingface_hub.snapshot_download(
                pool.model, revision=pool.revision, token=token, allow_patterns=list(_NEEDED_FILES)
            )
        )
    except network_failures() as error:
        raise not_downloadable(pool, error) from error
    except ValueError as error:
        raise not_downloadable(pool, error) from error
