"""Prefill and append on Hopper for the split paths: hi and lo planes straight to the tensor cores.

One producer warp brings K and V planes to shared memory with the bulk tensor copy engine; two
warpgroups of 64 queries each multiply. While a warpgroup takes the softmax of tile j, its PV
product of tile j - 1 and the other warpgroup's products keep the tensor cores busy.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from autoprec.kernels.blocks import (
    P_SHIFT_FP16,
    base2_scale,
    bounded,
    count,
    far_below,
    finite_magnitude,
    fp16_scale,
    lost_to_zero,
    weights,
)
from autoprec.kernels.interface import (
    Call,
    Kernel,
    Launch,
    Prepared,
    Target,
    converts,
    run_launches,
    strides,
)
from autoprec.kernels.planes import convert
from autoprec.types import Config, Dtype, Phase, Workload

_BLOCK_Q = 128  # two warpgroups of 64 rows, what one wgmma instruction takes


@gluon.jit
def _produce(k_desc, v_desc, k_s, v_s, k_full, k_empty, v_full, v_empty, row, k_plane, v_plane,
             tiles, BLOCK_KV: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """Keep STAGES tiles of both planes of K and V on their way to shared memory."""
    for j in range(tiles):
        stage = j % STAGES
        parity = ((j // STAGES) & 1) ^ 1
        at = row + j * BLOCK_KV
        mbarrier.wait(k_empty.index(stage), parity)
        mbarrier.expect(k_full.index(stage), 2 * k_desc.block_type.nbytes)
        for part in gl.static_range(2):
            tma.async_copy_global_to_shared(
                k_desc, [part * k_plane + at, 0], k_full.index(stage), k_s.index(2 * stage + part)
            )
        mbarrier.wait(v_empty.index(stage), parity)
        mbarrier.expect(v_full.index(stage), 2 * v_desc.block_type.nbytes)
        for part in gl.static_range(2):
            tma.async_copy_global_to_shared(
                v_desc, [part * v_plane + at, 0], v_full.index(stage), v_s.index(2 * stage + part)
            )


@gluon.jit
def _multiply_qk(q_hi, q_lo, k_s, stage, zero):
    """Start q kᵀ, the smallest products first; three wgmma groups."""
    k_hi = k_s.index(2 * stage).permute([1, 0])
    k_lo = k_s.index(2 * stage + 1).permute([1, 0])
    s = warpgroup_mma(q_lo, k_hi, zero, use_acc=False, is_async=True)
    s = warpgroup_mma(q_hi, k_lo, s, is_async=True)
    return warpgroup_mma(q_hi, k_hi, s, is_async=True)


@gluon.jit
def _multiply_pv(p_hi, p_lo, v_s, stage, zero):
    """Start p v from a fresh accumulator; three wgmma groups."""
    o = warpgroup_mma(p_lo, v_s.index(2 * stage), zero, use_acc=False, is_async=True)
    o = warpgroup_mma(p_hi, v_s.index(2 * stage + 1), o, is_async=True)
    return warpgroup_mma(p_hi, v_s.index(2 * stage), o, is_async=True)


@gluon.jit
def _exponent(x):
    return x.to(gl.int32, bitcast=True) >> 23


@gluon.jit
def _largest(V_INVERSE, tiles):
    """The largest factor of V of a head's first tiles: the unit of its output."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    unit = gl.zeros([128], gl.float32, layout)
    for first in range(0, tiles, 128):
        j = first + gl.arange(0, 128, layout)
        unit = gl.maximum(unit, gl.load(V_INVERSE + j, mask=j < tiles, other=0.0))
    return gl.max(unit, 0)


@gluon.jit
def _count_far_below(V_INVERSE, tiles, LOST):
    """Count the tiles of a head's values that lie too far below its largest."""
    unit = _largest(V_INVERSE, tiles)
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    for first in range(0, tiles, 128):
        j = first + gl.arange(0, 128, layout)
        inverse = gl.load(V_INVERSE + j, mask=j < tiles, other=0.0)
        count(gl.sum(far_below(inverse, unit, 2).to(gl.int32), 0), LOST)


