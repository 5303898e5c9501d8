"""Prefill and append: one block of queries against all keys it sees, softmax on the way."""

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
    weights,
)
from autoprec.kernels.interface import (
    DTYPES,
    Call,
    Kernel,
    Launch,
    Prepared,
    Target,
    converts,
    is_wide,
    run_launches,
    strides,
)
from autoprec.kernels.planes import convert, key_bytes
from autoprec.paths import PATHS
from autoprec.types import Config, Phase, Workload


@triton.jit
def _load(at, plane, rows, cols, ROWS_MASKED: tl.constexpr, COLS_MASKED: tl.constexpr,
          OPERAND: tl.constexpr, PARTS: tl.constexpr):  # fmt: skip
    """The parts of a tile, from their planes; rows and cols are masks, used where said."""
    mask = None
    other = None
    if ROWS_MASKED and COLS_MASKED:
        mask, other = rows & cols, 0.0
    elif ROWS_MASKED:
        mask, other = rows, 0.0
    elif COLS_MASKED:
        mask, other = cols, 0.0
    first = tl.load(at, mask=mask, other=other)
    if OPERAND == "fp32" or OPERAND == "tf32":
        first = first.to(tl.float32)  # 16-bit inputs are exact in both
    second, third = first, first
    if PARTS >= 2:
        second = tl.load(at + plane, mask=mask, other=other)
    if PARTS >= 3:
        third = tl.load(at + 2 * plane, mask=mask, other=other)
    return first, second, third


