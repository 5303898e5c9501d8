"""Prefill and append: one block of queries against all keys it sees, softmax on the way."""

from typing import Any

import torch
import triton
import triton.language as tl

from autoprec.kernels.arguments import lengths, logits, masked, stored
from autoprec.kernels.blocks import P_SHIFT_FP16, closed, count, far_below, query_parts
from autoprec.kernels.interface import (
    DTYPES,
    Call,
    Feature,
    Kernel,
    Launch,
    Prepared,
    converts,
    is_wide,
    run_launches,
    strides,
)
from autoprec.kernels.planes import convert
from autoprec.kernels.prefill_configs import configs, consistent
from autoprec.kernels.tiles import base, mask_base, request, sees_any, tiles
from autoprec.paths import PATHS
from autoprec.types import Config, Layout, Phase, Storage


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


@triton.jit
def _seen(block, diagonal, window_left, kv_len, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
          BLOCK_Q: tl.constexpr, BLOCK_KV: tl.constexpr):  # fmt: skip
    """What a block of queries sees: from ``first`` to ``last``, in full from ``full`` to ``whole``.

    All but the last begin a tile; tiles begin at multiples of BLOCK_KV. One tile at least lies from
    ``whole`` on: the last that is seen, though it were in full, and one of none where none is.
    """
    first, full, whole, last = 0, 0, kv_len, kv_len
    if CAUSAL:
        whole = tl.minimum(kv_len, tl.maximum(block * BLOCK_Q + diagonal + 1, 0))
        last = tl.minimum(kv_len, tl.maximum(block * BLOCK_Q + BLOCK_Q + diagonal, 0))
    if WINDOW:
        least = tl.maximum(block * BLOCK_Q + diagonal - window_left, 0)
        first = least // BLOCK_KV * BLOCK_KV
    last = tl.maximum(last, first + 1)
    whole = tl.minimum(tl.maximum(whole, first), last - 1) // BLOCK_KV * BLOCK_KV
    if WINDOW:
        full = tl.cdiv(tl.maximum(block * BLOCK_Q + BLOCK_Q - 1 + diagonal - window_left, 0),
                       BLOCK_KV) * BLOCK_KV  # fmt: skip
        full = tl.minimum(tl.maximum(full, first), whole)
    return first, full, whole, last


@triton.jit(do_not_specialize=["q_len", "kv_len", "diagonal", "window_left", "sl_b", "sl_h",
                               "sl_t"])  # fmt: skip
