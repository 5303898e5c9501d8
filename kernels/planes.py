"""K and V brought into a path's operand type before the attention kernel reads them.

Two launches at most: the largest magnitude of each head (fp16 only), then one pass that reads
each element once and writes it once.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from autoprec.kernels.blocks import finite_magnitude, fp16_scale, operand
from autoprec.kernels.interface import Launch, strides
from autoprec.types import Dtype

OPERAND_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

_BLOCK_T = 64


def converts(path: str, dtype: Dtype) -> bool:
    """Whether a path must round inputs of a dtype; widening to fp32 is exact and is no rounding."""
    if path in ("fp32", "tf32"):
        return path == "tf32" and dtype is Dtype.FP32
    return path != dtype.value


@triton.jit
def _tile(X, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, BLOCK_T: tl.constexpr,
          BLOCK_D: tl.constexpr):  # fmt: skip
    head = tl.program_id(0) // tl.cdiv(tokens, BLOCK_T)
    block = tl.program_id(0) % tl.cdiv(tokens, BLOCK_T)
    t = block.to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D)
    inside = (t < tokens)[:, None] & (d < head_dim)[None, :]
    base = X + (head // heads).to(tl.int64) * sx_b + (head % heads).to(tl.int64) * sx_h
    x = tl.load(base + t[:, None] * sx_t + d.to(tl.int64)[None, :] * sx_d, mask=inside, other=0.0)
    # where the result goes: contiguous [batch * heads, tokens, head_dim]
    place = (head.to(tl.int64) * tokens + t)[:, None] * head_dim + d[None, :]
    return head, x, place, inside


@triton.jit(do_not_specialize=["tokens"])
def _largest(X, AMAX, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, BLOCK_T: tl.constexpr,
             BLOCK_D: tl.constexpr):  # fmt: skip
    head, x, _, _ = _tile(X, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, BLOCK_T, BLOCK_D)
    amax = tl.max(tl.max(finite_magnitude(x), 1), 0)
    # magnitudes order as their bits do, so that the integer atomic, which every chip has, will do
    tl.atomic_max(AMAX + head, amax.to(tl.int32, bitcast=True))


@triton.jit(do_not_specialize=["tokens"])
def _convert(X, Y, AMAX, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, PATH: tl.constexpr,
             SCALED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    head, x, place, inside = _tile(X, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads,
                                   BLOCK_T, BLOCK_D)  # fmt: skip
    if SCALED:
        amax = tl.load(AMAX + head).to(tl.float32, bitcast=True)
        scale, _ = fp16_scale(amax)
        x = x.to(tl.float32) * scale
    tl.store(Y + place, operand(x, PATH), mask=inside)


def convert(x: torch.Tensor, path: str) -> tuple[torch.Tensor, torch.Tensor | None, list[Launch]]:
    """Plan the conversion of keys or values.

    Args:
        x: ``[batch, heads, tokens, head_dim]``, fp32, bf16 or fp16, any strides.
        path: The precision path.

    Returns:
        The contiguous result of the same shape in the path's operand type; for fp16 the largest
        finite magnitude of each head as the bits of an fp32 number, int32 ``[batch * heads]``
        (the elements are scaled by ``fp16_scale`` of it); and the launches that fill both.
    """
    batch, heads, tokens, head_dim = x.shape
    y = torch.empty(x.shape, dtype=OPERAND_DTYPES[path], device=x.device)
    scaled = path == "fp16"
    amax = torch.zeros(batch * heads, dtype=torch.int32, device=x.device) if scaled else None
    common: dict[str, Any] = {
        "X": x,
        **strides("x", x),
        "tokens": tokens,
        "head_dim": head_dim,
        "heads": heads,
        "BLOCK_T": _BLOCK_T,
        "BLOCK_D": triton.next_power_of_2(head_dim),
        "num_warps": 4,
        "num_stages": 2,
    }
    grid = (triton.cdiv(tokens, _BLOCK_T) * batch * heads,)
    launches = [Launch(_largest, grid, common | {"AMAX": amax})] if scaled else []
    arguments = common | {"Y": y, "AMAX": amax, "PATH": path, "SCALED": scaled}
    launches.append(Launch(_convert, grid, arguments))
    return y, amax, launches
