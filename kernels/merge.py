"""The last step of split-KV decode: partial outputs of one row into its output, in split order."""

from typing import Any

import triton
import triton.language as tl

from autoprec.kernels import overlap
from autoprec.kernels.arguments import lengths, logits
from autoprec.kernels.blocks import closed
from autoprec.kernels.interface import Call, Launch, strides
from autoprec.kernels.overlap import wait
from autoprec.kernels.tiles import request, sees_any, split_of

_BLOCK_SPLITS = 16


@triton.jit(do_not_specialize=["q_len", "kv_len", "splits", "split", "diagonal", "window_left",
                               "sl_b", "sl_h", "sl_t"])  # fmt: skip
def _merge(ACC, M, L, O, LSE, Q_STARTS, KV_LENS, SINKS, ONLY_IF, so_b, so_h, so_t, so_d,
           sl_b, sl_h, sl_t, q_heads, q_len, kv_len, splits, split, diagonal, window_left, qk_scale,
           CAUSAL: tl.constexpr, WINDOW: tl.constexpr, HEAD_DIM_V: tl.constexpr,
           BLOCK_DV: tl.constexpr, BLOCK_SPLITS: tl.constexpr,
           EVEN: tl.constexpr, WITH_LSE: tl.constexpr, WAITS: tl.constexpr):  # fmt: skip
    """One program a row of the output; grid (batch * q_heads * q_len,)."""
    wait(WAITS)
    if ONLY_IF is not None:
        if tl.load(ONLY_IF) == 0:
            return
    row = tl.program_id(0)
    token = row % q_len
    head = (row // q_len % q_heads).to(tl.int64)
    batch = (row // q_len // q_heads).to(tl.int64)
    base = row.to(tl.int64) * splits
    q_row, q_first, its_q_len, kv_len, diagonal = request(
        batch, Q_STARTS, KV_LENS, q_len, kv_len, diagonal
    )
    if Q_STARTS is not None:
        if token >= its_q_len:
            return
    if EVEN:
        split = split_of(kv_len, splits, split)
    position = token + diagonal
    first_split = 0
    if WINDOW:  # those before it were not written, or saw no key of this row
        first_split = tl.maximum(position - window_left, 0) // split
    last_split = tl.cdiv(kv_len, split)
    dv = tl.arange(0, BLOCK_DV)
    m = tl.full([1], float("-inf"), tl.float32)
    l = tl.zeros([1], tl.float32)
    acc = tl.zeros([BLOCK_DV], tl.float32)
    for start in tl.range(first_split // BLOCK_SPLITS * BLOCK_SPLITS, last_split, BLOCK_SPLITS):
        i = start + tl.arange(0, BLOCK_SPLITS)
        inside = (i >= first_split) & (i < last_split)
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
    some = sees_any(position, window_left, kv_len, CAUSAL, WINDOW, KV_LENS is not None)
    sink = m
    if SINKS is not None:
        sink = tl.load(SINKS + head)
    shrink, total, lse = closed(l, m, qk_scale, some, sink, SINKS is not None)
    if SINKS is not None:
        acc *= shrink
    out = tl.where(some, acc / total, 0.0)
    token_at = (q_first + token).to(tl.int64)
    o_at = O + q_row * so_b + head * so_h + token_at * so_t + dv.to(tl.int64) * so_d
    tl.store(o_at, out.to(O.dtype.element_ty), mask=dv < HEAD_DIM_V)
    if WITH_LSE:
        at = q_row * sl_b + head * sl_h + token_at * sl_t
        tl.store(LSE + at + tl.arange(0, 1), lse)


def merge(
    call: Call, acc: Any, m: Any, l: Any, splits: int, split: int, even: bool = False
) -> Launch:
    """Plan the merge of split-KV partials.

    Args:
        call: The call whose out and lse are written.
        acc: ``[batch, q_heads, q_len, splits, head_dim_v]`` fp32, Σ exp(sm_scale (s - m)) v of a
            split, s being the products of the query and its keys. q_len is the call's bound, as
            splits is its bound of the keys over ``split``.
        m: ``[batch, q_heads, q_len, splits]`` fp32, the largest product of a split.
        l: Like m, Σ exp(sm_scale (s - m)).
        splits: As many as there are places for.
        split: Keys of a split. Splits that no key of a row is in are not read.
        even: Whether each request's keys are split evenly, in multiples of ``split``.
    """
    head_dim_v = call.out.shape[3]
    places, factors = lengths(call), logits(call)
    arguments: dict[str, Any] = {
        "ACC": acc, "M": m, "L": l, "O": call.out, "LSE": call.lse_place,
        "ONLY_IF": call.only_if,
        **strides("o", call.out), **strides("l", call.lse_place),
        **{name: places[name] for name in ("Q_STARTS", "KV_LENS", "q_len", "kv_len")},
        **{name: factors[name] for name in (
            "SINKS", "diagonal", "window_left", "qk_scale", "CAUSAL", "WINDOW",
        )},
        "q_heads": call.q.shape[1],
        "splits": splits,
        "split": split,
        "EVEN": even,
        "HEAD_DIM_V": head_dim_v,
        "BLOCK_DV": max(16, triton.next_power_of_2(head_dim_v)),
        "BLOCK_SPLITS": _BLOCK_SPLITS,
        "WITH_LSE": call.lse is not None,
        "num_warps": 4,
        "num_stages": 2,
        **overlap.second(overlap.on_device(call.q.device)),
    }  # fmt: skip
    return Launch(_merge, (call.batch * call.q.shape[1] * call.max_q_len,), arguments)