def _forward(Q, K, V, O, LSE, K_INVERSE, V_INVERSE, Q_STARTS, KV_LENS, KV_STARTS, PAGES, SINKS,
             MASK, MASK_STARTS, LOST, ONLY_IF, k_plane, v_plane, sq_b, sq_h, sq_t, sq_d,
             sk_b, sk_h, sk_t, sk_d, sv_b, sv_h, sv_t, sv_d, so_b, so_h, so_t, so_d,
             sl_b, sl_h, sl_t, si_b, si_h, si_t, sm_b, sm_h, sm_t, sm_d,
             q_heads, kv_heads, q_len, kv_len, diagonal, window_left, qk_scale, cap_in, cap_out,
             OPERAND: tl.constexpr, PARTS: tl.constexpr, P_PARTS: tl.constexpr,
             FORM: tl.constexpr, PAGE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
             CAP: tl.constexpr, MASKING: tl.constexpr, SCALED_Q: tl.constexpr,
             SCALED_KV: tl.constexpr, NEGATE: tl.constexpr, SHIFT: tl.constexpr,
             HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_Q: tl.constexpr,
             BLOCK_KV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
             WITH_LSE: tl.constexpr, WIDE: tl.constexpr, COUNT: tl.constexpr,
             AHEAD: tl.constexpr):  # fmt: skip
    """One program a block of queries of one head; grid (blocks * q_heads * batch,)."""
    if ONLY_IF is not None:
        if tl.load(ONLY_IF) == 0:
            return
    blocks = tl.cdiv(q_len, BLOCK_Q)
    block = tl.program_id(0) % blocks
    head = tl.program_id(0) // blocks % q_heads
    batch = (tl.program_id(0) // blocks // q_heads).to(tl.int64)
    kv_head = (head // (q_heads // kv_heads)).to(tl.int64)
    q_row, q_first, q_len, kv_len, diagonal = request(
        batch, Q_STARTS, KV_LENS, q_len, kv_len, diagonal
    )
    if Q_STARTS is not None:
        blocks = tl.cdiv(q_len, BLOCK_Q)
        if block >= blocks:
            return
    if CAUSAL:
        block = blocks - 1 - block  # the longest rows first
    rows = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    d, dv = tl.arange(0, BLOCK_D).to(tl.int64), tl.arange(0, BLOCK_DV).to(tl.int64)

    q_at = Q + q_row * sq_b + head.to(tl.int64) * sq_h
    q_at += (q_first + rows).to(tl.int64)[:, None] * sq_t + d[None, :] * sq_d
    q = tl.load(q_at, mask=(rows < q_len)[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
    q, scale = query_parts(q, LOST, OPERAND, PARTS, SCALED_Q, NEGATE, COUNT)
    if FORM == "parts" and SCALED_KV:
        factors = tl.cdiv(kv_len, BLOCK_KV)
        K_INVERSE += (batch * kv_heads + kv_head) * factors
        V_INVERSE += (batch * kv_heads + kv_head) * factors
        if COUNT and block == 0:
            _count_far_below(V_INVERSE, factors, LOST, P_PARTS)
    start = KV_STARTS
    if KV_STARTS is not None:
        start = tl.load(KV_STARTS + batch)
    if FORM == "halves":
        K_INVERSE = base(K_INVERSE, batch, kv_head, start, si_b, si_h, si_t, PAGE)
        V_INVERSE = base(V_INVERSE, batch, kv_head, start, si_b, si_h, si_t, PAGE)

    m = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    l = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_DV], tl.float32)
    state = (m, l, acc, tl.full([], 0.0, tl.float32), tl.full([], float("inf"), tl.float32))
    if PAGE > 0:
        PAGES += start
    memory = (base(K, batch, kv_head, start, sk_b, sk_h, sk_t, PAGE),
              base(V, batch, kv_head, start, sv_b, sv_h, sv_t, PAGE), K_INVERSE, V_INVERSE,
              PAGES, LOST, k_plane, v_plane, sk_b, sk_t, sk_d,
              sv_b, sv_t, sv_d, si_b, si_t)  # fmt: skip
    position = rows
    if CAUSAL or WINDOW:
        position = rows + diagonal
    sight = (kv_len, position, window_left, cap_in, cap_out)
    first, full, whole, last = _seen(block, diagonal, window_left, kv_len, CAUSAL, WINDOW, BLOCK_Q,
                                     BLOCK_KV)  # fmt: skip
    GUARDED: tl.constexpr = WINDOW or SINKS is not None or MASKING != "none"
    if MASKING != "none":
        MASK = mask_base(MASK, MASK_STARTS, batch, head, sm_b, sm_h, MASKING)
    mask = (MASK, rows, q_len, sm_t, sm_d)
    # Masked tiles come first, and there is one: of a loop that may not run, zeros that are moved
    # into the accumulators would join its products, and ptxas has each wgmma of such a kernel wait
    # for the one before.
    tl.assume(whole < last)
    state = tiles(q, scale, state, memory, sight, mask, whole, last, qk_scale, OPERAND, PARTS,
                  P_PARTS, FORM, PAGE, SCALED_Q, SCALED_KV, True, True, CAUSAL, WINDOW, CAP,
                  MASKING, SHIFT, HEAD_DIM, HEAD_DIM_V, BLOCK_KV, BLOCK_D, BLOCK_DV, WIDE,
                  COUNT, False)  # fmt: skip
    state = tiles(q, scale, state, memory, sight, mask, full, whole, qk_scale, OPERAND, PARTS,
                  P_PARTS, FORM, PAGE, SCALED_Q, SCALED_KV, False, GUARDED, CAUSAL, WINDOW, CAP,
                  MASKING, SHIFT, HEAD_DIM, HEAD_DIM_V, BLOCK_KV, BLOCK_D, BLOCK_DV, WIDE,
                  COUNT, AHEAD)  # fmt: skip
    if WINDOW:
        state = tiles(q, scale, state, memory, sight, mask, first, full, qk_scale, OPERAND, PARTS,
                      P_PARTS, FORM, PAGE, SCALED_Q, SCALED_KV, True, GUARDED, CAUSAL, WINDOW, CAP,
                      MASKING, SHIFT, HEAD_DIM, HEAD_DIM_V, BLOCK_KV, BLOCK_D, BLOCK_DV, WIDE,
                      COUNT, False)  # fmt: skip
    m, l, acc, largest, least = state

    l *= 2.0**-SHIFT
    if not SCALED_KV and FORM != "halves":
        acc *= 2.0**-SHIFT
    elif COUNT and FORM != "parts":
        count(far_below(least, largest, P_PARTS).to(tl.int32), LOST)

    some = sees_any(position, window_left, kv_len, CAUSAL, WINDOW, KV_LENS is not None)
    if MASKING != "none":  # here by its logits, of which a NaN is one
        some = some & ((m > float("-inf")) | (l != 0.0))
    sink = m
    if SINKS is not None:
        sink = tl.load(SINKS + head)
    shrink, total, lse = closed(l, m, qk_scale, some, sink, SINKS is not None)
    if SINKS is not None:
        acc *= shrink[:, None]
    out = tl.where(some[:, None], acc / total[:, None], 0.0)
    row = (q_first + rows).to(tl.int64)
    o_at = O + q_row * so_b + head.to(tl.int64) * so_h + row[:, None] * so_t + dv[None, :] * so_d
    inside = (rows < q_len)[:, None] & (dv < HEAD_DIM_V)[None, :]
    tl.store(o_at, out.to(O.dtype.element_ty), mask=inside)
    if WITH_LSE:
        lse_at = LSE + q_row * sl_b + head.to(tl.int64) * sl_h + row * sl_t
        tl.store(lse_at, lse, mask=rows < q_len)


def _prepare(
    k: torch.Tensor,
    v: torch.Tensor,
    path: str,
    config: Config,
    lost: torch.Tensor | None = None,
    only_if: torch.Tensor | None = None,
) -> Prepared:
    return convert(k, v, path, int(config["block_kv"]), lost=lost, only_if=only_if)


def _memory(call: Call, path: str, config: Config) -> tuple[dict[str, Any], list[Launch]]:
    """Where K and V are read, and what brings them there.

    Contiguous ones of one length are brought into the path's parts by a pass of their own, which
    pays where many blocks of queries read them; others are split as they are read.
    """
    arguments = stored(call, path)
    if call.halves is not None or call.requests is not None:
        return arguments, []
    if not converts(path, DTYPES[call.k.dtype]):
        return arguments, []
    prepared = call.prepared
    launches: list[Launch] = []
    if prepared is None:
        prepared = _prepare(call.k, call.v, path, config, call.lost, call.only_if)
        launches = prepared.launches
    k, v = prepared.k.data[0], prepared.v.data[0]
    planes = {
        "K": k, "V": v, **strides("k", k), **strides("v", v),
        "K_INVERSE": prepared.k.inverse, "V_INVERSE": prepared.v.inverse,
        "k_plane": k.numel(), "v_plane": v.numel(),
        "FORM": "parts", "WIDE": is_wide(k, v),
    }  # fmt: skip
    return arguments | planes, launches


def _launches(call: Call, path: str, config: Config) -> list[Launch]:
    q_heads, head_dim, head_dim_v = call.q.shape[1], call.q.shape[3], call.v.shape[3]
    scheme = PATHS[path]
    memory, launches = _memory(call, path, config)
    arguments: dict[str, Any] = {
        "Q": call.q, "O": call.out, "LSE": call.lse_place, "LOST": call.lost,
        "ONLY_IF": call.only_if,
        **strides("q", call.q), **strides("o", call.out), **strides("l", call.lse_place),
        **memory, **lengths(call), **logits(call), **masked(call),
        "q_heads": q_heads,
        "kv_heads": call.k.shape[1],
        "OPERAND": scheme.operand,
        "PARTS": scheme.parts,
        "P_PARTS": scheme.p_parts,
        "NEGATE": call.sm_scale < 0,
        "SHIFT": P_SHIFT_FP16 if scheme.operand == "fp16" else 0,
        "HEAD_DIM": head_dim,
        "HEAD_DIM_V": head_dim_v,
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_DV": max(16, triton.next_power_of_2(head_dim_v)),
        "WITH_LSE": call.lse is not None,
        "COUNT": call.lost is not None,
        "AHEAD": "ahead" in config,
        "BLOCK_Q": config["block_q"],
        "BLOCK_KV": config["block_kv"],
        "num_warps": config["num_warps"],
        "num_stages": config["num_stages"],
    }  # fmt: skip
    blocks = triton.cdiv(call.max_q_len, int(config["block_q"]))
    return [*launches, Launch(_forward, (blocks * q_heads * call.batch,), arguments)]


def _run(call: Call, path: str, config: Config) -> None:
    run_launches(_launches(call, path, config))


KERNELS = (
    Kernel(
        name="triton-prefill",
        device="triton",
        paths=tuple(PATHS),
        phases=(Phase.PREFILL, Phase.APPEND),
        architectures=("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942"),
        converts=converts,
        configs=configs,
        run=_run,
        launches=_launches,
        prepare=_prepare,
        layouts=tuple(Layout),
        features=frozenset(Feature),
        forms={
            **dict.fromkeys((Storage.FP32, Storage.BF16, Storage.FP16), tuple(PATHS)),
            Storage.PLANES: ("fp16", "fp16x3"),
        },
        consistent=consistent,
    ),
)
