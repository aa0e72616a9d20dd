"""`read_model`: one model of a diffusers folder, straight into its compute type.

diffusers maps weight files into memory. What was read of a mapped file counts as the process's own until the whole file
is let go, which for a UNet in one file of another type is after all of it was converted: 10 GB at the peak for 5 GB of
weights. This reads one weight after another.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from serve_app.errors import ConfigurationError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Floating types by their names in safetensors."""


def read_model(model_class: Any, part: Path, files: Sequence[Path], dtype: torch.dtype) -> Any:
    """Makes the model that ``config.json`` describes, with the weights of `files` in `dtype`.

    Args:
        model_class: A diffusers model class without buffers of its own.
        part: The model's folder.
        files: Its safetensors files; together they have every weight once.
        dtype: Of the result.

    Returns:
        The model on the CPU.

    Raises:
        ConfigurationError: A weight is missing, unknown, or of another shape.
    """
    with torch.device("meta"):
        model = model_class.from_config(model_class.load_config(part))
    for file in files:
        for name, tensor in read_tensors(file):
            _assign(model, name, tensor.to(dtype), file)
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if missing:
        raise ConfigurationError(
            f"{part} lacks {missing[0]} ({len(missing)} weights): download the model again"
        )
    return model


def read_tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a safetensors file in the order of the file, each in memory of its own.

    Raises:
        ConfigurationError: The file ends early, or holds something else than floating numbers.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if entry["dtype"] not in _DTYPES:
                raise ConfigurationError(
                    f"{file}: {name} is of type {entry['dtype']}, which cannot be served"
                )
            tensor = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
            stream.seek(8 + length + entry["data_offsets"][0])
            if tensor.numel() and stream.readinto(_bytes(tensor)) != tensor.nbytes:
                raise ConfigurationError(f"{file} is damaged (its end is missing): download the model again")
            yield name, tensor


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's own memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _assign(model: Any, name: str, tensor: torch.Tensor, file: Path) -> None:
    module_name, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(module_name)
        shape = getattr(module, leaf).shape
    except AttributeError:
        raise ConfigurationError(f"{file} has {name}, which its config.json does not know") from None
    if shape != tensor.shape:
        raise ConfigurationError(
            f"{file}: {name} is {list(tensor.shape)}, by its config.json it should be {list(shape)}"
        )
    setattr(module, leaf, torch.nn.Parameter(tensor, requires_grad=False))
