"""New keys and values into a cache, in its form, wherever its tokens lie: one launch.

A cache of ``Storage.PLANES`` has a scale for every token of a head, so that appending never touches
what is there: its largest element comes into [2^14, 2^15), and two fp16 parts hold 22 bits of it.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from autoprec.kernels.blocks import count, finite_magnitude, fp16_scale, lost_to_zero, split
from autoprec.kernels.interface import Halves, Launch, Requests, strides
from autoprec.kernels.tiles import request

_ELEMENTS = 4096  # of K that a program brings in, at most


@triton.jit
def _store(X, CACHE, INVERSE, LOST, x_at, at, inverse_at, inside, sx_d, sc_d, plane,
           FORM: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
           COUNT: tl.constexpr):  # fmt: skip
    """Bring rows of X to their places in the cache; inside says which."""
    d = tl.arange(0, BLOCK).to(tl.int64)
    mask = inside[:, None] & (d < DIM)[None, :]
    x = tl.load(X + x_at[:, None] + d[None, :] * sx_d, mask=mask, other=0.0)
    at = CACHE + at[:, None] + d[None, :] * sc_d
    magnitude = finite_magnitude(x)
    if FORM == "halves":
        scale, inverse = fp16_scale(tl.max(magnitude, 1))
        tl.store(INVERSE + inverse_at, inverse, mask=inside)
        lost = lost_to_zero(magnitude, scale[:, None])
        parts = split(x.to(tl.float32) * scale[:, None], "fp16", 2)
        tl.store(at, parts[0], mask=mask)
        tl.store(at + plane, parts[1], mask=mask)
    else:
        stored = x.to(CACHE.dtype.element_ty)
        held = finite_magnitude(stored)
        lost = (magnitude > 0.0) & (held == 0.0)  # to zero, or to infinity
        tl.store(at, stored, mask=mask)
    if COUNT:
        count(tl.sum(tl.max(lost.to(tl.int32), 1), 0), LOST)


@triton.jit(do_not_specialize=["tokens", "capacity"])
def _append(K, V, K_CACHE, V_CACHE, K_INVERSE, V_INVERSE, Q_STARTS, KV_LENS, KV_STARTS, PAGES,
            OWNERS, POSITIONS, LOST, sk_b, sk_h, sk_t, sk_d, sv_b, sv_h, sv_t, sv_d,
            sck_b, sck_h, sck_t, sck_d, scv_b, scv_h, scv_t, scv_d, si_b, si_h, si_t,
            k_plane, v_plane, kv_heads, tokens, capacity,
            FORM: tl.constexpr, PAGE: tl.constexpr, HEAD_DIM: tl.constexpr,
            HEAD_DIM_V: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
            BLOCK_DV: tl.constexpr, COUNT: tl.constexpr):  # fmt: skip
    """One program some tokens of a head of a request; grid (blocks * kv_heads * batch,).

    With OWNERS, every token says what request it belongs to and where in it, and there is one row.
    """
    blocks = tl.cdiv(tokens, BLOCK_T)
    t = tl.program_id(0) % blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    head = (tl.program_id(0) // blocks % kv_heads).to(tl.int64)
    batch = (tl.program_id(0) // blocks // kv_heads).to(tl.int64)
    x_row, x_token = batch, t
    if OWNERS is not None:
        owner = tl.load(OWNERS + t, mask=t < tokens, other=-1).to(tl.int64)
        position = tl.load(POSITIONS + t, mask=t < tokens, other=-1)
        inside = owner >= 0
    else:
        x_row, first, its_tokens, _, diagonal = request(
            batch, Q_STARTS, KV_LENS, tokens, 0x7FFFFFFF, 0
        )
        owner = batch + t * 0
        position = t + diagonal
        x_token = t + first
        inside = t < its_tokens
    inside = inside & (position >= 0) & (position < capacity)
    row, token = owner, position.to(tl.int64)
    if PAGE > 0:
        table = tl.load(KV_STARTS + owner, mask=inside, other=0)
        row = tl.load(PAGES + table + position // PAGE, mask=inside, other=0).to(tl.int64)
        token = (position % PAGE).to(tl.int64)
    elif KV_STARTS is not None:
        row = owner * 0
        token += tl.load(KV_STARTS + owner, mask=inside, other=0)
    inverse_at = token
    if FORM == "halves":
        inverse_at = row * si_b + head * si_h + token * si_t
    x_token = x_token.to(tl.int64)
    _store(K, K_CACHE, K_INVERSE, LOST, x_row * sk_b + head * sk_h + x_token * sk_t,
           row * sck_b + head * sck_h + token * sck_t, inverse_at, inside, sk_d, sck_d, k_plane,
           FORM, HEAD_DIM, BLOCK_D, COUNT)  # fmt: skip
    _store(V, V_CACHE, V_INVERSE, LOST, x_row * sv_b + head * sv_h + x_token * sv_t,
           row * scv_b + head * scv_h + token * scv_t, inverse_at, inside, sv_d, scv_d, v_plane,
           FORM, HEAD_DIM_V, BLOCK_DV, COUNT)  # fmt: skip


def append(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    requests: Requests,
    *,
    halves: Halves | None = None,
    owners: Tensor | None = None,
    positions: Tensor | None = None,
    lost: Tensor | None = None,
) -> Launch:
    """Plan how new tokens come into a cache. Nothing beyond max_kv_len is written.

    Programs run in any order: no two tokens may come to one place, and none may lie in the cache.

    Args:
        k: ``[batch, kv_heads, tokens, head_dim]``, or with q_starts or owners ``[1, kv_heads,
            total, head_dim]``; fp32, bf16 or fp16, any strides.
        v: Likewise, ``head_dim_v`` wide.
        k_cache: As ``Call.k``, which k is rounded to the type of.
        v_cache: As ``Call.v``.
        requests: As the attention that follows takes them: kv_lens with the new tokens, which are
            the last of each request, as many as its queries.
        halves: Where the cache has two planes; k_cache and v_cache are the high ones.
        owners: int32 ``[total]``, the request of each token, below zero for none; then kv_lens and
            q_starts say nothing.
        positions: int32 ``[total]``, where in its request each token comes; with owners.
        lost: int32 ``[1]``: where tokens of a head are counted of which an element became zero, or
            infinite.
    """
    head_dim, head_dim_v = k.shape[3], v.shape[3]
    block_d, block_dv = (max(16, triton.next_power_of_2(dim)) for dim in (head_dim, head_dim_v))
    tokens = requests.max_q_len if owners is None else k.shape[2]
    block_t = min(triton.next_power_of_2(max(tokens, 1)), _ELEMENTS // max(block_d, block_dv))
    k_inverse, v_inverse = (None, None) if halves is None else halves.inverse.unbind()
    arguments: dict[str, Any] = {
        "K": k, "V": v, "K_CACHE": k_cache, "V_CACHE": v_cache,
        "K_INVERSE": k_inverse, "V_INVERSE": v_inverse,
        "Q_STARTS": requests.q_starts, "KV_LENS": requests.kv_lens,
        "KV_STARTS": requests.kv_starts, "PAGES": requests.pages,
        "OWNERS": owners, "POSITIONS": positions, "LOST": lost,
        **strides("k", k), **strides("v", v), **strides("ck", k_cache), **strides("cv", v_cache),
        "si_b": None, "si_h": None, "si_t": None,
        **({} if k_inverse is None else strides("i", k_inverse)),
        "k_plane": 0 if halves is None else halves.k.stride(0),
        "v_plane": 0 if halves is None else halves.v.stride(0),
        "kv_heads": k.shape[1],
        "tokens": tokens,
        "capacity": requests.max_kv_len,
        "FORM": "plain" if halves is None else "halves",
        "PAGE": 0 if requests.pages is None else k_cache.shape[2],
        "HEAD_DIM": head_dim,
        "HEAD_DIM_V": head_dim_v,
        "BLOCK_T": block_t,
        "BLOCK_D": block_d,
        "BLOCK_DV": block_dv,
        "COUNT": lost is not None,
        "num_warps": 4,
        "num_stages": 2,
    }  # fmt: skip
    batch = 1 if owners is not None else requests.kv_lens.shape[0]
    return Launch(_append, (triton.cdiv(tokens, block_t) * k.shape[1] * batch,), arguments)


def new_halves(k_shape: tuple[int, ...], v_shape: tuple[int, ...], device: torch.device) -> Halves:
    """Memory for two planes of K and V ``[rows, kv_heads, tokens, dim]``, with nothing in it."""
    k, v = (
        torch.empty((2, *shape), dtype=torch.float16, device=device) for shape in (k_shape, v_shape)
    )
    return Halves(k, v, torch.empty((2, *k_shape[:3]), dtype=torch.float32, device=device))
