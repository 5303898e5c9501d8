"""The last step of split-KV decode: partial outputs of one row into its output, in split order."""

from typing import Any

import triton
import triton.language as tl

from autoprec.kernels.blocks import base2_scale
from autoprec.kernels.interface import Call, Launch, strides

_BLOCK_SPLITS = 16


@triton.jit(do_not_specialize=["q_len", "splits", "diagonal", "sl_b", "sl_h", "sl_t"])
def _merge(ACC, M, L, O, LSE, ONLY_IF, so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t,
           q_heads, q_len, splits, diagonal, qk_scale,
           CAUSAL: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_DV: tl.constexpr,
           BLOCK_SPLITS: tl.constexpr, WITH_LSE: tl.constexpr,
           GUARDED: tl.constexpr):  # fmt: skip
    """One program a row of the output; grid (batch * q_heads * q_len,)."""
    if GUARDED:
        if tl.load(ONLY_IF) == 0:
            return
    row = tl.program_id(0)
    token = row % q_len
    head = (row // q_len % q_heads).to(tl.int64)
    batch = (row // q_len // q_heads).to(tl.int64)
    dv = tl.arange(0, BLOCK_DV)
    base = row.to(tl.int64) * splits
    m = tl.full([1], float("-inf"), tl.float32)
    l = tl.zeros([1], tl.float32)
    acc = tl.zeros([BLOCK_DV], tl.float32)
    for first in tl.range(0, splits, BLOCK_SPLITS):
        i = first + tl.arange(0, BLOCK_SPLITS)
        inside = i < splits
        m_i = tl.load(M + base + i, mask=inside, other=float("-inf"))
        l_i = tl.load(L + base + i, mask=inside, other=0.0)
        part_at = ACC + (base + i)[:, None] * HEAD_DIM_V + dv[None, :]
        part = tl.load(part_at, mask=inside[:, None] & (dv < HEAD_DIM_V)[None, :], other=0.0)
        m_new = tl.maximum(m, tl.max(m_i, 0))
        origin = tl.where(m_new == float("-inf"), 0.0, m_new)  # splits that saw no key weigh 0
        shrink = tl.exp2((m - origin) * qk_scale)
        weight = tl.exp2((m_i - origin) * qk_scale)
        l = l * shrink + tl.sum(l_i * weight, 0)
        acc = acc * shrink + tl.sum(part * weight[:, None], 0)
        m = m_new
    sees_any = (token + diagonal >= 0) | (not CAUSAL)
    out = tl.where(sees_any, acc / l, 0.0)
    o_at = O + batch * so_b + head * so_h + token.to(tl.int64) * so_t + dv.to(tl.int64) * so_d
    tl.store(o_at, out.to(O.dtype.element_ty), mask=dv < HEAD_DIM_V)
    if WITH_LSE:
        lse = tl.where(sees_any, m * qk_scale + tl.log2(l), float("-inf"))
        at = batch * sl_b + head * sl_h + token.to(tl.int64) * sl_t
        tl.store(LSE + at + tl.arange(0, 1), lse)


def merge(call: Call, acc: Any, m: Any, l: Any, splits: int) -> Launch:
    """Plan the merge of split-KV partials.

    Args:
        call: The call whose out and lse are written.
        acc: ``[batch, q_heads, q_len, splits, head_dim_v]`` fp32, Σ exp(sm_scale (s - m)) v of a
            split, s being the products of the query and its keys.
        m: ``[batch, q_heads, q_len, splits]`` fp32, the largest product of a split.
        l: Like m, Σ exp(sm_scale (s - m)).
        splits: Parts the keys were split into.
    """
    batch, q_heads, q_len, head_dim_v = call.out.shape
    arguments: dict[str, Any] = {
        "ACC": acc, "M": m, "L": l, "O": call.out, "LSE": call.lse_place,
        "ONLY_IF": call.only_if,
        **strides("o", call.out), **strides("l", call.lse_place),
        "q_heads": q_heads,
        "q_len": q_len,
        "splits": splits,
        "diagonal": 0 if call.diagonal is None else call.diagonal,
        "qk_scale": base2_scale(call.sm_scale),
        "CAUSAL": call.diagonal is not None,
        "HEAD_DIM_V": head_dim_v,
        "BLOCK_DV": max(16, triton.next_power_of_2(head_dim_v)),
        "BLOCK_SPLITS": _BLOCK_SPLITS,
        "WITH_LSE": call.lse is not None,
        "GUARDED": call.only_if is not None,
        "num_warps": 4,
        "num_stages": 2,
    }  # fmt: skip
    return Launch(_merge, (batch * q_heads * q_len,), arguments)
