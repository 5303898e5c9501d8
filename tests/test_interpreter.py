"""The repairs of the interpreter: each against torch, or against numbers worked out by hand.

What concerns a repair fails on the interpreter as it comes.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels are compiled here", allow_module_level=True)
pytest.importorskip("triton")

import interpreter
import triton
import triton.language as tl

_HARD = torch.tensor(
    [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-9, 1 + 2**-8 + 2**-20, -1 - 2**-8, 3e38,
     3.4e38, 1e-40, 65504.0, 65520.0, 2.0**-24, 2.0**-25, 2.0**-25 * 1.01, torch.inf, -torch.inf,
     torch.nan, 0.1]
)  # fmt: skip


def _numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@triton.jit
def _copy(X, Y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(Y + i, tl.load(X + i).to(Y.dtype.element_ty))


@triton.jit
def _round(X, Y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(Y + i, tl.load(X + i).to(Y.dtype.element_ty, fp_downcast_rounding="rtne"))


_TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int32]


@pytest.mark.parametrize("kernel", [_copy, _round], ids=["plain", "rtne"])
@pytest.mark.parametrize("source", _TYPES, ids=str)
@pytest.mark.parametrize("target", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_casts_round_as_torch_does(kernel: Any, source: torch.dtype, target: torch.dtype) -> None:
    if kernel is _round and (source.itemsize <= target.itemsize or source == torch.int32):
        pytest.skip("not a cast that rounds")
    x = torch.cat([_HARD, _numbers(1004)])
    if source == torch.int32:
        x = (x.nan_to_num(posinf=7, neginf=7).clamp(-1e9, 1e9) * 1e4).clamp(-(2**31), 2**31 - 200)
    x = x.to(source)
    y = torch.empty(1024, dtype=target)
    kernel[(1,)](x, y, 1024)
    want = x.to(target)
    assert torch.equal(y.isnan(), want.isnan())
    assert torch.equal(y.nan_to_num(1.0), want.nan_to_num(1.0))


@triton.jit
def _arithmetic(A, B, Y, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(A + i), tl.load(B + i)
    tl.store(Y + i, a + b)
    tl.store(Y + N + i, a - b)
    tl.store(Y + 2 * N + i, a * a)
    tl.store(Y + 3 * N + i, tl.maximum(a, b))
    tl.store(Y + 4 * N + i, tl.where(a < b, a, b))
    tl.store(Y + 5 * N + i, tl.abs(a))
    tl.store(Y + 6 * N + i, tl.fma(a, b, a))
    tl.store(Y + 7 * N + i, -a)
    tl.store(Y + 8 * N + i, tl.full([N], 0.1, Y.dtype.element_ty))


def test_bf16_arithmetic_is_that_of_the_numbers() -> None:
    a, b = _numbers(64).bfloat16(), _numbers(64, seed=1).bfloat16()
    y = torch.empty(9, 64, dtype=torch.bfloat16)
    _arithmetic[(1,)](a, b, y, 64)
    wide_a, wide_b = a.float(), b.float()
    want = [
        wide_a + wide_b, wide_a - wide_b, wide_a * wide_a, torch.maximum(wide_a, wide_b),
        torch.minimum(wide_a, wide_b), wide_a.abs(), (wide_a.double() * wide_b + wide_a).float(),
        -wide_a, torch.full([64], 0.1),
    ]  # fmt: skip
    assert torch.equal(y, torch.stack(want).bfloat16())


@triton.jit
def _reductions(X, Y, M: tl.constexpr, N: tl.constexpr):
    x = tl.load(X + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :])
    i = tl.arange(0, M)
    tl.store(Y + i, tl.sum(x, 1))
    tl.store(Y + M + i, tl.max(x, 1))
    tl.store(Y + 2 * M + i, tl.min(x, 1))
    tl.store(Y + 3 * M + i, tl.max(tl.max(x, 1), 0))


def test_bf16_reductions_are_those_of_the_numbers() -> None:
    x = _numbers(16, 32).bfloat16()
    y = torch.empty(4, 16, dtype=torch.bfloat16)
    _reductions[(1,)](x, y, 16, 32)
    wide = x.float()
    # A sum of 32 numbers in fp32 and its rounding to bf16: one bf16 step of the largest, 2^-7 * 16.
    torch.testing.assert_close(y[0].float(), wide.sum(1), rtol=2.0**-8, atol=1e-5)
    assert torch.equal(y[1], wide.amax(1).bfloat16())
    assert torch.equal(y[2], wide.amin(1).bfloat16())
    assert torch.equal(y[3], wide.amax().bfloat16().expand(16))


@triton.jit
def _product(A, B, C, PRECISION: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    a, b = tl.load(A + i * N + j), tl.load(B + i * N + j)
    c = tl.dot(a, b, tl.load(C + i * N + j), input_precision=PRECISION)
    tl.store(C + i * N + j, c)


def _dot(a: torch.Tensor, b: torch.Tensor, precision: str) -> torch.Tensor:
    c = _numbers(32, 32, seed=7)
    result = c.clone()
    _product[(1,)](a, b, result, precision, 32)
    return result - c


def _relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


# 32 products and the subtraction of c, in fp32: a dozen roundings of 2^-24.
_FP32_ERROR = 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_products_accumulate_in_fp32(dtype: torch.dtype) -> None:
    a, b = _numbers(32, 32).to(dtype), _numbers(32, 32, seed=1).to(dtype)
    assert _relative(_dot(a, b, "ieee"), a.double() @ b.double()) < _FP32_ERROR


def test_fp16_products_beyond_fp16_are_finite() -> None:
    a = torch.full((32, 32), 300.0, dtype=torch.float16)
    got = torch.zeros(32, 32)
    _product[(1,)](a, a, got, "ieee", 32)
    assert (got == 32 * 300.0 * 300.0).all()


def _truncated(x: torch.Tensor) -> torch.Tensor:
    return (x.view(torch.int32) & -0x2000).view(torch.float32)


def test_tf32_truncates_as_tensor_cores_do() -> None:
    a, b = _numbers(32, 32), _numbers(32, 32, seed=1)
    got = _dot(a, b, "tf32")
    assert _relative(got, _truncated(a).double() @ _truncated(b).double()) < _FP32_ERROR
    assert _relative(got, a.double() @ b.double()) > 1e-4


@pytest.mark.parametrize(
    ("precision", "low", "high"),
    [
        ("ieee", 0, _FP32_ERROR),
        ("tf32x3", 0, _FP32_ERROR),  # what is dropped is 2^-22
        ("bf16x3", 2.0**-20, 2.0**-15),  # what is dropped is 2^-16 at most
        ("bf16x6", 0, _FP32_ERROR),  # 2^-24
    ],
)
def test_split_precisions_have_the_errors_of_their_parts(
    precision: str, low: float, high: float
) -> None:
    a, b = _numbers(32, 32), _numbers(32, 32, seed=1)
    assert low <= _relative(_dot(a, b, precision), a.double() @ b.double()) < high


@triton.jit
def _loop(X, Y, n, N: tl.constexpr):
    total = tl.zeros([N], tl.float32)
    for i in tl.range(tl.load(X).to(tl.int32), n, 2):
        total += i
    tl.store(Y + tl.arange(0, N), total)


def test_loops_over_numbers_known_at_run_time() -> None:
    x, y = torch.tensor([1.0]), torch.empty(16)
    _loop[(1,)](x, y, 8, 16)
    assert (y == 1 + 3 + 5 + 7).all()


@triton.jit
def _nan(X, Y, N: tl.constexpr):
    i = tl.arange(0, N)
    x = tl.load(X + i)
    tl.store(Y + i, tl.maximum(x, 0.5))
    tl.store(Y + N + i, tl.minimum(x, 0.5))
    tl.store(Y + 2 * N + i, x - x)
    tl.store(Y + 3 * N + i, tl.zeros([N], tl.float32) + tl.max(x * float("nan"), 0))


def test_nan_is_dropped_by_maximum_and_made_in_silence() -> None:
    """Warnings are errors here: infinity minus infinity must not warn."""
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0])
    y = torch.empty(4, 4)
    _nan[(1,)](x, y, 4)
    assert y[0].tolist() == [0.5, torch.inf, 0.5, 1.0]
    assert y[1].tolist() == [0.5, 0.5, -torch.inf, 0.5]
    assert y[2].isnan().tolist() == [True, True, True, False]
    assert y[3].isnan().all()


@pytest.mark.parametrize(
    ("function", "want"),
    [
        (interpreter.truncated_tf32, [1.0, 1 + 2**-10, -1.0]),
        (interpreter.rounded_tf32, [1 + 2**-10, 1 + 2**-9, -1.0]),
    ],
)
def test_tf32_of_numbers_and_of_nan(function: Callable[..., Any], want: list[float]) -> None:
    x = np.array([1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-12, np.nan, np.inf], np.float32)
    x[3] = np.array([0xFFFFFFFF], np.uint32).view(np.float32)[0]
    got = function(x)
    assert got[:3].tolist() == want
    assert np.isnan(got[3])
    assert got[4] == np.inf


def test_repairing_twice_changes_nothing() -> None:
    before = interpreter.interpreter.InterpreterBuilder.create_dot
    interpreter.repair()
    assert interpreter.interpreter.InterpreterBuilder.create_dot is before
