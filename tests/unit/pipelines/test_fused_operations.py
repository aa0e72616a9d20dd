"""Fused operations against PyTorch's own, by PyTorch and, where Triton is, by its kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from serve_app.pipelines import fused_operations
from serve_app.pipelines.fused_operations import (
    Scaled,
    add_layer_norm,
    add_rows,
    add_with_bias,
    factor_of,
    geglu,
    group_norm,
    interleave,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(
    autouse=True,
    params=[
        "PyTorch",
        pytest.param(
            "Triton",
            marks=pytest.mark.skipif(
                fused_operations._KERNELS is None,
                reason="needs Triton and a GPU, or TRITON_INTERPRET=1 and a numpy before 2.4",
            ),
        ),
    ],
)
def _by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "PyTorch":
        monkeypatch.setattr(fused_operations, "_KERNELS", None)
    with torch.inference_mode():
        torch.manual_seed(0)
        yield


def random(*shape: int, around: float = 0.0) -> torch.Tensor:
    return (torch.randn(shape) + around).to(DEVICE)


def random_norm(norm: nn.GroupNorm | nn.LayerNorm) -> None:
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.to(DEVICE)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width", "groups"),
    [(2, 320, 16, 16, 32), (1, 64, 9, 7, 8), (2, 96, 40, 24, 32), (1, 32, 33, 32, 8)],
)
def test_group_norm(
    batch: int, channels: int, height: int, width: int, groups: int, added: bool, silu: bool
) -> None:
    # A mean far from zero: sums of squares alone would lose the variance, as PyTorch's own do on a CPU.
    around = 0.0 if fused_operations._KERNELS is None else 50.0
    x = 3 * random(batch, channels, height, width) + around
    x = x.contiguous(memory_format=torch.channels_last)
    norm = nn.GroupNorm(groups, channels, eps=1e-5)
    random_norm(norm)
    # A part of wider rows, as all residual blocks' shares of the time are.
    add = random(batch, 2 * channels)[:, channels:] if added else None
    whole = x.double() if add is None else x.double() + add.double()[:, :, None, None]
    expected = functional.group_norm(whole, groups, norm.weight.double(), norm.bias.double(), norm.eps)
    if silu:
        expected = functional.silu(expected)
    answer = group_norm(x, norm, add=add, silu=silu)
    assert answer.dtype == x.dtype
    assert answer.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(answer.double(), expected, rtol=0, atol=5e-4)


def test_a_picture_is_normed_the_same_in_any_batch() -> None:
    x = random(3, 64, 40, 24).contiguous(memory_format=torch.channels_last)
    norm = nn.GroupNorm(32, 64)
    random_norm(norm)
    together = group_norm(x, norm, silu=True)
    for index in range(3):
        assert torch.equal(group_norm(x[index : index + 1], norm, silu=True)[0], together[index])


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_add_layer_norm(added: bool, shifted: bool) -> None:
    x, shift = random(2, 5, 640, around=3), random(640) if shifted else None
    add = Scaled(random(2, 5, 640), random(10, 1)) if added else None
    norm = nn.LayerNorm(640)
    random_norm(norm)
    total, normed = add_layer_norm(x, add, norm, shift=shift)
    expected = x if add is None else x + add.values * add.scales.view(2, 5, 1)
    torch.testing.assert_close(total, expected)
    if add is not None:
        torch.testing.assert_close(add_rows(x, add), expected)
    torch.testing.assert_close(
        normed, norm(expected if shift is None else expected + shift), rtol=1e-5, atol=1e-5
    )


def test_geglu_and_the_sum_with_a_bias() -> None:
    x = random(3, 7, 100)
    answer = geglu(x)
    assert isinstance(answer, torch.Tensor)
    torch.testing.assert_close(answer, x[..., :50] * functional.gelu(x[..., 50:]))
    one, other = (random(2, 12, 5, 6).contiguous(memory_format=torch.channels_last) for _ in range(2))
    bias = random(12)
    torch.testing.assert_close(add_with_bias(one, other, bias), one + other + bias[:, None, None])


@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"), [(1, 12, 3, 2), (2, 70, 9, 8), (1, 64, 1, 5)]
)
def test_interleave(batch: int, channels: int, height: int, width: int) -> None:
    parts = random(batch, 4 * channels, height + 1, width + 1).contiguous(memory_format=torch.channels_last)
    bias = random(channels)
    answer = interleave(parts, bias)
    assert answer.shape == (batch, channels, 2 * height, 2 * width)
    for row in range(2 * height):
        for column in range(2 * width):
            down, right = row % 2, column % 2
            quarter = (2 * down + right) * channels
            one = parts[:, quarter : quarter + channels, row // 2 + down, column // 2 + right]
            torch.testing.assert_close(answer[:, :, row, column], one + bias)


@pytest.fixture
def _rounds_rightly() -> None:
    if fused_operations._KERNELS is not None and DEVICE == "cpu":
        pytest.skip("Triton's interpreter rounds to 8 bits wrongly where the exponent changes")


@pytest.mark.usefixtures("_rounds_rightly")
def test_geglu_in_8_bits_keeps_four_binary_digits_of_each_row() -> None:
    gates = random(2, 5, 96) * torch.logspace(-3, 3, 10, device=DEVICE).view(2, 5, 1)
    gated = geglu(gates, in_8_bits=True)  # 48: not a power of two
    assert isinstance(gated, Scaled)
    assert gated.values.dtype == torch.float8_e4m3fn
    assert gated.scales.shape == (10, 1)
    assert gated.values.float().flatten(0, 1).abs().amax(1).tolist() == [448.0] * 10
    expected = geglu(gates)
    assert isinstance(expected, torch.Tensor)
    back = gated.values.float().flatten(0, 1) * gated.scales
    expected = expected.flatten(0, 1)
    assert ((back - expected).abs() <= expected.abs() / 16 + gated.scales / 100).all()


@pytest.mark.usefixtures("_rounds_rightly")
def test_a_norm_in_8_bits_keeps_four_binary_digits_of_any_row() -> None:
    x, norm = random(2, 5, 640), nn.LayerNorm(640)
    random_norm(norm)
    x[0, 0] = 0.0
    x[0, 0, 7] = 1000.0  # the largest norm that there is
    x[0, 1] = 3.0  # and the smallest
    factor = factor_of(norm)
    _, normed = add_layer_norm(x, None, norm, factor=factor)
    assert normed.dtype == torch.float8_e4m3fn
    back, expected = normed.float() / factor, norm(x)
    assert ((back - expected).abs() <= expected.abs() / 16 + 0.002 / factor).all()
    assert normed.float().abs().max() <= 448


def test_no_norm_is_beyond_8_bits() -> None:
    norm = nn.LayerNorm(64)
    random_norm(norm)
    factor = factor_of(norm)
    one_hot = 1e6 * torch.cat([torch.eye(64), -torch.eye(64)]).to(DEVICE)  # each channel's largest norms
    largest = norm(one_hot).abs().max() * factor
    assert 0.9 * 448 < largest <= 448
    nn.init.zeros_(norm.weight)
    nn.init.zeros_(norm.bias)
    assert math.isfinite(factor_of(norm))


def test_a_row_of_zeros_stays_zeros() -> None:
    scaled = Scaled.of(torch.zeros(2, 3, 16))
    assert not scaled.values.float().any()
    assert torch.isfinite(scaled.scales).all()


class _Wrong:
    """Kernels as a broken compiler makes them."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def group_norm(self, x: torch.Tensor, *rest: object) -> torch.Tensor:
        if self.fails:
            raise RuntimeError("PassManager::run failed")
        return x

    def __getattr__(self, name: str) -> object:
        raise AssertionError("the first one was wrong already")


