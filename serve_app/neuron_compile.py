"""Compiling an SDXL for AWS Neuron with optimum-neuron's own exporter: `compile_for_neuron`. Needs no device."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serve_app.errors import ConfigurationError
from serve_app.model_files import check_folder, choose_variant, local_folder, read_json
from serve_app.model_source import model_defaults
from serve_app.neuron_model import CompiledModel, read_compiled
from serve_app.settings import PoolSettings

_PACKAGES = ("optimum.neuron", "torch_neuronx", "neuronxcc")

_LINES_KEPT = 15
"""Last lines of the exporter's output that a failure shows."""

_KILLED = (-9, 137)
"""Exit status of a process that the kernel killed, itself or by its shell."""


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What to compile for; everything is fixed afterwards.

    Attributes:
        width: Pixels, or None for the model's usual size.
        height: Pixels, or None for the model's usual size.
        batch_size: Rows of a denoising step on each of the two cores of a replica.
        instance_type: ``inf2``, ``trn1``, ``trn1n`` or ``trn2``.
        auto_cast: What the compiler may compute in `auto_cast_type`: ``none``, ``matmul`` or ``all``.
        auto_cast_type: ``bf16``, ``fp16`` or ``tf32``.
        dynamic_batch_size: Whether a step may also have multiples of its rows, at some cost in speed.
    """

    width: int | None = None
    height: int | None = None
    batch_size: int = 1
    instance_type: str = "inf2"
    auto_cast: str = "matmul"
    auto_cast_type: str = "bf16"
    dynamic_batch_size: bool = False


def compile_for_neuron(
    pool: PoolSettings, options: CompileOptions, output: Path, *, on_line: Callable[[str], None]
) -> CompiledModel:
    """Compiles the pool's model into `output`, which appears only when it is complete and checked.

    Args:
        pool: Which model.
        options: What for.
        output: A folder that is not there yet, or is empty.
        on_line: Hears every line that the exporter writes.

    Returns:
        The limits of the compiled model.

    Raises:
        ConfigurationError: A package, the model or `output` does not work, or the exporter failed; with the remedy.
    """
    _check_packages()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigurationError(f"{output} is there already: choose another folder, or remove it")
    folder = local_folder(pool.model, pool.model_dirs) or _download(pool)
    width, height = _size(pool, folder, options)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise ConfigurationError(f"cannot write to {output.parent} ({error.strerror})") from None
    try:
        partial.chmod(0o755)  # mkdtemp's folders are their owner's alone; a service may run as somebody else
        _export(_arguments(folder, partial, width, height, options), on_line)
        compiled = read_compiled(partial)
        asked = (width, height, options.batch_size, options.dynamic_batch_size)
        made = (compiled.width, compiled.height, compiled.unet_batch, compiled.dynamic_batch_size)
        if made != asked:
            raise ConfigurationError(
                f"the exporter compiled (width, height, rows, dynamic) {made} where {asked} was asked: it is not of "
                "the release that this service was made for; install the extra `neuron`"
            )
        if output.is_dir():
            output.rmdir()
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # not there any more when all went well
    return read_compiled(output)


def _check_packages() -> None:
    """Refuses an environment without the exporter or the compiler.

    Raises:
        ConfigurationError: Which are missing, and how to get them.
    """
    missing = [name for name in _PACKAGES if not _is_installed(name)]
    if missing:
        raise ConfigurationError(
            f"{', '.join(missing)} cannot be imported: install the extra `neuron` from AWS's own package index, in "
            "an environment of its own; docs/neuron.md says how"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _download(pool: PoolSettings) -> Path:
    from serve_app.pipelines.loading import download

    return download(pool)


def _size(pool: PoolSettings, folder: Path, options: CompileOptions) -> tuple[int, int]:
    """(width, height) to compile for.

    Raises:
        ConfigurationError: The model cannot be compiled, or not for this size.
    """
    variant = choose_variant(folder, pool.variant)
    check_folder(folder, variant)
    if variant is not None:
        raise ConfigurationError(
            f"{folder} has only weights of variant {variant}, which the exporter does not read: take a copy of the "
            "model with plain weight files"
        )
    defaults = model_defaults(folder, pool)
    width, height = options.width or defaults.width, options.height or defaults.height
    # The exporter divides by this and drops what is left.
    scale = 2 ** (len(read_json(folder / "vae" / "config.json").get("block_out_channels", [0] * 4)) - 1)
    for name, side in (("width", width), ("height", height)):
        if side % scale:
            raise ConfigurationError(f"{name} {side} is not a multiple of {scale} pixels")
    return width, height


def _arguments(folder: Path, output: Path, width: int, height: int, options: CompileOptions) -> list[str]:
    arguments = {
        "--model": str(folder),
        "--task": "text-to-image",  # it cannot tell from a folder
        "--batch_size": options.batch_size,
        "--width": width,
        "--height": height,
        "--num_images_per_prompt": 1,
        "--auto_cast": options.auto_cast,
        "--auto_cast_type": options.auto_cast_type,
        "--instance_type": options.instance_type,
    }
    flags = [
        "--disable-validation",  # it needs a device; the replica's test picture is the validation
        "--disable_neuron_cache",  # else it asks the hub for a model that somebody compiled before
    ]
    if options.dynamic_batch_size:
        flags.append("--dynamic-batch-size")
    return [*(str(part) for pair in arguments.items() for part in pair), *flags, str(output)]


def _export(arguments: list[str], on_line: Callable[[str], None]) -> None:
    """Runs the exporter that ``optimum-cli export neuron`` runs.

    It is run as a module of this Python, without the shell and the first python3 on the path that ``optimum-cli``
    takes: those break with spaces in a path, and outside an active environment.

    Raises:
        ConfigurationError: It failed; with its last lines.
    """
    command = [sys.executable, "-m", "optimum.exporters.neuron", *arguments]
    last: deque[str] = deque(maxlen=_LINES_KEPT)
    # The compiler is a program beside this Python, which need not be on the path.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PATH": path},
    ) as exporter:
        assert exporter.stdout is not None
        try:
            for line in exporter.stdout:
                last.append(line.rstrip())
                on_line(line.rstrip())
        except BaseException:
            exporter.terminate()
            raise
    if exporter.returncode in _KILLED:
        raise ConfigurationError(
            "the exporter was killed, as happens when memory runs out: SDXL at 1024x1024 needs a machine with 64 GB "
            "or more to compile on; it need not have a Neuron device"
        )
    if exporter.returncode:
        raise ConfigurationError(
            f"the exporter failed with status {exporter.returncode}:\n" + "\n".join(last)
        )
