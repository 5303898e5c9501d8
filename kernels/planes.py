"""K and V brought into a path's parts before the attention kernel reads them.

One launch: each element is read once and each of its parts is written once. fp16 parts carry a
power-of-two scale for every block of tokens, so that no pass over the whole head comes first.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from autoprec.kernels.blocks import tile_parts
from autoprec.kernels.interface import Launch, Planes, strides
from autoprec.paths import PATHS

OPERANDS = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def key_bytes(path: str) -> int:
    """Bytes that all parts of one element of K take."""
    return PATHS[path].parts * OPERANDS[PATHS[path].operand].itemsize


@triton.jit(do_not_specialize=["tokens", "blocks", "padded_tokens", "plane"])
def _convert(X, Y, INVERSE, LOST, ONLY_IF, sx_b, sx_h, sx_t, sx_d, tokens, head_dim, heads, blocks,
             padded_tokens, padded_dim, plane, OPERAND: tl.constexpr, PARTS: tl.constexpr,
             SCALED: tl.constexpr, COUNT: tl.constexpr, BLOCK_T: tl.constexpr,
             BLOCK_D: tl.constexpr):  # fmt: skip
    """One program a block of tokens of one head; grid (blocks * heads * batch,)."""
    if ONLY_IF is not None:
        if tl.load(ONLY_IF) == 0:
            return
    head = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    t = block.to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    base = X + (head // heads).to(tl.int64) * sx_b + (head % heads).to(tl.int64) * sx_h
    x = tl.load(base + t[:, None] * sx_t + d[None, :] * sx_d,
                mask=(t < tokens)[:, None] & (d < head_dim)[None, :], other=0.0)  # fmt: skip
    parts, inverse = tile_parts(x, LOST, OPERAND, PARTS, SCALED, COUNT, 1)
    if SCALED:
        tl.store(INVERSE + tl.program_id(0), inverse)
    at = Y + (head.to(tl.int64) * padded_tokens + t)[:, None] * padded_dim + d[None, :]
    inside = (t < padded_tokens)[:, None] & (d < padded_dim)[None, :]
    tl.store(at, parts[0], mask=inside)
    if PARTS >= 2:
        tl.store(at + plane, parts[1], mask=inside)
    if PARTS >= 3:
        tl.store(at + 2 * plane, parts[2], mask=inside)


def convert(
    x: torch.Tensor,
    path: str,
    block: int,
    *,
    tokens_multiple: int = 1,
    dim: int | None = None,
    lost: torch.Tensor | None = None,
    only_if: torch.Tensor | None = None,
) -> Planes:
    """Plan the conversion of keys or values.

    Args:
        x: ``[batch, heads, tokens, head_dim]``, fp32, bf16 or fp16, any strides.
        path: The precision path.
        block: Tokens that share a scale.
        tokens_multiple: Tokens are padded with zeros to a multiple of this.
        dim: head_dim is padded with zeros to this; None: it is not.
        lost: int32 ``[1]``: where fp16 parts count the blocks that lost to fp16's range.
        only_if: That of ``Call``.
    """
    batch, heads, tokens, head_dim = x.shape
    scheme = PATHS[path]
    padded_tokens = triton.cdiv(tokens, tokens_multiple) * tokens_multiple
    padded_dim = head_dim if dim is None else dim
    blocks = triton.cdiv(padded_tokens, block)
    shape = (scheme.parts, batch, heads, padded_tokens, padded_dim)
    data = torch.empty(shape, dtype=OPERANDS[scheme.operand], device=x.device)
    inverse = None
    if scheme.operand == "fp16":
        inverse = torch.empty((batch, heads, blocks), dtype=torch.float32, device=x.device)
    arguments: dict[str, Any] = {
        "X": x,
        "Y": data,
        "INVERSE": inverse,
        "LOST": lost,
        "ONLY_IF": only_if,
        **strides("x", x),
        "tokens": tokens,
        "head_dim": head_dim,
        "heads": heads,
        "blocks": blocks,
        "padded_tokens": padded_tokens,
        "padded_dim": padded_dim,
        "plane": data[0].numel(),
        "OPERAND": scheme.operand,
        "PARTS": scheme.parts,
        "SCALED": inverse is not None,
        "COUNT": lost is not None,
        "BLOCK_T": block,
        "BLOCK_D": triton.next_power_of_2(padded_dim),
        "num_warps": 8,
        "num_stages": 2,
    }
    return Planes(data, inverse, [Launch(_convert, (blocks * batch * heads,), arguments)])
