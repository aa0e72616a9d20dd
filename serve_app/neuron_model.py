"""What a model compiled for AWS Neuron is made for, as its own files say, without torch: `read_compiled`.

A compiled model is a folder as optimum-neuron writes it: the scheduler and the tokenizers as in diffusers, and per part
of the model a ``config.json`` whose section ``neuron`` tells shapes and compiler, beside the graph, ``model.neuron``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.capabilities import Capabilities
from serve_app.errors import ConfigurationError
from serve_app.model_files import NEURON_GRAPH, check_parts, is_compiled_for_neuron, read_json

CORES = 2
"""Cores a replica needs: optimum-neuron puts the UNet on both, half of the rows on each, and all else on the first."""

COMPILER = "neuronx-cc"
"""The compiler of Inferentia2 and Trainium; that of Inferentia1 has another name."""

_PARTS = ("unet", "text_encoder", "text_encoder_2", "vae_decoder")
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_WINDOW = 77  # CLIP's; older exporters did not write the length down
_MARKS = 2  # tokens around every text: its start and its end


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """The limits of a compiled model.

    Attributes:
        folder: Where it lies.
        width: Pixels of every picture.
        height: Pixels of every picture.
        unet_batch: Rows that one core takes in a denoising step, or multiples of it with `dynamic_batch_size`.
        text_batch: Texts that one call of a text encoder takes.
        decoder_batch: Pictures that one call of the VAE decoder takes.
        sequence_length: Tokens of a text, its two marks among them.
        dynamic_batch_size: Whether multiples of `unet_batch` are possible.
        float_dtype: Type of the inputs: ``fp32``, ``bf16`` or ``fp16``.
        compiler_version: Version of the compiler.
        instance_type: Kind of machine it is compiled for, such as ``inf2``; None where the files do not say.
    """

    folder: Path
    width: int
    height: int
    unet_batch: int
    text_batch: int
    decoder_batch: int
    sequence_length: int
    dynamic_batch_size: bool
    float_dtype: str
    compiler_version: str
    instance_type: str | None

    @property
    def rows(self) -> int:
        """Rows of one denoising step on both cores."""
        return CORES * self.unet_batch

    def capabilities(self, *, max_rows: int, exact_batches: bool) -> Capabilities:
        """What can be drawn; the pipeline adds its noise schedulers.

        Args:
            max_rows: Most rows of a step, where the model leaves a choice.
            exact_batches: Leave none: every step has the same rows.
        """
        most = max(self.rows, max_rows // self.rows * self.rows) if self.dynamic_batch_size else self.rows
        return Capabilities(
            max_rows=most,
            fixed_rows=tuple(range(most if exact_batches else self.rows, most + 1, self.rows)),
            fixed_sizes=((self.width, self.height),),
            max_pixels=self.width * self.height,
            max_prompt_tokens=self.sequence_length - _MARKS,
            previews=True,
        )


def read_compiled(folder: Path) -> CompiledModel:
    """Reads a compiled model's limits and checks that it is complete and of one piece.

    Raises:
        ConfigurationError: It is not compiled, incomplete, or of a kind that cannot be served; with the remedy.
    """
    if not is_compiled_for_neuron(folder):
        read_json(folder / "model_index.json")
        raise ConfigurationError(
            f"{folder} is not compiled for Neuron: compile it with `imagine compile --accelerator neuron "
            f"--model {folder} OUTPUT`, or use another accelerator"
        )
    check_parts(folder, ("scheduler", "tokenizer", "tokenizer_2"))
    configs = {name: read_json(folder / name / "config.json") for name in _PARTS}
    sections = {name: _section(folder / name, config) for name, config in configs.items()}
    if configs["unet"].get("time_cond_proj_dim") is not None:
        raise ConfigurationError(
            f"{folder} takes guidance as an input, which optimum-neuron leaves out of the graph it compiles: use a "
            "model without it, such as SDXL base, Turbo or Lightning, or another accelerator"
        )
    scale = 2 ** (len(configs["vae_decoder"]["block_out_channels"]) - 1)
    latents = {name: _latent_size(folder / name, sections[name]) for name in ("unet", "vae_decoder")}
    texts = {
        name: (_number(folder / name, sections[name], "static_batch_size"), _length(sections[name]))
        for name in _TEXT_ENCODERS
    }
    lengths = {_length(sections["unet"]), *(length for _, length in texts.values())}
    if len(set(latents.values())) > 1 or len(set(texts.values())) > 1 or len(lengths) > 1:
        raise ConfigurationError(
            f"the parts of {folder} are compiled for different shapes: compile the model again in one go"
        )
    height, width = latents["unet"]
    unet = sections["unet"]
    return CompiledModel(
        folder=folder,
        width=width * scale,
        height=height * scale,
        unet_batch=_number(folder / "unet", unet, "static_batch_size"),
        text_batch=texts["text_encoder"][0],
        decoder_batch=_number(folder / "vae_decoder", sections["vae_decoder"], "static_batch_size"),
        sequence_length=lengths.pop(),
        dynamic_batch_size=all(section.get("dynamic_batch_size") for section in sections.values()),
        float_dtype=str(unet.get("float_dtype", "fp32")),
        compiler_version=str(unet.get("compiler_version", "0")),
        instance_type=unet.get("instance_type"),
    )


def largest_graph_bytes(folder: Path) -> int:
    """Bytes of the largest graph: so much host memory loading takes at least, before the device has it."""
    return max((file.stat().st_size for file in folder.glob(f"*/{NEURON_GRAPH}")), default=0)


def _section(part: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What was compiled, of one part.

    Raises:
        ConfigurationError: Nothing was, or not for one core of the devices that can be served.
    """
    section = config.get("neuron")
    if not isinstance(section, dict) or not (part / NEURON_GRAPH).is_file():
        missing = "its section neuron in config.json" if (part / NEURON_GRAPH).is_file() else NEURON_GRAPH
        raise ConfigurationError(
            f"{part} is incomplete: {missing} is missing; compile or download the model again"
        )
    if section.get("compiler_type", COMPILER) != COMPILER:
        raise ConfigurationError(
            f"{part} was compiled by {section['compiler_type']}, for other devices than those that {COMPILER} "
            "compiles for (Inferentia2, Trainium): compile the model again"
        )
    if section.get("tensor_parallel_size", 1) != 1:
        raise ConfigurationError(
            f"{part} is divided among {section['tensor_parallel_size']} cores: compile the model without "
            "tensor parallelism, whole on each core"
        )
    return section


def _latent_size(part: Path, section: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) in latents; also of the decoder, whose input they are."""
    return _number(part, section, "static_height"), _number(part, section, "static_width")


def _length(section: Mapping[str, Any]) -> int:
    return int(section.get("static_sequence_length") or _WINDOW)


def _number(part: Path, section: Mapping[str, Any], key: str) -> int:
    value = section.get(key)
    if not isinstance(value, int) or value < 1:
        raise ConfigurationError(
            f"{part / 'config.json'} does not say its {key}: compile or download the model again"
        )
    return value