@pytest.mark.parametrize("fails", [True, False])
def test_kernels_that_fail_or_err_are_given_up(
    fails: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fused_operations, "_INTERPRETED", True)
    monkeypatch.setattr(fused_operations, "_KERNELS", _Wrong(fails))
    assert not fused_operations.check_kernels(torch.device("cpu"), torch.float32)
    assert fused_operations._KERNELS is None
    assert "do not work here" in caplog.text
    assert not fused_operations.check_kernels(torch.device("cpu"), torch.float32)


def test_kernels_that_work_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fused_operations._KERNELS
    device = torch.device(DEVICE)
    assert fused_operations.check_kernels(device, torch.float32, in_8_bits=DEVICE == "cuda") is (
        kept is not None
    )
    assert fused_operations._KERNELS is kept


def test_two_right_ways_to_8_bits_pass_the_check_and_a_wrong_one_does_not() -> None:
    x = (torch.randn(60, 640) + torch.randn(60, 640)).to(torch.bfloat16)
    normed = functional.layer_norm(x.float(), (640,))

    def numbers(values: torch.Tensor) -> torch.Tensor:
        return fused_operations._plain(Scaled.of(values))

    def error(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).norm() / other.norm())

    by_torch = numbers(functional.layer_norm(x, (640,)))
    allowed = fused_operations._CHECKED_ERROR_IN_8_BITS
    assert 0 < error(numbers(normed), by_torch) < allowed / 3  # from float32, as kernels do
    assert error(numbers(0.9 * normed), by_torch) > allowed