@gluon.jit
def _tile_scales(K_INVERSE, V_INVERSE, j, unit, SCALED: gl.constexpr):
    """The factor of the logits of tile j, and log2 of its factor of V in units of ``unit``.

    The tile's probabilities are lowered by the latter, so that no element of the output needs a
    product of its own, and the less so below 2^-14: ``_count_far_below``.
    """
    k_inverse = 1.0
    lowered = 0
    if SCALED:
        k_inverse = gl.load(K_INVERSE + j)
        lowered = gl.maximum(_exponent(gl.load(V_INVERSE + j)) - _exponent(unit), -64)
    return k_inverse, lowered


@gluon.jit
def _softmax(s, m, l, scale, qk_scale, lowered, last_seen, first_key, kv_len, SCALED: gl.constexpr,
             MASKED: gl.constexpr, CAUSAL: gl.constexpr, SHIFT: gl.constexpr):  # fmt: skip
    """The probabilities of a tile against the new running maximum, and what the old shrink by."""
    if MASKED:
        keys = first_key + gl.arange(0, s.shape[1], gl.SliceLayout(0, s.type.layout))
        seen = (keys < kv_len)[None, :]
        if CAUSAL:
            seen = seen & (keys[None, :] <= last_seen[:, None])
        s = gl.where(seen, s, float("-inf"))
    largest = gl.max(s, 1)
    if SCALED:
        largest *= scale
    m_new = gl.maximum(m, largest)
    shrink = gl.exp2((m - m_new) * qk_scale)
    if SCALED:
        below = (s * scale[:, None] - m_new[:, None]) * qk_scale
        p = gl.exp2(below + (SHIFT + lowered).to(gl.float32))
        raised = ((127 - lowered) << 23).to(gl.float32, bitcast=True)
        l = l * shrink + gl.sum(p, 1) * raised
    else:
        p = weights(s, scale, m_new, qk_scale, 0, False)
        l = l * shrink + gl.sum(p, 1)
    return p, m_new, l, shrink


@gluon.jit
def _split_p(p, dtype: gl.constexpr, layout: gl.constexpr):
    hi = p.to(dtype)
    lo = (p - hi.to(gl.float32)).to(dtype)
    return gl.convert_layout(hi, layout), gl.convert_layout(lo, layout)


@gluon.jit
def _add(acc, shrink, o):
    """The running output and a tile's."""
    return acc * gl.convert_layout(shrink, gl.SliceLayout(1, acc.type.layout))[:, None] + o


