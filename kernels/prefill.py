"""Prefill and append: one block of queries against all keys it sees, softmax on the way."""

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

from autoprec.kernels.blocks import (
    LOG2_E,
    P_SHIFT_FP16,
    dot,
    fp16_scale,
    operand,
    query_operand,
    widened,
)
from autoprec.kernels.interface import (
    DTYPES,
    Call,
    Kernel,
    Launch,
    Target,
    is_wide,
    run_launches,
    strides,
)
from autoprec.kernels.planes import convert, converts
from autoprec.types import Config, Phase, Workload


@triton.jit
def _tiles(q, scale, m, l, acc, K, V, sk_t, sk_d, sv_t, sv_d, first, last, kv_len, last_seen,
           PATH: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr, SHIFT: tl.constexpr,
           HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_KV: tl.constexpr,
           BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """Take the keys first ≤ j < last into the running maximum m, sum l and output acc."""
    n, d, dv = tl.arange(0, BLOCK_KV), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    if WIDE:
        n, d, dv = n.to(tl.int64), d.to(tl.int64), dv.to(tl.int64)
    k_tile = n[None, :] * sk_t + d[:, None] * sk_d
    v_tile = n[:, None] * sv_t + dv[None, :] * sv_d
    for start in tl.range(first, last, BLOCK_KV):
        inside = start + n < kv_len
        k_at = K + tl.cast(start, tl.int64) * sk_t + k_tile
        if MASKED:
            k = tl.load(k_at, mask=inside[None, :] & (d < HEAD_DIM)[:, None], other=0.0)
        elif HEAD_DIM == BLOCK_D:
            k = tl.load(k_at)
        else:
            k = tl.load(k_at, mask=(d < HEAD_DIM)[:, None], other=0.0)
        k = widened(k, PATH)
        s = dot(q, k, tl.zeros([q.shape[0], BLOCK_KV], tl.float32), PATH)
        if MASKED:
            seen = inside[None, :]
            if CAUSAL:
                seen = seen & (start + n[None, :] <= last_seen[:, None])
            s = tl.where(seen, s, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, 1) * scale - SHIFT)
        p = tl.exp2(s * scale[:, None] - m_new[:, None])
        shrink = tl.exp2(m - m_new)
        l = l * shrink + tl.sum(p, 1)
        v_at = V + tl.cast(start, tl.int64) * sv_t + v_tile
        if MASKED:
            v = tl.load(v_at, mask=inside[:, None] & (dv < HEAD_DIM_V)[None, :], other=0.0)
        elif HEAD_DIM_V == BLOCK_DV:
            v = tl.load(v_at)
        else:
            v = tl.load(v_at, mask=(dv < HEAD_DIM_V)[None, :], other=0.0)
        v = widened(v, PATH)
        acc = dot(operand(p, PATH), v, acc * shrink[:, None], PATH)
        m = m_new
    return m, l, acc


