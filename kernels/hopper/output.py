"""A group's rows of output, and their log-sum-exp."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma

from autoprec.kernels.hopper.memory import across, flat
from autoprec.kernels.hopper.softmax import coarse, sight_of


@gluon.jit
def divide(acc, m, l, unit, sink, sight, factors, dtype: gl.constexpr, CAUSAL: gl.constexpr,
           WINDOW: gl.constexpr, WITH_SINKS: gl.constexpr, SCALED: gl.constexpr):  # fmt: skip
    """Rows of output, divided by their sums, and their log-sum-exp.

    Args:
        acc: The output before its division, in units of ``unit``.
        m: Of each row, what its base-2 logits were taken against, and ``l`` the sum of its
            probabilities.
        sink: A logit in natural units that joins the sum, used where said.
        sight: What ``softmax.sight_of`` takes.

    A branch that is hardly ever taken is not fetched, where a choice for each element would be.
    """
    numbers, first_diagonal, window_left, kv_len = sight
    (qk_scale, cap_in, cap_out) = factors
    o_row: gl.constexpr = gl.SliceLayout(1, acc.type.layout)
    # from 2^24 on logits were taken by the coarse slope
    top = gl.where(gl.abs(m) < 2.0**24, m, m * (qk_scale / coarse(qk_scale)))
    share = 1.0
    if WITH_SINKS:  # a logit that joins the sum
        sink *= 1.4426950408889634  # log2(e)
        highest = gl.maximum(top, sink)
        share = gl.exp2(top - highest)
        l = l * share + gl.exp2(sink - highest)
        top = highest
    factor = gl.convert_layout(share / l, o_row)
    lse = top + gl.log2(l)
    blind = kv_len < 1  # whether some row sees no key
    if CAUSAL:
        blind = gl.minimum(kv_len, first_diagonal + 1) < 1
    if WINDOW:
        blind = blind | (first_diagonal + 63 - window_left >= kv_len)
    if blind:
        first, last = sight_of(numbers, first_diagonal, window_left, kv_len, o_row, CAUSAL,
                               WINDOW)  # fmt: skip
        sees_any = first <= last
        acc = gl.where(sees_any[:, None], acc, 0.0)
        factor = gl.where(sees_any, factor, 0.0)
        alone = sink if WITH_SINKS else float("-inf")
        lse = gl.where(gl.convert_layout(sees_any, lse.type.layout), lse, alone)
    if SCALED:
        if unit < 2.0**-60:  # the product of both factors may be subnormal
            acc *= unit
        else:
            factor *= unit
    return (acc * factor[:, None]).to(dtype), lse


@gluon.jit
def write(out, lse, first_row, rows_left, O, o_desc, o_s, o_at, LSE, so_t, so_d, sl_t,
          HEAD_DIM_V: gl.constexpr, WITH_LSE: gl.constexpr, O_GOES: gl.constexpr,
          WIDE: gl.constexpr):  # fmt: skip
    """Write rows of output and their log-sum-exp, those of ``rows_left``.

    O is where the request's head begins, as LSE is; used where rows do not go by ``o_desc``, from
    ``o_s`` to ``o_at``.
    """
    if O_GOES:  # what lies beyond the rows is left out
        tma.store_wait(0)
        flat(o_s, out.shape[0], out.shape[1]).store(out)
        fence_async_shared()
        if rows_left > 0:
            tma.async_copy_shared_to_global(o_desc, o_at, o_s)
    else:
        rows = gl.arange(0, 64, gl.SliceLayout(1, out.type.layout))
        dv = gl.arange(0, out.shape[1], gl.SliceLayout(0, out.type.layout))
        at = O + (first_row + rows).to(gl.int64)[:, None] * so_t
        inside = (rows < rows_left)[:, None] & (dv < HEAD_DIM_V)[None, :]
        gl.store(across(at, dv, so_d, WIDE), out, mask=inside)
    if WITH_LSE:
        l_rows = gl.arange(0, 64, lse.type.layout)
        lse_at = LSE + (first_row + l_rows).to(gl.int64) * sl_t
        gl.store(lse_at, lse, mask=l_rows < rows_left)