@gluon.jit
def _load_q(Q, q_s, LOST, PLANE: gl.constexpr, sq_t, sq_d, rows_left, NEGATE: gl.constexpr,
            SCALED: gl.constexpr, HEAD_DIM: gl.constexpr, BLOCK_D: gl.constexpr,
            COUNT: gl.constexpr):  # fmt: skip
    """Bring 64 queries to shared memory as two planes; the factor each row lost."""
    layout: gl.constexpr = gl.BlockedLayout([1, 4], [2, 16], [4, 1], [1, 0])
    rows = gl.arange(0, 64, gl.SliceLayout(1, layout))
    d = gl.arange(0, BLOCK_D, gl.SliceLayout(0, layout))
    at = Q + rows.to(gl.int64)[:, None] * sq_t + d.to(gl.int64)[None, :] * sq_d
    q = gl.load(at, mask=(rows < rows_left)[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
    inverse = gl.full([64], 1.0, gl.float32, gl.SliceLayout(1, layout))
    if SCALED:
        magnitude = finite_magnitude(q)
        scale, inverse = fp16_scale(gl.max(magnitude, 1))
        if COUNT:
            zeroed = gl.max(lost_to_zero(magnitude, scale[:, None]).to(gl.int32), 1)
            count(gl.max(zeroed, 0), LOST)
        q = q * scale[:, None]
    if NEGATE:
        q = -q
    hi = q.to(q_s.dtype)
    lo = gl.where(gl.abs(q) < float("inf"), q - hi.to(gl.float32), 0.0).to(q_s.dtype)
    q_s.index(PLANE).store(hi)
    q_s.index(PLANE + 1).store(lo)
    fence_async_shared()
    return inverse


@gluon.jit
def _tiles(first, last, tiles, state, unit, q_hi, q_lo, k_s, v_s, k_full, k_empty, v_full, v_empty,
           zero_s, zero_o, scale, qk_scale, K_INVERSE, V_INVERSE, last_seen, kv_len,
           p_layout: gl.constexpr, SCALED: gl.constexpr, MASKED: gl.constexpr,
           CAUSAL: gl.constexpr, SHIFT: gl.constexpr, BLOCK_KV: gl.constexpr,
           STAGES: gl.constexpr):  # fmt: skip
    """Tiles first ≤ j < last; on entry the probabilities of tile first - 1 wait for their PV."""
    m, l, shrink, acc, p_hi, p_lo = state
    for j in range(first, last):
        before = (j - 1) % STAGES
        k_inverse, lowered = _tile_scales(K_INVERSE, V_INVERSE, j, unit, SCALED)
        s_started = _multiply_qk(q_hi, q_lo, k_s, j % STAGES, zero_s)
        mbarrier.wait(v_full.index(before), ((j - 1) // STAGES) & 1)
        o_started = _multiply_pv(p_hi, p_lo, v_s, before, zero_o)
        s = warpgroup_mma_wait(3, deps=[s_started])
        mbarrier.arrive(k_empty.index(j % STAGES), count=1)
        p, m, l, shrink_new = _softmax(s, m, l, bounded(scale * k_inverse), qk_scale, lowered,
                                       last_seen, j * BLOCK_KV, kv_len, SCALED, MASKED, CAUSAL,
                                       SHIFT)  # fmt: skip
        next_hi, next_lo = _split_p(p, k_s.dtype, p_layout)
        # Waiting for the next K here opens a basic block, so that ptxas cannot hoist the wait for
        # the PV product above the softmax that is to run beside it.
        mbarrier.wait(k_full.index((j + 1) % STAGES), ((j + 1) // STAGES) & 1, pred=j + 1 < tiles)
        o, p_hi, p_lo, next_hi, next_lo = warpgroup_mma_wait(
            0, deps=[o_started, p_hi, p_lo, next_hi, next_lo]
        )
        mbarrier.arrive(v_empty.index(before), count=1)
        acc = _add(acc, shrink, o)
        shrink = shrink_new
        p_hi = next_hi
        p_lo = next_lo
    return m, l, shrink, acc, p_hi, p_lo


@gluon.jit
def _consume(common, GROUP: gl.constexpr, CAUSAL: gl.constexpr, SCALED: gl.constexpr,
             NEGATE: gl.constexpr, SHIFT: gl.constexpr, HEAD_DIM: gl.constexpr,
             HEAD_DIM_V: gl.constexpr, BLOCK_KV: gl.constexpr, BLOCK_D: gl.constexpr,
             BLOCK_DV: gl.constexpr, STAGES: gl.constexpr, WITH_LSE: gl.constexpr,
             COUNT: gl.constexpr):  # fmt: skip
    """One warpgroup: 64 rows from first_row + 64 * GROUP."""
    (Q, O, LSE, q_s, k_s, v_s, k_full, k_empty, v_full, v_empty, sq_t, sq_d, so_t, so_d, sl_t,
     first_row, q_len, kv_len, diagonal, whole, tiles, qk_scale, K_INVERSE,
     V_INVERSE, LOST) = common  # fmt: skip
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_KV, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_DV, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=o_layout, k_width=2)
    row: gl.constexpr = gl.SliceLayout(1, s_layout)
    first_row += 64 * GROUP
    inverse = _load_q(Q + first_row.to(gl.int64) * sq_t, q_s, LOST, 2 * GROUP, sq_t, sq_d,
                      q_len - first_row, NEGATE, SCALED, HEAD_DIM, BLOCK_D, COUNT)  # fmt: skip
    scale = gl.convert_layout(inverse, row)
    last_seen = first_row + gl.arange(0, 64, row)
    if CAUSAL:
        last_seen += diagonal
    q_hi, q_lo = q_s.index(2 * GROUP), q_s.index(2 * GROUP + 1)

    zero_s = gl.zeros([64, BLOCK_KV], gl.float32, s_layout)
    zero_o = gl.zeros([64, BLOCK_DV], gl.float32, o_layout)
    acc = gl.zeros([64, BLOCK_DV], gl.float32, o_layout)
    m = gl.full([64], float("-inf"), gl.float32, row)
    l = gl.zeros([64], gl.float32, row)
    unit = 1.0
    if tiles > 0:
        mbarrier.wait(k_full.index(0), 0)
        s = warpgroup_mma_wait(0, deps=[_multiply_qk(q_hi, q_lo, k_s, 0, zero_s)])
        mbarrier.arrive(k_empty.index(0), count=1)
        if SCALED:
            unit = _largest(V_INVERSE, tiles)
        k_inverse, lowered = _tile_scales(K_INVERSE, V_INVERSE, 0, unit, SCALED)
        p, m, l, shrink = _softmax(s, m, l, bounded(scale * k_inverse), qk_scale, lowered,
                                   last_seen, 0, kv_len, SCALED, True, CAUSAL,
                                   SHIFT)  # fmt: skip
        p_hi, p_lo = _split_p(p, k_s.dtype, p_layout)
        mbarrier.wait(k_full.index(1 % STAGES), (1 // STAGES) & 1, pred=tiles > 1)
        state = (m, l, shrink, acc, p_hi, p_lo)
        state = _tiles(1, whole, tiles, state, unit, q_hi, q_lo, k_s, v_s, k_full, k_empty, v_full,
                       v_empty, zero_s, zero_o, scale, qk_scale, K_INVERSE, V_INVERSE, last_seen,
                       kv_len, p_layout, SCALED, False, CAUSAL, SHIFT, BLOCK_KV,
                       STAGES)  # fmt: skip
        state = _tiles(gl.maximum(whole, 1), tiles, tiles, state, unit, q_hi, q_lo, k_s, v_s,
                       k_full, k_empty, v_full, v_empty, zero_s, zero_o, scale, qk_scale,
                       K_INVERSE, V_INVERSE, last_seen, kv_len, p_layout, SCALED, True, CAUSAL,
                       SHIFT, BLOCK_KV, STAGES)  # fmt: skip
        m, l, shrink, acc, p_hi, p_lo = state
        final = (tiles - 1) % STAGES
        mbarrier.wait(v_full.index(final), ((tiles - 1) // STAGES) & 1)
        o = warpgroup_mma_wait(0, deps=[_multiply_pv(p_hi, p_lo, v_s, final, zero_o)])
        acc = _add(acc, shrink, o)

    o_row: gl.constexpr = gl.SliceLayout(1, o_layout)
    sees_any = last_seen >= 0
    rows = gl.arange(0, 64, o_row)
    dv = gl.arange(0, BLOCK_DV, gl.SliceLayout(0, o_layout))
    factor = gl.convert_layout(unit / l, o_row)
    out = gl.where(gl.convert_layout(sees_any, o_row)[:, None], acc * factor[:, None], 0.0)
    o_at = O + (first_row + rows).to(gl.int64)[:, None] * so_t + dv.to(gl.int64)[None, :] * so_d
    inside = (first_row + rows < q_len)[:, None] & (dv < HEAD_DIM_V)[None, :]
    gl.store(o_at, out.to(O.dtype.element_ty), mask=inside)
    if WITH_LSE:
        l_rows = first_row + gl.arange(0, 64, row)
        lse = gl.where(sees_any, m * qk_scale + gl.log2(l) - SHIFT, float("-inf"))
        gl.store(LSE + l_rows.to(gl.int64) * sl_t, lse, mask=l_rows < q_len)


@gluon.jit(do_not_specialize=["q_len", "kv_len", "diagonal", "k_plane", "v_plane", "padded_len",
                              "sl_b", "sl_h", "sl_t"])  # fmt: skip
def _forward(Q, k_desc, v_desc, O, LSE, K_INVERSE, V_INVERSE, LOST, ONLY_IF, sq_b, sq_h, sq_t, sq_d,
             so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t, q_heads, kv_heads, q_len, kv_len,
             padded_len, k_plane, v_plane, diagonal, qk_scale, CAUSAL: gl.constexpr,
             SCALED: gl.constexpr, NEGATE: gl.constexpr, SHIFT: gl.constexpr,
             HEAD_DIM: gl.constexpr, HEAD_DIM_V: gl.constexpr, BLOCK_KV: gl.constexpr,
             BLOCK_D: gl.constexpr, BLOCK_DV: gl.constexpr, STAGES: gl.constexpr,
             WITH_LSE: gl.constexpr, COUNT: gl.constexpr, GUARDED: gl.constexpr):  # fmt: skip
    """One program 128 queries of one head; grid (blocks * q_heads * batch,)."""
    blocks = gl.cdiv(q_len, 128)
    block = gl.program_id(0) % blocks
    if CAUSAL:
        block = blocks - 1 - block  # the longest rows first
    head = gl.program_id(0) // blocks % q_heads
    batch = gl.program_id(0) // blocks // q_heads
    kv_head = batch * kv_heads + head // (q_heads // kv_heads)
    if SCALED:
        K_INVERSE += kv_head * (padded_len // BLOCK_KV)
        V_INVERSE += kv_head * (padded_len // BLOCK_KV)
        if COUNT and block == 0:
            _count_far_below(V_INVERSE, padded_len // BLOCK_KV, LOST)
    first_row = block * 128
    whole = kv_len // BLOCK_KV  # tiles that every row sees in full
    tiles = gl.cdiv(kv_len, BLOCK_KV)  # tiles that some row sees
    if CAUSAL:
        whole = gl.minimum(whole, gl.maximum(first_row + diagonal + 1, 0) // BLOCK_KV)
        tiles = gl.minimum(tiles, gl.cdiv(gl.maximum(first_row + 128 + diagonal, 0), BLOCK_KV))
    if GUARDED:  # where it is not its turn, there is nothing to read and nothing to write
        turn = gl.minimum(gl.load(ONLY_IF), 1)
        q_len, whole, tiles = q_len * turn, whole * turn, tiles * turn
    q_at = Q + batch.to(gl.int64) * sq_b + head.to(gl.int64) * sq_h
    o_at = O + batch.to(gl.int64) * so_b + head.to(gl.int64) * so_h
    l_at = LSE + batch.to(gl.int64) * sl_b + head.to(gl.int64) * sl_h

    q_s_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([64, BLOCK_D], k_desc.dtype)
    q_s = gl.allocate_shared_memory(k_desc.dtype, [4, 64, BLOCK_D], q_s_layout)
    k_s = gl.allocate_shared_memory(k_desc.dtype, [2 * STAGES, BLOCK_KV, BLOCK_D], k_desc.layout)
    v_s = gl.allocate_shared_memory(v_desc.dtype, [2 * STAGES, BLOCK_KV, BLOCK_DV], v_desc.layout)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(k_empty.index(stage), count=2)
        mbarrier.init(v_empty.index(stage), count=2)
    fence_async_shared()
    common = (q_at, o_at, l_at, q_s, k_s, v_s, k_full, k_empty, v_full, v_empty, sq_t, sq_d,
              so_t, so_d, sl_t, first_row, q_len, kv_len, diagonal, whole, tiles, qk_scale,
              K_INVERSE, V_INVERSE, LOST)  # fmt: skip
    gl.warp_specialize([
        (_consume, (common, 0, CAUSAL, SCALED, NEGATE, SHIFT, HEAD_DIM, HEAD_DIM_V, BLOCK_KV,
                    BLOCK_D, BLOCK_DV, STAGES, WITH_LSE, COUNT)),
        (_consume, (common, 1, CAUSAL, SCALED, NEGATE, SHIFT, HEAD_DIM, HEAD_DIM_V, BLOCK_KV,
                    BLOCK_D, BLOCK_DV, STAGES, WITH_LSE, COUNT)),
        (_produce, (k_desc, v_desc, k_s, v_s, k_full, k_empty, v_full, v_empty,
                    kv_head * padded_len, k_plane, v_plane, tiles, BLOCK_KV, STAGES)),
    ], [4, 1], [240, 24])  # fmt: skip


def _prepare(
    k: torch.Tensor,
    v: torch.Tensor,
    path: str,
    config: Config,
    lost: torch.Tensor | None = None,
    only_if: torch.Tensor | None = None,
) -> Prepared:
    block = int(config["block_kv"])
    shared: dict[str, Any] = {"tokens_multiple": block, "lost": lost, "only_if": only_if}
    return Prepared(
        convert(k, path, block, dim=_padded(k.shape[3]), **shared),
        convert(v, path, block, dim=_padded(v.shape[3]), **shared),
    )


def _launches(call: Call, path: str, config: Config) -> list[Launch]:
    batch, q_heads, q_len, head_dim = call.q.shape
    kv_heads, kv_len, head_dim_v = call.v.shape[1:]
    block_kv, stages = int(config["block_kv"]), int(config["num_stages"])
    block_d, block_dv = _padded(head_dim), _padded(head_dim_v)
    prepared = call.prepared
    if prepared is None:
        prepared = _prepare(call.k, call.v, path, config, call.lost, call.only_if)
    launches = [] if call.prepared else prepared.launches
    k, v = prepared.k, prepared.v
    dtype = gl.float16 if path == "fp16x3" else gl.bfloat16
    padded_len = k.data.shape[3]
    arguments: dict[str, Any] = {
        "Q": call.q,
        "k_desc": _descriptor(k.data, block_kv, block_d, dtype),
        "v_desc": _descriptor(v.data, block_kv, block_dv, dtype),
        "O": call.out,
        "LSE": call.lse_place,
        # a tuple of arguments takes no None: Q stands in for scales and counters that are not there
        "K_INVERSE": call.q if k.inverse is None else k.inverse,
        "V_INVERSE": call.q if v.inverse is None else v.inverse,
        "LOST": call.q if call.lost is None else call.lost,
        "ONLY_IF": call.only_if,
        **strides("q", call.q), **strides("o", call.out), **strides("l", call.lse_place),
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "q_len": q_len,
        "kv_len": kv_len,
        "padded_len": padded_len,
        "k_plane": batch * kv_heads * padded_len,
        "v_plane": batch * kv_heads * padded_len,
        "diagonal": 0 if call.diagonal is None else call.diagonal,
        "qk_scale": base2_scale(call.sm_scale),
        "CAUSAL": call.diagonal is not None,
        "SCALED": path == "fp16x3",
        "NEGATE": call.sm_scale < 0,
        "SHIFT": P_SHIFT_FP16 if path == "fp16x3" else 0,
        "HEAD_DIM": head_dim,
        "HEAD_DIM_V": head_dim_v,
        "BLOCK_KV": block_kv,
        "BLOCK_D": block_d,
        "BLOCK_DV": block_dv,
        "STAGES": stages,
        "WITH_LSE": call.lse is not None,
        "COUNT": call.lost is not None and path == "fp16x3",
        "GUARDED": call.only_if is not None,
        "num_warps": 4,
        "maxnreg": 168,
    }  # fmt: skip
    grid = (triton.cdiv(q_len, _BLOCK_Q) * q_heads * batch,)
    return [*launches, Launch(_forward, grid, arguments)]


def _padded(head_dim: int) -> int:
    return max(64, int(triton.next_power_of_2(head_dim)))


def _descriptor(planes: Any, block_kv: int, block_d: int, dtype: Any) -> TensorDescriptor:
    """The planes as one matrix of rows, which the copy engine reads in tiles."""
    rows = planes.view(-1, block_d)
    layout = gl.NVMMASharedLayout.get_default_for([block_kv, block_d], dtype)
    return TensorDescriptor.from_tensor(rows, [block_kv, block_d], layout)


def _run(call: Call, path: str, config: Config) -> None:
    run_launches(_launches(call, path, config))


def _configs(path: str, workload: Workload, target: Target) -> Sequence[Config]:
    wide = max(workload.head_dim, workload.head_dim_v) > 64
    blocks = (64, 32) if wide else (64, 128)
    return [{"block_kv": block_kv, "num_stages": 2} for block_kv in blocks]


def _limits(path: str, workload: Workload) -> list[str]:
    rows = 2 * workload.batch * workload.kv_heads * (workload.kv_len + 128)
    return [f"hopper-prefill counts rows of planes in 32 bits, not {rows}"] if rows >> 31 else []


KERNELS = (
    Kernel(
        name="hopper-prefill",
        device="hopper",
        paths=("fp16x3", "bf16x3"),
        phases=(Phase.PREFILL, Phase.APPEND),
        architectures=("sm_90",),
        input_dtypes=(Dtype.FP32,),
        max_head_dim=128,
        converts=converts,
        configs=_configs,
        run=_run,
        launches=_launches,
        prepare=_prepare,
        limits=_limits,
    ),
)