@triton.jit(do_not_specialize=["q_len", "kv_len", "diagonal", "sl_b", "sl_h", "sl_t"])
def _forward(Q, K, V, O, LSE, K_AMAX, V_AMAX,
             sq_b, sq_h, sq_t, sq_d, sk_b, sk_h, sk_t, sk_d, sv_b, sv_h, sv_t, sv_d,
             so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t,
             q_heads, kv_heads, q_len, kv_len, diagonal, qk_scale,
             PATH: tl.constexpr, CAUSAL: tl.constexpr, SCALED_Q: tl.constexpr,
             SCALED_KV: tl.constexpr, NEGATE: tl.constexpr, SHIFT: tl.constexpr,
             HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_Q: tl.constexpr,
             BLOCK_KV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
             WITH_LSE: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """One program a block of queries of one head; grid (blocks * q_heads * batch,)."""
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
    q, scale = query_operand(q, PATH, SCALED_Q, NEGATE)
    scale *= qk_scale
    v_inverse = 1.0
    if SCALED_KV:
        k_amax = tl.load(K_AMAX + batch * kv_heads + kv_head).to(tl.float32, bitcast=True)
        v_amax = tl.load(V_AMAX + batch * kv_heads + kv_head).to(tl.float32, bitcast=True)
        _, k_inverse = fp16_scale(k_amax)
        _, v_inverse = fp16_scale(v_amax)
        scale *= k_inverse

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
    m, l, acc = _tiles(q, scale, m, l, acc, k_base, v_base, sk_t, sk_d, sv_t, sv_d,
                       0, whole, kv_len, last_seen, PATH, False, CAUSAL, SHIFT,
                       HEAD_DIM, HEAD_DIM_V, BLOCK_KV, BLOCK_D, BLOCK_DV, WIDE)  # fmt: skip
    m, l, acc = _tiles(q, scale, m, l, acc, k_base, v_base, sk_t, sk_d, sv_t, sv_d,
                       whole, last, kv_len, last_seen, PATH, True, CAUSAL, SHIFT,
                       HEAD_DIM, HEAD_DIM_V, BLOCK_KV, BLOCK_D, BLOCK_DV, WIDE)  # fmt: skip

    # Rows are emptied by position, not by l == 0: a row of keys at -inf is NaN, as in a softmax.
    sees_any = last_seen >= 0
    out = tl.where(sees_any[:, None], acc / l[:, None] * v_inverse, 0.0)
    o_at = O + batch * so_b + head.to(tl.int64) * so_h
    o_at += rows.to(tl.int64)[:, None] * so_t + dv[None, :] * so_d
    inside = (rows < q_len)[:, None] & (dv < HEAD_DIM_V)[None, :]
    tl.store(o_at, out.to(O.dtype.element_ty), mask=inside)
    if WITH_LSE:
        lse_at = LSE + batch * sl_b + head.to(tl.int64) * sl_h + rows.to(tl.int64) * sl_t
        lse = tl.where(sees_any, m + tl.log2(l), float("-inf"))
        tl.store(lse_at, lse, mask=rows < q_len)


def _launches(call: Call, path: str, config: Config) -> list[Launch]:
    batch, q_heads, q_len, head_dim = call.q.shape
    k, v = call.k, call.v
    k_amax = v_amax = None
    launches: list[Launch] = []
    dtype = DTYPES[call.q.dtype]
    rounds = converts(path, dtype)
    if rounds:
        k, k_amax, launches = convert(call.k, path)
        v, v_amax, more = convert(call.v, path)
        launches += more
    causal = call.diagonal is not None
    arguments: dict[str, Any] = {
        "Q": call.q, "K": k, "V": v, "O": call.out, "LSE": call.lse_place,
        "K_AMAX": k_amax, "V_AMAX": v_amax,
        **strides("q", call.q), **strides("k", k), **strides("v", v), **strides("o", call.out),
        **strides("l", call.lse_place),
        "q_heads": q_heads,
        "kv_heads": k.shape[1],
        "q_len": q_len,
        "kv_len": k.shape[2],
        "diagonal": 0 if call.diagonal is None else call.diagonal,
        "qk_scale": abs(call.sm_scale) * LOG2_E,
        "PATH": path,
        "CAUSAL": causal,
        "SCALED_Q": rounds and path == "fp16",
        "SCALED_KV": rounds and path == "fp16",
        "NEGATE": call.sm_scale < 0,
        "SHIFT": P_SHIFT_FP16 if path == "fp16" else 0,
        "HEAD_DIM": head_dim,
        "HEAD_DIM_V": v.shape[3],
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_DV": max(16, triton.next_power_of_2(v.shape[3])),
        "WITH_LSE": call.lse is not None,
        "WIDE": is_wide(k, v),
        "BLOCK_Q": config["block_q"],
        "BLOCK_KV": config["block_kv"],
        "num_warps": config["num_warps"],
        "num_stages": config["num_stages"],
    }  # fmt: skip
    grid = (triton.cdiv(q_len, int(config["block_q"])) * q_heads * batch,)
    launches.append(Launch(_forward, grid, arguments))
    return launches


def _run(call: Call, path: str, config: Config) -> None:
    run_launches(_launches(call, path, config))


# block_q, block_kv, num_warps, num_stages; the first of each list fits and does not spill on every
# chip that the kernel claims
_TILES = {
    "fp32": ((32, 32, 4, 2), (32, 64, 8, 2), (64, 64, 16, 2), (16, 64, 4, 2)),
    "tf32": ((64, 32, 4, 2), (128, 64, 8, 2), (128, 32, 8, 3), (128, 32, 8, 2)),
    "16-bit": ((64, 64, 4, 2), (64, 64, 4, 3), (128, 128, 8, 2), (128, 64, 8, 3), (64, 32, 4, 3)),
}
_TILES_ABOVE_128 = {
    "fp32": ((32, 16, 4, 2), (16, 32, 4, 2), (32, 32, 8, 2)),
    "tf32": ((32, 16, 4, 2), (64, 32, 8, 2), (128, 32, 8, 2)),
    "16-bit": ((32, 32, 4, 2), (64, 64, 8, 2), (128, 64, 8, 2), (64, 32, 4, 2)),
}


def _configs(path: str, workload: Workload, target: Target) -> Sequence[Config]:
    above = max(workload.head_dim, workload.head_dim_v) > 128
    tiles = (_TILES_ABOVE_128 if above else _TILES)[path if path in _TILES else "16-bit"]
    names = ("block_q", "block_kv", "num_warps", "num_stages")
    return [dict(zip(names, tile, strict=True)) for tile in tiles]


KERNELS = (
    Kernel(
        name="triton-prefill",
        device="triton",
        paths=("fp32", "tf32", "bf16", "fp16"),
        phases=(Phase.PREFILL, Phase.APPEND),
        architectures=("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942"),
        converts=converts,
        configs=_configs,
        run=_run,
        launches=_launches,
    ),
)
