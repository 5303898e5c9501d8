"""Kernels that are broken on purpose: the checks of the kernel tests must notice every one."""

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import bounds
import kernel_cases
import pytest
import torch
from torch import Tensor

from autoprec import registry
from autoprec.kernels import cpu, cpu_blocks
from autoprec.kernels.interface import Call, Kernel, Target
from autoprec.kernels.reference import attention
from autoprec.types import Dtype

_TARGET = Target(kind="cuda", arch="sm_80", shared_bytes=166912, units=108)


def _guard(
    path_input: Dtype = Dtype.FP32, lengths: tuple[int, int] = (33, 70), scale: float = 1.0
) -> kernel_cases.Guarded:
    case = {"input": path_input, "lengths": lengths, "heads": (4, 2), "dims": (24, 24),
            "layout": "sliced"}  # fmt: skip
    q, k, v = kernel_cases.inputs(case, "cpu", batch=2)
    return kernel_cases.guarded(
        q, k, v, out_dtype=torch.float32, layout="sliced", diagonal=lengths[1] - lengths[0],
        sm_scale=scale * 24**-0.5,
    )  # fmt: skip


# A kernel in a few lines of fp64, right for every path but the split ones, and ways to break it.


def _model(call: Call, path: str, config: Any) -> None:
    q, k, v = (bounds.as_path_rounds(x, path) for x in (call.q, call.k, call.v))
    _write(call, *attention(q, k, v, diagonal=call.diagonal, sm_scale=call.sm_scale))


def _write(call: Call, out: Tensor, lse: Tensor) -> None:
    call.out.copy_(out)
    assert call.lse is not None
    call.lse.copy_(lse)


def _of(change: Callable[[Call], Call]) -> Callable[[Call, str, Any], None]:
    """The right kernel, of another call."""
    return lambda call, path, config: _model(change(call), path, config)


def _after(change: Callable[[Call], None]) -> Callable[[Call, str, Any], None]:
    """The right kernel, and something done to its results."""

    def run(call: Call, path: str, config: Any) -> None:
        _model(call, path, config)
        change(call)

    return run


def _shifted(call: Call, by: int) -> Call:
    assert call.diagonal is not None
    return dataclasses.replace(call, diagonal=call.diagonal + by)


def _one_longer(x: Tensor) -> Tensor:
    """A tensor with the token beyond its last, which lies in the poison."""
    b, h, t, d = x.shape
    return x.as_strided((b, h, t + 1, d), x.stride(), x.storage_offset())


def _beyond(call: Call) -> None:
    flat = call.out.as_strided((1,), (1,), call.out.storage_offset() + call.out.shape[3])
    flat.fill_(0.0)


def _truncated(x: Tensor) -> Tensor:
    return (x.float().contiguous().view(torch.int32) & -0x2000).view(torch.float32)


def _narrow(call: Call) -> None:
    call.out.copy_(call.out.bfloat16())


_BROKEN: dict[str, Callable[[Call, str, Any], None]] = {
    "a key too many": _of(lambda call: _shifted(call, 1)),
    "a key too few": _of(lambda call: _shifted(call, -1)),
    "no mask": _of(lambda call: dataclasses.replace(call, diagonal=None)),
    "the last key dropped": _of(
        lambda call: dataclasses.replace(call, k=call.k[:, :, :-1], v=call.v[:, :, :-1])
    ),
    "a key beyond the last": _of(
        lambda call: dataclasses.replace(
            call, k=_one_longer(call.k), v=_one_longer(call.v), diagonal=None
        )
    ),
    "heads of a group interleaved": _of(
        lambda call: dataclasses.replace(call, q=call.q[:, [0, 2, 1, 3]])
    ),
    "no scale": _of(lambda call: dataclasses.replace(call, sm_scale=1.0)),
    "one in 1000 more on the scale": _of(
        lambda call: dataclasses.replace(call, sm_scale=call.sm_scale * 1.001)
    ),
    "operands truncated": _of(
        lambda call: dataclasses.replace(
            call, q=_truncated(call.q), k=_truncated(call.k), v=_truncated(call.v)
        )
    ),
    "natural LSE": _after(lambda call: call.lse.mul_(0.6931)),  # type: ignore[union-attr]
    "one row 1 % off": _after(lambda call: call.out[1, 2, 3].mul_(1.01)),
    "one element NaN": _after(lambda call: call.out[1, 2, 3, 4].fill_(torch.nan)),
    "output rounded to bf16": _after(_narrow),
    "written beyond": _after(_beyond),
}


