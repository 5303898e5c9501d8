"""K and V brought into a path's parts before the attention kernel reads them.

One launch: each element is read once and each of its parts is written once. fp16 parts carry a
power-of-two scale for every block of tokens, so that no pass over the whole head comes first.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from autoprec.kernels.blocks import tile_parts
from autoprec.kernels.interface import Launch, Planes, Prepared, Requests, strides
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


@triton.jit
def _convert_tile(X, Y, INVERSE, LOST, KV_LENS, KV_STARTS, PAGES, sx_b, sx_h, sx_t, sx_d, tokens,
                  dim, padded_dim, plane, heads, blocks, OPERAND: tl.constexpr,
                  PARTS: tl.constexpr, SCALED: tl.constexpr, COUNT: tl.constexpr,
                  BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr):  # fmt: skip
    """A block of tokens of one head of X, to its planes in Y; zeros beyond a request's length."""
    head = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    t = block.to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    batch = head // heads
    length = tokens
    if KV_LENS is not None:
        length = tl.minimum(tl.load(KV_LENS + batch), tokens)
        if block * BLOCK_T >= length:  # no tile of the request
            return
    at = X + (head % heads).to(tl.int64) * sx_h
    if PAGE > 0:
        PAGES += tl.load(KV_STARTS + batch)
        page = tl.load(PAGES + t // PAGE, mask=t < length, other=0).to(tl.int64)
        rows = page * sx_b + (t % PAGE) * sx_t
    elif KV_STARTS is not None:
        rows = (tl.load(KV_STARTS + batch) + t) * sx_t
    else:
        rows = batch.to(tl.int64) * sx_b + t * sx_t
    x = tl.load(at + rows[:, None] + d[None, :] * sx_d,
                mask=(t < length)[:, None] & (d < dim)[None, :], other=0.0)  # fmt: skip
    parts, inverse = tile_parts(x, LOST, OPERAND, PARTS, SCALED, COUNT, 1)
    if SCALED:
        tl.store(INVERSE + tl.program_id(0), inverse)
    at = Y + (head.to(tl.int64) * tokens + t)[:, None] * padded_dim + d[None, :]
    inside = (t < tokens)[:, None] & (d < padded_dim)[None, :]
    tl.store(at, parts[0], mask=inside)
    if PARTS >= 2:
        tl.store(at + plane, parts[1], mask=inside)
    if PARTS >= 3:
        # twice a plane may be beyond int32
        tl.store(at + plane + plane, parts[2], mask=inside)


@triton.jit(do_not_specialize=["tokens", "blocks", "k_plane", "v_plane"])
def _convert(K, V, K_PLANES, V_PLANES, K_INVERSE, V_INVERSE, LOST, ONLY_IF, KV_LENS, KV_STARTS,
             PAGES, sk_b, sk_h, sk_t, sk_d,
             sv_b, sv_h, sv_t, sv_d, tokens, heads, blocks, k_dim, v_dim, k_padded, v_padded,
             k_plane, v_plane, OPERAND: tl.constexpr, PARTS: tl.constexpr, SCALED: tl.constexpr,
             COUNT: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
             BLOCK_DV: tl.constexpr, PAGE: tl.constexpr):  # fmt: skip
    """One program a block of tokens of a head of K or of V; grid (blocks * heads * batch, 2)."""
    if ONLY_IF is not None:
        if tl.load(ONLY_IF) == 0:
            return
    if tl.program_id(1) == 0:
        _convert_tile(K, K_PLANES, K_INVERSE, LOST, KV_LENS, KV_STARTS, PAGES, sk_b,
                      sk_h, sk_t, sk_d, tokens, k_dim, k_padded, k_plane, heads,
                      blocks, OPERAND, PARTS, SCALED, COUNT, BLOCK_T,
                      BLOCK_D, PAGE)  # fmt: skip
    else:
        _convert_tile(V, V_PLANES, V_INVERSE, LOST, KV_LENS, KV_STARTS, PAGES, sv_b,
                      sv_h, sv_t, sv_d, tokens, v_dim, v_padded, v_plane, heads,
                      blocks, OPERAND, PARTS, SCALED, COUNT, BLOCK_T,
                      BLOCK_DV, PAGE)  # fmt: skip


def convert(
    k: torch.Tensor,
    v: torch.Tensor,
    path: str,
    block: int,
    *,
    dim_multiple: int = 1,
    lost: torch.Tensor | None = None,
    only_if: torch.Tensor | None = None,
    requests: Requests | None = None,
) -> Prepared:
    """Plan the conversion of keys and values, in one launch.

    Args:
        k: ``[batch, heads, tokens, head_dim]``, fp32, bf16 or fp16, any strides.
        v: ``[batch, heads, tokens, head_dim_v]``, likewise.
        path: The precision path.
        block: Tokens that share a scale.
        dim_multiple: Head dims are padded with zeros to multiples of this.
        lost: int32 ``[1]``: where fp16 parts count the blocks that lost to fp16's range.
        only_if: That of ``Call``.
        requests: Of k and v that lie as it says: their planes are ``[parts, requests, heads,
            max_kv_len, dim]``, zero from a request's end to that of its block, and not written
            in blocks beyond.
    """
    batch, heads, tokens, _ = k.shape
    if requests is not None:
        batch, tokens = requests.kv_lens.shape[0], requests.max_kv_len
    scheme = PATHS[path]
    blocks = triton.cdiv(tokens, block)
    to_k, to_v = (_planes(x, batch, tokens, path, blocks, dim_multiple) for x in (k, v))
    arguments: dict[str, Any] = {
        "K": k, "V": v, "K_PLANES": to_k.data, "V_PLANES": to_v.data,
        "K_INVERSE": to_k.inverse, "V_INVERSE": to_v.inverse, "LOST": lost, "ONLY_IF": only_if,
        "KV_LENS": None if requests is None else requests.kv_lens,
        "KV_STARTS": None if requests is None else requests.kv_starts,
        "PAGES": None if requests is None else requests.pages,
        "PAGE": k.shape[2] if requests is not None and requests.pages is not None else 0,
        **strides("k", k), **strides("v", v),
        "tokens": tokens, "heads": heads, "blocks": blocks,
        "k_dim": k.shape[3], "v_dim": v.shape[3],
        "k_padded": to_k.data.shape[4], "v_padded": to_v.data.shape[4],
        "k_plane": to_k.data[0].numel(), "v_plane": to_v.data[0].numel(),
        "OPERAND": scheme.operand,
        "PARTS": scheme.parts,
        "SCALED": to_k.inverse is not None,
        "COUNT": lost is not None,
        "BLOCK_T": block,
        "BLOCK_D": triton.next_power_of_2(to_k.data.shape[4]),
        "BLOCK_DV": triton.next_power_of_2(to_v.data.shape[4]),
        "num_warps": 8,
        "num_stages": 2,
    }  # fmt: skip
    return Prepared(to_k, to_v, [Launch(_convert, (blocks * batch * heads, 2), arguments)])


def _planes(
    x: torch.Tensor, batch: int, tokens: int, path: str, blocks: int, dim_multiple: int
) -> Planes:
    """Where keys or values go, not filled yet."""
    heads, head_dim = x.shape[1], x.shape[3]
    scheme = PATHS[path]
    dim = triton.cdiv(head_dim, dim_multiple) * dim_multiple
    shape = (scheme.parts, batch, heads, tokens, dim)
    data = torch.empty(shape, dtype=OPERANDS[scheme.operand], device=x.device)
    inverse = None
    if scheme.operand == "fp16":
        inverse = torch.empty((batch, heads, blocks), dtype=torch.float32, device=x.device)
    return Planes(data, inverse)
