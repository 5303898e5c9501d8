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
def _tile(X, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, blocks, BLOCK_T: tl.constexpr,
          BLOCK_D: tl.constexpr):  # fmt: skip
    """A tile of one head with zeros beyond its tokens and dims, and where it lies."""
    head = tl.program_id(0) // blocks
    t = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    base = X + (head // heads).to(tl.int64) * sx_b + (head % heads).to(tl.int64) * sx_h
    x = tl.load(base + t[:, None] * sx_t + d[None, :] * sx_d,
                mask=(t < tokens)[:, None] & (d < head_dim)[None, :], other=0.0)  # fmt: skip
    return x, head, t, d


@triton.jit(do_not_specialize=["tokens", "blocks"])
def _largest(X, AMAX, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, blocks,
             BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    x, head, _, _ = _tile(X, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, blocks,
                          BLOCK_T, BLOCK_D)  # fmt: skip
    amax = tl.max(tl.max(finite_magnitude(x), 1), 0)
    # magnitudes order as their bits do, so that the integer atomic, which every chip has, will do
    tl.atomic_max(AMAX + head, amax.to(tl.int32, bitcast=True))


@triton.jit(do_not_specialize=["tokens", "blocks", "padded_tokens", "plane"])
def _convert(X, Y, AMAX, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, blocks, padded_tokens,
             padded_dim, plane, OPERAND: tl.constexpr, PARTS: tl.constexpr, SCALED: tl.constexpr,
             BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    x, head, t, d = _tile(X, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, blocks,
                          BLOCK_T, BLOCK_D)  # fmt: skip
    if SCALED:
        amax = tl.load(AMAX + head).to(tl.float32, bitcast=True)
        scale, _ = fp16_scale(amax)
        x = x.to(tl.float32) * scale
    parts = split(x, OPERAND, PARTS)
    at = Y + (head.to(tl.int64) * padded_tokens + t)[:, None] * padded_dim + d[None, :]
    inside = (t < padded_tokens)[:, None] & (d < padded_dim)[None, :]
    tl.store(at, parts[0], mask=inside)
    if PARTS >= 2:
        tl.store(at + plane, parts[1], mask=inside)
    if PARTS >= 3:
        tl.store(at + 2 * plane, parts[2], mask=inside)


def convert(
    x: torch.Tensor, path: str, *, tokens_multiple: int = 1, dim: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None, list[Launch]]:
    """Plan the conversion of keys or values.

    Args:
        x: ``[batch, heads, tokens, head_dim]``, fp32, bf16 or fp16, any strides.
        path: The precision path.
        tokens_multiple: Tokens are padded with zeros to a multiple of this.
        dim: head_dim is padded with zeros to this; None: it is not.

    Returns:
        The planes, contiguous ``[parts, batch, heads, padded tokens, padded head_dim]`` in the
        path's operand type; for fp16 the largest finite magnitude of each head as the bits of an
        fp32 number, int32 ``[batch * heads]`` (the elements are scaled by ``fp16_scale`` of it);
        and the launches that fill both.
    """
    batch, heads, tokens, head_dim = x.shape
    scheme = PATHS[path]
    padded_tokens = triton.cdiv(tokens, tokens_multiple) * tokens_multiple
    padded_dim = head_dim if dim is None else dim
    shape = (scheme.parts, batch, heads, padded_tokens, padded_dim)
    y = torch.empty(shape, dtype=OPERANDS[scheme.operand], device=x.device)
    scaled = scheme.operand == "fp16"
    amax = torch.zeros(batch * heads, dtype=torch.int32, device=x.device) if scaled else None
    blocks = triton.cdiv(padded_tokens, _BLOCK_T)
    common: dict[str, Any] = {
        "X": x,
        "AMAX": amax,
        **strides("x", x),
        "tokens": tokens,
        "head_dim": head_dim,
        "heads": heads,
        "blocks": blocks,
        "BLOCK_T": _BLOCK_T,
        "BLOCK_D": triton.next_power_of_2(padded_dim),
        "num_warps": 4,
        "num_stages": 2,
    }
    arguments = common | {
        "Y": y,
        "padded_tokens": padded_tokens,
        "padded_dim": padded_dim,
        "plane": y[0].numel(),
        "OPERAND": scheme.operand,
        "PARTS": scheme.parts,
        "SCALED": scaled,
    }
    grid = (blocks * batch * heads,)
    largest = [Launch(_largest, grid, common)] if scaled else []
    return y, amax, [*largest, Launch(_convert, grid, arguments)]
