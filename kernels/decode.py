"""Decode: few queries against a long cache, the keys split over programs and merged after.

The query heads that share a KV head are packed into one tile, so that K and V are read once.
Operands are rounded in registers: a pass of its own would cost what the kernel itself costs.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from autoprec.kernels.blocks import (
    P_SHIFT_FP16,
    add_values,
    base2_scale,
    bounded,
    count,
    far_below,
    products,
    query_parts,
    tile_parts,
    weights,
)
from autoprec.kernels.interface import (
    DTYPES,
    Call,
    Kernel,
    Launch,
    Target,
    converts,
    is_wide,
    run_launches,
    strides,
)
from autoprec.kernels.merge import merge
from autoprec.paths import PATHS
from autoprec.types import Config, Phase, Workload

_MAX_ROWS = 64


@triton.jit(do_not_specialize=["q_len", "kv_len", "diagonal", "split", "sl_b", "sl_h", "sl_t"])
def _split(Q, K, V, O, M, L, LOST, ONLY_IF, sq_b, sq_h, sq_t, sq_d, sk_b, sk_h, sk_t, sk_d,
           sv_b, sv_h, sv_t, sv_d, so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t,
           kv_heads, q_len, kv_len, diagonal, split, qk_scale,
           OPERAND: tl.constexpr, PARTS: tl.constexpr, P_PARTS: tl.constexpr,
           CAUSAL: tl.constexpr, SCALED: tl.constexpr, NEGATE: tl.constexpr,
           SHIFT: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
           HEAD_DIM_V: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_KV: tl.constexpr,
           BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, WIDE: tl.constexpr,
           PARTIAL: tl.constexpr, WITH_LSE: tl.constexpr, COUNT: tl.constexpr,
           GUARDED: tl.constexpr):  # fmt: skip
    """Keys part*split ≤ j < (part+1)*split; grid (splits * row blocks * kv_heads * batch,).

    PARTIAL writes acc, m and l of the split for merge.py; otherwise the one split is all, and O
    and M are the call's out and lse.
    """
    if GUARDED:
        if tl.load(ONLY_IF) == 0:
            return
    splits = tl.cdiv(kv_len, split)
    row_blocks = tl.cdiv(q_len * GROUP, BLOCK_ROWS)
    part = tl.program_id(0) % splits
    row_block = tl.program_id(0) // splits % row_blocks
    kv_head = (tl.program_id(0) // splits // row_blocks % kv_heads).to(tl.int64)
    batch = (tl.program_id(0) // splits // row_blocks // kv_heads).to(tl.int64)

    rows = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # token by token, heads within
    token = rows // GROUP
    head = kv_head * GROUP + rows % GROUP
    real = rows < q_len * GROUP
    n, d, dv = tl.arange(0, BLOCK_KV), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    if WIDE:
        n, d, dv = n.to(tl.int64), d.to(tl.int64), dv.to(tl.int64)
    q_at = Q + batch * sq_b + head[:, None] * sq_h + token.to(tl.int64)[:, None] * sq_t
    q = tl.load(q_at + d.to(tl.int64)[None, :] * sq_d, mask=real[:, None] & (d < HEAD_DIM)[None, :],
                other=0.0)  # fmt: skip
    q, scale = query_parts(q, LOST, OPERAND, PARTS, SCALED, NEGATE, COUNT)

    m = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    l = tl.zeros([BLOCK_ROWS], tl.float32)
    acc = tl.zeros([BLOCK_ROWS, BLOCK_DV], tl.float32)
    k_tile = n[None, :] * sk_t + d[:, None] * sk_d
    v_tile = n[:, None] * sv_t + dv[None, :] * sv_d
    k_base, v_base = K + batch * sk_b + kv_head * sk_h, V + batch * sv_b + kv_head * sv_h
    largest, least = 0.0, float("inf")
    first = part * split
    last = tl.minimum(first + split, kv_len)
    for start in tl.range(first, last, BLOCK_KV):
        inside = start + n < last
        k = tl.load(k_base + tl.cast(start, tl.int64) * sk_t + k_tile,
                    mask=inside[None, :] & (d < HEAD_DIM)[:, None], other=0.0)  # fmt: skip
        k, k_inverse = tile_parts(k, LOST, OPERAND, PARTS, SCALED, COUNT, 0)
        s = tl.zeros([BLOCK_ROWS, BLOCK_KV], tl.float32)
        s = products(q, k, s, OPERAND, PARTS, PARTS)
        seen = inside[None, :]
        if CAUSAL:
            seen = seen & (start + n[None, :] <= (token + diagonal)[:, None])
        s = tl.where(seen, s, float("-inf"))
        tile_scale, largest_product = scale, tl.max(s, 1)
        if SCALED:
            tile_scale = bounded(scale * k_inverse)
            largest_product *= tile_scale
        m_new = tl.maximum(m, largest_product)
        origin = tl.where(m_new == float("-inf"), 0.0, m_new)  # a row may see nothing of a split
        p = weights(s, tile_scale, origin, qk_scale, SHIFT, SCALED)
        shrink = tl.exp2((m - origin) * qk_scale)
        l = l * shrink + tl.sum(p, 1)
        v = tl.load(v_base + tl.cast(start, tl.int64) * sv_t + v_tile,
                    mask=inside[:, None] & (dv < HEAD_DIM_V)[None, :], other=0.0)  # fmt: skip
        v, v_inverse = tile_parts(v, LOST, OPERAND, PARTS, SCALED, COUNT, 1)
        if SCALED:
            if COUNT:
                largest = tl.maximum(largest, v_inverse)
                least = tl.where(v_inverse > 2.0**-126, tl.minimum(least, v_inverse), least)
            v_inverse *= 2.0**-SHIFT  # acc holds Σ p v, and not 2^SHIFT of it, which may overflow
        acc = add_values(p, v, acc * shrink[:, None], v_inverse, OPERAND, P_PARTS, PARTS, SCALED)
        m = m_new

    l *= 2.0**-SHIFT
    if not SCALED:
        acc *= 2.0**-SHIFT
    elif COUNT:
        count(far_below(least, largest, P_PARTS).to(tl.int32), LOST)
    q_heads = kv_heads * GROUP
    value_inside = real[:, None] & (dv < HEAD_DIM_V)[None, :]
    if PARTIAL:
        place = ((batch * q_heads + head) * q_len + token) * splits + part
        tl.store(O + place[:, None] * HEAD_DIM_V + dv[None, :], acc, mask=value_inside)
        tl.store(M + place, m, mask=real)
        tl.store(L + place, l, mask=real)
    else:
        sees_any = (token + diagonal >= 0) | (not CAUSAL)
        out = tl.where(sees_any[:, None], acc / l[:, None], 0.0)
        o_at = O + batch * so_b + head[:, None] * so_h + token.to(tl.int64)[:, None] * so_t
        o_at += dv.to(tl.int64)[None, :] * so_d
        tl.store(o_at, out.to(O.dtype.element_ty), mask=value_inside)
        if WITH_LSE:
            lse = tl.where(sees_any, m * qk_scale + tl.log2(l), float("-inf"))
            lse_at = M + batch * sl_b + head * sl_h + token.to(tl.int64) * sl_t
            tl.store(lse_at, lse, mask=real)


def _launches(call: Call, path: str, config: Config) -> list[Launch]:
    batch, q_heads, q_len, head_dim = call.q.shape
    kv_heads, kv_len, head_dim_v = call.v.shape[1:]
    group = q_heads // kv_heads
    scheme = PATHS[path]
    split = int(config["split"])
    splits = triton.cdiv(kv_len, split)
    block_rows = min(_MAX_ROWS, max(16, triton.next_power_of_2(q_len * group)))
    partial = splits > 1
    acc, m, l = call.out, call.lse_place, None
    if partial:
        shape = (batch, q_heads, q_len, splits)
        acc = torch.empty((*shape, head_dim_v), dtype=torch.float32, device=call.q.device)
        m = torch.empty(shape, dtype=torch.float32, device=call.q.device)
        l = torch.empty_like(m)
    arguments: dict[str, Any] = {
        "Q": call.q, "K": call.k, "V": call.v, "O": acc, "M": m, "L": l, "LOST": call.lost,
        "ONLY_IF": call.only_if,
        **strides("q", call.q), **strides("k", call.k), **strides("v", call.v),
        **strides("o", call.out), **strides("l", call.lse_place),
        "kv_heads": kv_heads,
        "q_len": q_len,
        "kv_len": kv_len,
        "diagonal": 0 if call.diagonal is None else call.diagonal,
        "split": split,
        "qk_scale": base2_scale(call.sm_scale),
        "OPERAND": scheme.operand,
        "PARTS": scheme.parts,
        "P_PARTS": scheme.p_parts,
        # a single query aligned bottom-right sees every key: no mask to compute
        "CAUSAL": call.diagonal is not None and call.diagonal < kv_len - 1,
        "SCALED": scheme.operand == "fp16" and converts(path, DTYPES[call.q.dtype]),
        "NEGATE": call.sm_scale < 0,
        "SHIFT": P_SHIFT_FP16 if scheme.operand == "fp16" else 0,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "HEAD_DIM_V": head_dim_v,
        "BLOCK_ROWS": block_rows,
        "BLOCK_KV": config["block_kv"],
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_DV": max(16, triton.next_power_of_2(head_dim_v)),
        "WIDE": is_wide(call.k, call.v),
        "PARTIAL": partial,
        "COUNT": call.lost is not None,
        "GUARDED": call.only_if is not None,
        "WITH_LSE": call.lse is not None,
        "num_warps": config["num_warps"],
        "num_stages": config["num_stages"],
    }  # fmt: skip
    row_blocks = triton.cdiv(q_len * group, block_rows)
    grid = (splits * row_blocks * kv_heads * batch,)
    launches = [Launch(_split, grid, arguments)]
    return [*launches, merge(call, acc, m, l, splits)] if partial else launches


def _run(call: Call, path: str, config: Config) -> None:
    run_launches(_launches(call, path, config))


# block_kv, num_warps, num_stages; the first of each list fits on every chip that the kernel claims
_TILES = ((32, 4, 2), (64, 4, 2), (64, 8, 3), (32, 4, 4), (32, 2, 3))
_TILES_ABOVE_128 = ((16, 4, 2), (16, 8, 2), (32, 8, 2), (64, 8, 2))
_WAVES = (1, 2, 4, 8)  # programs for each multiprocessor


def _configs(path: str, workload: Workload, target: Target) -> Sequence[Config]:
    heads = workload.batch * workload.kv_heads
    splits = {
        max(128, triton.next_power_of_2(triton.cdiv(workload.kv_len * heads, programs)))
        for programs in (target.units * waves for waves in _WAVES)
    }
    above = max(workload.head_dim, workload.head_dim_v) > 128
    return [
        {"block_kv": block_kv, "split": split, "num_warps": warps, "num_stages": stages}
        for split in sorted(splits)
        for block_kv, warps, stages in (_TILES_ABOVE_128 if above else _TILES)
    ]


KERNELS = (
    Kernel(
        name="triton-decode",
        device="triton",
        paths=tuple(PATHS),
        phases=(Phase.DECODE,),
        architectures=("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942"),
        converts=converts,
        configs=_configs,
        run=_run,
        launches=_launches,
    ),
)
