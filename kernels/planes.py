"""K and V brought into a path's parts before the attention kernel reads them.

One launch: each element is read once and each of its parts is written once. fp16 parts carry a
power-of-two scale for every block of tokens, so that no pass over the whole head comes first.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from autoprec.kernels.blocks import tile_parts
from autoprec.kernels.interface import (
    DTYPES,
    Halves,
    Launch,
    Planes,
    Prepared,
    Requests,
    converts,
    strides,
)
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
def _convert_tile(X, Y, INVERSE, FACTORS, LOST, KV_LENS, KV_STARTS, PAGES, sx_b, sx_h, sx_t, sx_d,
                  sf_b, sf_h, sf_t, half, tokens, room, dim, padded_dim, plane, heads, blocks,
                  OPERAND: tl.constexpr, PARTS: tl.constexpr, SCALED: tl.constexpr,
                  HALVES: tl.constexpr, COUNT: tl.constexpr, BLOCK_T: tl.constexpr,
                  BLOCK_D: tl.constexpr, PAGE: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """A block of tokens of one head of X, to its planes in Y; nothing beyond a request's end.

    With pages, tokens are brought together: Y has none. ROWS: Y has a row for each request.
    """
    head = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    t = block.to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    batch = (head // heads).to(tl.int64)
    head = (head % heads).to(tl.int64)
    length = tokens
    if KV_LENS is not None:
        length = tl.minimum(tl.load(KV_LENS + batch), tokens)
        if (block > 0) & (block * BLOCK_T >= length):  # none of the request's, which has one always
            return
    row, to_first = batch, batch * 0
    if KV_STARTS is not None:
        start = tl.load(KV_STARTS + batch).to(tl.int64)
        row = batch * 0
        to_first = start
        if PAGE > 0:
            row = tl.load(PAGES + start + t // PAGE, mask=t < length, other=0).to(tl.int64)
            to_first = start * PAGE
    token = t
    if PAGE > 0:
        token = t % PAGE
    elif KV_STARTS is not None:
        token = start + t
    inside = (t < length)[:, None] & (d < dim)[None, :]
    at = X + head * sx_h + (row * sx_b + token * sx_t)[:, None] + d[None, :] * sx_d
    x = tl.load(at, mask=inside, other=0.0)
    if HALVES:
        x = x.to(tl.float32)
        if PARTS >= 2:
            x += tl.load(at + half, mask=inside, other=0.0)
        factors = FACTORS + head * sf_h + row * sf_b + token * sf_t
        x *= tl.load(factors, mask=t < length, other=1.0)[:, None]
    parts, inverse = tile_parts(x, LOST, OPERAND, PARTS, SCALED, COUNT, 1)
    if SCALED:
        tl.store(INVERSE + tl.program_id(0), inverse)
    if ROWS:
        to = ((batch * heads + head) * room + t) * padded_dim
    else:
        to = (head * room + to_first + t) * padded_dim
    at = Y + to[:, None] + d[None, :]
    inside = (t < length)[:, None] & (d < padded_dim)[None, :]
    tl.store(at, parts[0], mask=inside)
    if PARTS >= 2:
        tl.store(at + plane, parts[1], mask=inside)
    if PARTS >= 3:
        # twice a plane may be beyond int32
        tl.store(at + plane + plane, parts[2], mask=inside)


@triton.jit(do_not_specialize=["tokens", "room", "blocks", "k_plane", "v_plane"])
def _convert(K, V, K_PLANES, V_PLANES, K_INVERSE, V_INVERSE, K_FACTORS, V_FACTORS, LOST, ONLY_IF,
             KV_LENS, KV_STARTS, PAGES, sk_b, sk_h, sk_t, sk_d, sv_b, sv_h, sv_t, sv_d,
             sf_b, sf_h, sf_t, k_half, v_half, tokens, room, heads, blocks, k_dim, v_dim, k_padded,
             v_padded, k_plane, v_plane, OPERAND: tl.constexpr, PARTS: tl.constexpr,
             SCALED: tl.constexpr, HALVES: tl.constexpr, COUNT: tl.constexpr,
             BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
             PAGE: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """One program a block of tokens of a head of K or of V; grid (blocks * heads * batch, 2)."""
    if ONLY_IF is not None:
        if tl.load(ONLY_IF) == 0:
            return
    if tl.program_id(1) == 0:
        _convert_tile(K, K_PLANES, K_INVERSE, K_FACTORS, LOST, KV_LENS, KV_STARTS, PAGES, sk_b,
                      sk_h, sk_t, sk_d, sf_b, sf_h, sf_t, k_half, tokens, room, k_dim, k_padded,
                      k_plane, heads, blocks, OPERAND, PARTS, SCALED, HALVES, COUNT, BLOCK_T,
                      BLOCK_D, PAGE, ROWS)  # fmt: skip
    else:
        _convert_tile(V, V_PLANES, V_INVERSE, V_FACTORS, LOST, KV_LENS, KV_STARTS, PAGES, sv_b,
                      sv_h, sv_t, sv_d, sf_b, sf_h, sf_t, v_half, tokens, room, v_dim, v_padded,
                      v_plane, heads, blocks, OPERAND, PARTS, SCALED, HALVES, COUNT, BLOCK_T,
                      BLOCK_DV, PAGE, ROWS)  # fmt: skip


def rows(requests: Requests | None, page: int) -> bool:
    """Whether planes have a row for each request, of as many tokens as the longest may have.

    Those of ragged K and V have not, and those of pages have where that takes less memory: there
    may be far more places for pages than a batch fills.
    """
    if requests is None or requests.kv_starts is None:
        return True
    if requests.pages is None:
        return False
    return requests.kv_lens.shape[0] * requests.max_kv_len <= requests.pages.shape[0] * page


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
    halves: Halves | None = None,
) -> Prepared:
    """Plan the conversion of keys and values, in one launch.

    Args:
        k: ``[batch, heads, tokens, head_dim]``, fp32, bf16 or fp16, any strides.
        v: ``[batch, heads, tokens, head_dim_v]``, likewise.
        path: The precision path. What is of its operand type already is copied as it is.
        block: Tokens that share a scale, counted from the first of each request.
        dim_multiple: Head dims are padded with zeros to multiples of this.
        lost: int32 ``[1]``: where fp16 parts count the blocks that lost to fp16's range.
        only_if: That of ``Call``.
        requests: Of k and v that lie as it says. Without ``rows`` of their own the planes are
            ``[parts, 1, heads, tokens, dim]``, each request's from its kv_starts on: of tokens, or
            of pages. What is beyond a request's end is not written.
        halves: That of ``Call``, which k and v belong to; their planes are put together, and their
            tokens' factors give way to those of blocks.
    """
    heads, tokens = k.shape[1], k.shape[2]
    batch, room = k.shape[0], tokens
    page = 0
    if requests is not None:
        batch, tokens = requests.kv_lens.shape[0], requests.max_kv_len
        if requests.pages is not None:
            page = k.shape[2]
            room = requests.pages.shape[0] * page
    by_rows = rows(requests, page)
    if by_rows:
        room = tokens  # k may have room for many more, as a cache has
    scheme = PATHS[path]
    blocks = triton.cdiv(tokens, block)
    scaled = scheme.operand == "fp16" and (halves is not None or converts(path, DTYPES[k.dtype]))

    def planes(x: torch.Tensor) -> Planes:
        dim = triton.cdiv(x.shape[3], dim_multiple) * dim_multiple
        shape = (scheme.parts, batch if by_rows else 1, heads, max(room, 1), dim)
        data = torch.empty(shape, dtype=OPERANDS[scheme.operand], device=x.device)
        if not scaled:
            return Planes(data, None)
        inverse = torch.empty((batch, heads, blocks), dtype=torch.float32, device=x.device)
        return Planes(data, inverse)

    to_k, to_v = planes(k), planes(v)
    factors = None if halves is None else halves.inverse.unbind()
    arguments: dict[str, Any] = {
        "K": k, "V": v, "K_PLANES": to_k.data, "V_PLANES": to_v.data,
        "K_INVERSE": to_k.inverse, "V_INVERSE": to_v.inverse,
        "K_FACTORS": None if factors is None else factors[0],
        "V_FACTORS": None if factors is None else factors[1],
        "LOST": lost, "ONLY_IF": only_if,
        "KV_LENS": None if requests is None else requests.kv_lens,
        "KV_STARTS": None if requests is None else requests.kv_starts,
        "PAGES": None if requests is None else requests.pages,
        "PAGE": page,
        "ROWS": by_rows,
        **strides("k", k), **strides("v", v),
        **({"sf_b": 0, "sf_h": 0, "sf_t": 0} if factors is None else strides("f", factors[0])),
        "k_half": 0 if halves is None else halves.k.stride(0),
        "v_half": 0 if halves is None else halves.v.stride(0),
        "tokens": tokens, "room": room, "heads": heads, "blocks": blocks,
        "k_dim": k.shape[3], "v_dim": v.shape[3],
        "k_padded": to_k.data.shape[4], "v_padded": to_v.data.shape[4],
        "k_plane": to_k.data[0].numel(), "v_plane": to_v.data[0].numel(),
        "OPERAND": scheme.operand,
        "PARTS": scheme.parts,
        "SCALED": scaled,
        "HALVES": halves is not None,
        "COUNT": lost is not None,
        "BLOCK_T": block,
        "BLOCK_D": triton.next_power_of_2(to_k.data.shape[4]),
        "BLOCK_DV": triton.next_power_of_2(to_v.data.shape[4]),
        "num_warps": 8,
        "num_stages": 2,
    }  # fmt: skip
    made = ("K_PLANES", "V_PLANES", "K_INVERSE", "V_INVERSE")
    grid = (blocks * batch * heads, 2)
    return Prepared(to_k, to_v, [Launch(_convert, grid, arguments, temporary=made)])
