"""K and V brought into a path's parts before the attention kernel reads them.

Two launches at most: the largest magnitude of each head (fp16 only), then one pass that reads
each element once and writes each of its parts once.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from autoprec.kernels.blocks import finite_magnitude, fp16_scale, split
from autoprec.kernels.interface import Launch, strides
from autoprec.paths import PATHS

OPERANDS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

_BLOCK_T = 64


def key_bytes(path: str) -> int:
    """Bytes that all parts of one element of K take."""
    return PATHS[path].parts * OPERANDS[PATHS[path].operand].itemsize


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
def _convert(X, Y, AMAX, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, plane,
             OPERAND: tl.constexpr, PARTS: tl.constexpr, SCALED: tl.constexpr,
             BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    head, x, place, inside = _tile(X, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads,
                                   BLOCK_T, BLOCK_D)  # fmt: skip
    if SCALED:
        amax = tl.load(AMAX + head).to(tl.float32, bitcast=True)
        scale, _ = fp16_scale(amax)
        x = x.to(tl.float32) * scale
    parts = split(x, OPERAND, PARTS)
    tl.store(Y + place, parts[0], mask=inside)
    if PARTS >= 2:
        tl.store(Y + plane + place, parts[1], mask=inside)
    if PARTS >= 3:
        tl.store(Y + 2 * plane + place, parts[2], mask=inside)


def convert(x: torch.Tensor, path: str) -> tuple[torch.Tensor, torch.Tensor | None, list[Launch]]:
    """Plan the conversion of keys or values.

    Args:
        x: ``[batch, heads, tokens, head_dim]``, fp32, bf16 or fp16, any strides.
        path: The precision path.

    Returns:
        The planes, contiguous ``[parts, batch, heads, tokens, head_dim]`` in the path's operand
        type; for fp16 the largest finite magnitude of each head as the bits of an fp32 number,
        int32 ``[batch * heads]`` (the elements are scaled by ``fp16_scale`` of it); and the
        launches that fill both.
    """
    batch, heads, tokens, head_dim = x.shape
    scheme = PATHS[path]
    y = torch.empty((scheme.parts, *x.shape), dtype=OPERANDS[scheme.operand], device=x.device)
    scaled = scheme.operand == "fp16"
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
    arguments = common | {
        "Y": y,
        "AMAX": amax,
        "plane": y[0].numel(),
        "OPERAND": scheme.operand,
        "PARTS": scheme.parts,
        "SCALED": scaled,
    }
    launches.append(Launch(_convert, grid, arguments))
    return y, amax, launches
