"""`compiled`: a TorchScript module for one set of shapes."""

from __future__ import annotations

import torch


def compiled(func: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...]) -> torch.jit.ScriptModule:
    """A trace behind a check of every input's shape and type.

    Args:
        func: Called with the inputs by position.
        example_inputs: Like them the inputs have to be.

    Returns:
        A module that can be saved; its attribute ``batch`` is the first dimension of the first input.
    """
    with torch.no_grad():
        traced = torch.jit.trace(func, example_inputs, strict=False, check_trace=False)
    return _Checked(traced, example_inputs)


class _Checked(torch.jit.ScriptModule):
    def __init__(self, traced: torch.jit.ScriptModule, example_inputs: tuple[torch.Tensor, ...]) -> None:
        super().__init__()
        self.traced = traced
        self.batch = torch.jit.Attribute(example_inputs[0].shape[0], int)
        self.dynamic = torch.jit.Attribute(False, bool)
        names = [f"x{index}" for index in range(len(example_inputs))]
        checks = [
            f"    if {name}.shape != {list(example.shape)} or {name}.dtype != {example.dtype}:\n"
            f"        raise RuntimeError('input {index} was compiled as {example.dtype} of '\n"
            f"            + '{tuple(example.shape)} and not as ' + str({name}.shape))"
            for index, (name, example) in enumerate(zip(names, example_inputs, strict=True))
        ]
        arguments = ", ".join(f"{name}: Tensor" for name in names)
        self.define(
            f"def forward(self, {arguments}):\n"
            + "\n".join(checks)
            + f"\n    return self.traced({', '.join(names)})\n"
        )