@triton.jit
def _tiles(q, scale, qk_scale, m, l, acc, K, V, K_INVERSE, V_INVERSE, k_plane, v_plane,
           sk_t, sk_d, sv_t, sv_d, first, last, kv_len, last_seen,
           OPERAND: tl.constexpr, PARTS: tl.constexpr, P_PARTS: tl.constexpr,
           SCALED: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
           SHIFT: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr,
           BLOCK_KV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
           WIDE: tl.constexpr):  # fmt: skip
    """Take the keys first ≤ j < last into the largest product m, the sum l and the output acc."""
    n, d, dv = tl.arange(0, BLOCK_KV), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    if WIDE:
        n, d, dv = n.to(tl.int64), d.to(tl.int64), dv.to(tl.int64)
    k_tile = n[None, :] * sk_t + d[:, None] * sk_d
    v_tile = n[:, None] * sv_t + dv[None, :] * sv_d
    for start in tl.range(first, last, BLOCK_KV):
        inside = start + n < kv_len
        k = _load(K + tl.cast(start, tl.int64) * sk_t + k_tile, k_plane, inside[None, :],
                  (d < HEAD_DIM)[:, None], MASKED, HEAD_DIM < BLOCK_D, OPERAND,
                  PARTS)  # fmt: skip
        s = tl.zeros([acc.shape[0], BLOCK_KV], tl.float32)
        s = products(q, k, s, OPERAND, PARTS, PARTS)
        tile_scale, v_inverse = scale, 1.0
        if MASKED:
            seen = inside[None, :]
            if CAUSAL:
                seen = seen & (start + n[None, :] <= last_seen[:, None])
            s = tl.where(seen, s, float("-inf"))
        largest = tl.max(s, 1)
        if SCALED:
            tile_scale = bounded(scale * tl.load(K_INVERSE + start // BLOCK_KV))
            # so that acc holds Σ p v, and not 2^SHIFT of it, which large values would overflow
            v_inverse = tl.load(V_INVERSE + start // BLOCK_KV) * 2.0**-SHIFT
            largest *= tile_scale
        m_new = tl.maximum(m, largest)
        p = weights(s, tile_scale, m_new, qk_scale, SHIFT, SCALED)
        shrink = tl.exp2((m - m_new) * qk_scale)
        l = l * shrink + tl.sum(p, 1)
        v = _load(V + tl.cast(start, tl.int64) * sv_t + v_tile, v_plane, inside[:, None],
                  (dv < HEAD_DIM_V)[None, :], MASKED, HEAD_DIM_V < BLOCK_DV, OPERAND,
                  PARTS)  # fmt: skip
        acc = add_values(p, v, acc * shrink[:, None], v_inverse, OPERAND, P_PARTS, PARTS, SCALED)
        m = m_new
    return m, l, acc


@triton.jit
def _count_far_below(V_INVERSE, tiles, LOST, P_PARTS: tl.constexpr):
    """Count the tiles of a head's values that lie too far below its largest."""
    unit = 0.0
    for first in tl.range(0, tiles, 128):
        j = first + tl.arange(0, 128)
        unit = tl.maximum(unit, tl.max(tl.load(V_INVERSE + j, mask=j < tiles, other=0.0), 0))
    for first in tl.range(0, tiles, 128):
        j = first + tl.arange(0, 128)
        inverse = tl.load(V_INVERSE + j, mask=j < tiles, other=0.0)
        count(tl.sum(far_below(inverse, unit, P_PARTS).to(tl.int32), 0), LOST)


@triton.jit(do_not_specialize=["q_len", "kv_len", "diagonal", "sl_b", "sl_h", "sl_t"])
def _forward(Q, K, V, O, LSE, K_INVERSE, V_INVERSE, LOST, ONLY_IF, k_plane, v_plane,
             sq_b, sq_h, sq_t, sq_d, sk_b, sk_h, sk_t, sk_d, sv_b, sv_h, sv_t, sv_d,
             so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t,
             q_heads, kv_heads, q_len, kv_len, diagonal, qk_scale,
             OPERAND: tl.constexpr, PARTS: tl.constexpr, P_PARTS: tl.constexpr,
             CAUSAL: tl.constexpr, SCALED: tl.constexpr, NEGATE: tl.constexpr, SHIFT: tl.constexpr,
             HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_Q: tl.constexpr,
             BLOCK_KV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
             WITH_LSE: tl.constexpr, WIDE: tl.constexpr, COUNT: tl.constexpr,
             GUARDED: tl.constexpr):  # fmt: skip
    """One program a block of queries of one head; grid (blocks * q_heads * batch,)."""
    if GUARDED:
        if tl.load(ONLY_IF) == 0:
            return
    blocks = tl.cdiv(q_len, BLOCK_Q)
    block = tl.program_id(0) % blocks
    if CAUSAL:
        block = blocks - 1 - block  # the longest rows first
    head = tl.program_id(0) // blocks % q_heads
    batch = (tl.program_id(0) // blocks // q_heads).to(tl.int64)
    kv_head = (head // (q_heads // kv_heads)).to(tl.int64)
    rows = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    d, dv = tl.arange(0, BLOCK_D).to(tl.int64), tl.arange(0, BLOCK_DV).to(tl.int64)

    q_at = Q + batch * sq_b + head.to(tl.int64) * sq_h
    q_at += rows.to(tl.int64)[:, None] * sq_t + d[None, :] * sq_d
    q = tl.load(q_at, mask=(rows < q_len)[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
    q, scale = query_parts(q, LOST, OPERAND, PARTS, SCALED, NEGATE, COUNT)
    if SCALED:
        tiles = tl.cdiv(kv_len, BLOCK_KV)
        K_INVERSE += (batch * kv_heads + kv_head) * tiles
        V_INVERSE += (batch * kv_heads + kv_head) * tiles
        if COUNT and block == 0:
            _count_far_below(V_INVERSE, tiles, LOST, P_PARTS)

    whole = kv_len  # keys that every row of the block sees
    last = kv_len  # keys that some row sees
    last_seen = rows
    if CAUSAL:
        last_seen = rows + diagonal
        whole = tl.minimum(kv_len, tl.maximum(block * BLOCK_Q + diagonal + 1, 0))
        last = tl.minimum(kv_len, tl.maximum(block * BLOCK_Q + BLOCK_Q + diagonal, 0))
    whole = whole // BLOCK_KV * BLOCK_KV

    m = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    l = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    k_base, v_base = K + batch * sk_b + kv_head * sk_h, V + batch * sv_b + kv_head * sv_h
    m, l, acc = _tiles(q, scale, qk_scale, m, l, acc, k_base, v_base, K_INVERSE, V_INVERSE,
                       k_plane, v_plane, sk_t, sk_d, sv_t, sv_d, 0, whole, kv_len, last_seen,
                       OPERAND, PARTS, P_PARTS, SCALED, False, CAUSAL, SHIFT, HEAD_DIM, HEAD_DIM_V,
                       BLOCK_KV, BLOCK_D, BLOCK_DV, WIDE)  # fmt: skip
    m, l, acc = _tiles(q, scale, qk_scale, m, l, acc, k_base, v_base, K_INVERSE, V_INVERSE,
                       k_plane, v_plane, sk_t, sk_d, sv_t, sv_d, whole, last, kv_len, last_seen,
                       OPERAND, PARTS, P_PARTS, SCALED, True, CAUSAL, SHIFT, HEAD_DIM, HEAD_DIM_V,
                       BLOCK_KV, BLOCK_D, BLOCK_DV, WIDE)  # fmt: skip

    l *= 2.0**-SHIFT
    if not SCALED:
        acc *= 2.0**-SHIFT

    # Rows are emptied by position, not by l == 0: a row of keys at -inf is NaN, as in a softmax.
    sees_any = last_seen >= 0
    out = tl.where(sees_any[:, None], acc / l[:, None], 0.0)
    o_at = O + batch * so_b + head.to(tl.int64) * so_h
    o_at += rows.to(tl.int64)[:, None] * so_t + dv[None, :] * so_d
    inside = (rows < q_len)[:, None] & (dv < HEAD_DIM_V)[None, :]
    tl.store(o_at, out.to(O.dtype.element_ty), mask=inside)
    if WITH_LSE:
        lse_at = LSE + batch * sl_b + head.to(tl.int64) * sl_h + rows.to(tl.int64) * sl_t
        lse = tl.where(sees_any, m * qk_scale + tl.log2(l), float("-inf"))
        tl.store(lse_at, lse, mask=rows < q_len)


def _prepare(
    k: torch.Tensor,
    v: torch.Tensor,
    path: str,
    config: Config,
    lost: torch.Tensor | None = None,
    only_if: torch.Tensor | None = None,
) -> Prepared:
    block = int(config["block_kv"])
    return Prepared(
        convert(k, path, block, lost=lost, only_if=only_if),
        convert(v, path, block, lost=lost, only_if=only_if),
    )


def _launches(call: Call, path: str, config: Config) -> list[Launch]:
    batch, q_heads, q_len, head_dim = call.q.shape
    scheme = PATHS[path]
    k, v, k_inverse, v_inverse = call.k, call.v, None, None
    k_plane = v_plane = 0
    launches: list[Launch] = []
    if converts(path, DTYPES[call.q.dtype]):
        prepared = call.prepared
        if prepared is None:
            prepared = _prepare(call.k, call.v, path, config, call.lost, call.only_if)
            launches = prepared.launches
        k, v = prepared.k.data[0], prepared.v.data[0]
        k_inverse, v_inverse = prepared.k.inverse, prepared.v.inverse
        k_plane, v_plane = k.numel(), v.numel()
    causal = call.diagonal is not None
    arguments: dict[str, Any] = {
        "Q": call.q, "K": k, "V": v, "O": call.out, "LSE": call.lse_place,
        "K_INVERSE": k_inverse, "V_INVERSE": v_inverse, "LOST": call.lost, "ONLY_IF": call.only_if,
        **strides("q", call.q), **strides("k", k), **strides("v", v), **strides("o", call.out),
        **strides("l", call.lse_place),
        "q_heads": q_heads,
        "kv_heads": k.shape[1],
        "q_len": q_len,
        "kv_len": k.shape[2],
        "diagonal": 0 if call.diagonal is None else call.diagonal,
        "qk_scale": base2_scale(call.sm_scale),
        "k_plane": k_plane,
        "v_plane": v_plane,
        "OPERAND": scheme.operand,
        "PARTS": scheme.parts,
        "P_PARTS": scheme.p_parts,
        "CAUSAL": causal,
        "SCALED": k_inverse is not None,
        "NEGATE": call.sm_scale < 0,
        "SHIFT": P_SHIFT_FP16 if scheme.operand == "fp16" else 0,
        "HEAD_DIM": head_dim,
        "HEAD_DIM_V": v.shape[3],
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_DV": max(16, triton.next_power_of_2(v.shape[3])),
        "WITH_LSE": call.lse is not None,
        "WIDE": is_wide(k, v),
        "COUNT": call.lost is not None,
        "GUARDED": call.only_if is not None,
        "BLOCK_Q": config["block_q"],
        "BLOCK_KV": config["block_kv"],
        "num_warps": config["num_warps"],
        "num_stages": config["num_stages"],
    }  # fmt: skip
    grid = (triton.cdiv(q_len, int(config["block_q"])) * q_heads * batch,)
    return [*launches, Launch(_forward, grid, arguments)]


def _run(call: Call, path: str, config: Config) -> None:
    run_launches(_launches(call, path, config))


# block_q, block_kv, num_warps, num_stages, by the bytes of all parts of a key's element. The first
# of each list fits on every chip that the kernel claims.
_Tiles = tuple[tuple[int, int, int, int], ...]
_TILES: dict[int, _Tiles] = {
    2: ((64, 64, 4, 2), (64, 64, 4, 3), (128, 128, 8, 2), (128, 64, 8, 3), (64, 32, 4, 3)),
    4: ((64, 32, 4, 2), (128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 4, 2)),
    6: ((32, 32, 4, 2), (64, 32, 4, 2), (128, 32, 8, 2)),
    8: ((32, 16, 4, 2), (64, 32, 8, 2), (128, 16, 8, 2)),
}
_TILES_ABOVE_128: dict[int, _Tiles] = {
    2: ((32, 32, 4, 2), (64, 64, 8, 2), (128, 64, 8, 2), (64, 32, 4, 2)),
    4: ((32, 16, 4, 2), (128, 32, 8, 2)),
    6: ((16, 16, 4, 2),),
    8: ((16, 16, 4, 2),),
}
# fp32 multiplies without tensor cores: other tiles keep its operands in registers
_TILES_FP32: _Tiles = ((32, 32, 4, 2), (32, 64, 8, 2), (64, 64, 16, 2), (16, 64, 4, 2))
_TILES_FP32_ABOVE_128: _Tiles = ((32, 16, 4, 2), (16, 32, 4, 2), (32, 32, 8, 2))


def _configs(path: str, workload: Workload, target: Target) -> Sequence[Config]:
    above = max(workload.head_dim, workload.head_dim_v) > 128
    if path == "fp32":
        tiles = _TILES_FP32_ABOVE_128 if above else _TILES_FP32
    else:
        tiles = (_TILES_ABOVE_128 if above else _TILES)[key_bytes(path)]
    names = ("block_q", "block_kv", "num_warps", "num_stages")
    return [dict(zip(names, tile, strict=True)) for tile in tiles]


KERNELS = (
    Kernel(
        name="triton-prefill",
        device="triton",
        paths=tuple(PATHS),
        phases=(Phase.PREFILL, Phase.APPEND),
        architectures=("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942"),
        converts=converts,
        configs=_configs,
        run=_run,
        launches=_launches,
        prepare=_prepare,
    ),
)