def _row(run: Callable[[Call, str, Any], None]) -> Kernel:
    return dataclasses.replace(cpu.KERNELS[0], run=run)


@pytest.mark.parametrize("path", ["fp32", "tf32", "fp16"])
def test_the_model_is_right(path: str) -> None:
    kernel_cases.check(_row(_model), _guard(), path, {})


@pytest.mark.parametrize("bug", _BROKEN)
def test_a_broken_model_is_noticed(bug: str) -> None:
    # fp32 holds the checks to the tightest; operands only truncate where they are rounded
    path = "tf32" if bug == "operands truncated" else "fp32"
    scale = 4.0 if bug == "operands truncated" else 1.0
    with pytest.raises(AssertionError):
        kernel_cases.check(_row(_BROKEN[bug]), _guard(scale=scale), path, {})


def test_rows_without_keys_must_be_zero() -> None:
    def run(call: Call, path: str, config: Any) -> None:
        _model(call, path, config)
        call.out[:, :, 0] = 1e-30

    guard = _guard(lengths=(33, 20))
    with pytest.raises(AssertionError, match="a row that sees no key is not 0"):
        kernel_cases.check(_row(run), guard, "fp32", {})


# The kernels themselves, with one piece replaced.

_CPU_BUGS: dict[str, tuple[Any, str, Any, str]] = {
    "mask off by one": (
        cpu, "unseen",
        lambda first, rows, start, stop: (
            torch.arange(start, stop) > torch.arange(rows)[:, None] + first
        ),
        "fp32",
    ),
    "tf32 truncates": (
        cpu_blocks.Rounding, "_round",
        lambda self, x: x.copy_(_truncated(x)),
        "tf32",
    ),
    "bf16 is not rounded": (cpu_blocks.Rounding, "_round", lambda self, x: x, "bf16"),
    "fp16 for bf16": (
        cpu_blocks.Rounding, "_round", lambda self, x: x.copy_(x.half()), "bf16",
    ),
    "fp16's scale and its inverse swapped": (
        cpu_blocks, "_fp16_scale",
        lambda amax: (torch.full_like(amax, 2.0**-20), torch.full_like(amax, 2.0**20)),
        "fp16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", [None, *_CPU_BUGS])
def test_a_broken_cpu_kernel_is_noticed(bug: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"block_q": 16, "block_kv": 16}
    if bug is None:
        for path in ("fp32", "tf32", "bf16", "fp16"):
            kernel_cases.check(cpu.KERNELS[0], _guard(scale=4.0), path, config)
        return
    where, name, replacement, path = _CPU_BUGS[bug]
    monkeypatch.setattr(where, name, replacement)
    with pytest.raises(AssertionError):
        kernel_cases.check(cpu.KERNELS[0], _guard(scale=4.0), path, config)


def _first_part_only(x: Any, OPERAND: str, PARTS: int) -> Any:  # noqa: N803
    from autoprec.kernels import blocks

    first = blocks.rounded(x, OPERAND)
    nothing = first * 0.0
    return first, nothing, nothing


def _undone_twice(amax: Any) -> Any:
    scale = amax * 0.0 + 2.0**10
    return scale, 1.0 / (scale * scale)


_TRITON_BUGS: dict[str, tuple[str, Any, str]] = {
    "tf32 truncates": ("round_tf32", lambda x: x, "tf32"),
    "the second part is lost (tf32)": ("split", _first_part_only, "tf32x3"),
    "the second part is lost (fp16)": ("split", _first_part_only, "fp16x3"),
    "fp16's scale is undone twice": ("fp16_scale", _undone_twice, "fp16"),
}


@pytest.mark.parametrize("name", ["triton-prefill", "triton-decode"])
@pytest.mark.parametrize("bug", [None, *_TRITON_BUGS])
def test_a_broken_triton_kernel_is_noticed(
    name: str, bug: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("triton") is None:
        pytest.skip("no Triton here")
    from autoprec.kernels import blocks

    row = registry.kernel(name)
    lengths = (5, 70) if name == "triton-decode" else (33, 70)
    config = {"block_q": 64, "block_kv": 32, "split": 64, "num_warps": 4, "num_stages": 2}
    if bug is None:
        for path in ("tf32", "tf32x3", "fp16", "fp16x3"):
            kernel_cases.check(row, _guard(lengths=lengths, scale=4.0), path, config)
        return
    attribute, replacement, path = _TRITON_BUGS[bug]
    monkeypatch.setattr(blocks, attribute, replacement)
    with pytest.raises(AssertionError):
        kernel_cases.check(row, _guard(lengths=lengths, scale=4.0), path, config)
