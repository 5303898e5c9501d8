"""The tiles of one item, against a group's queries.

While a group takes the softmax of tile j, its PV product of tile j - 1 and the other groups'
products keep the tensor cores busy.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma_wait

from autoprec.kernels.hopper.memory import accumulator, release
from autoprec.kernels.hopper.products import finish_pv, multiply_pv, multiply_qk
from autoprec.kernels.hopper.shrink import scaled, scaled_unless_one
from autoprec.kernels.hopper.softmax import (
    added,
    logits,
    seen,
    softmax,
    split_p,
    total,
    values_unit,
)


@gluon.constexpr_function
def _by_lanes(form):
    """Whether probabilities are summed by lanes: for narrow tiles, if registers are left."""
    return form.BLOCK_KV <= 64 and not form.CAP


@gluon.jit
def _tiles(own, whole, full, before, state, pipe, zero_s, zero_o, scale, factors, K_INVERSE,
           V_INVERSE, scales, sight, p_layout: gl.constexpr, GROUP: gl.constexpr,
           form: gl.constexpr):  # fmt: skip
    """Tiles 1 ≤ j < own; on entry the probabilities of tile 0 wait for their PV.

    Where P is split, a tile's PV product starts from a fresh accumulator and is added in fp32:
    tensor cores truncate as they accumulate.
    """
    q_s, k_s, v_s, q_empty, k_full, k_empty, v_full, v_empty = pipe
    numbers, first_diagonal, window_left, kv_len = sight
    m, l, unit, shrink, acc, p = state
    FRESH: gl.constexpr = form.P_PARTS == 2
    LANES: gl.constexpr = _by_lanes(form)
    IN_FLIGHT: gl.constexpr = form.PARTS + 1 if form.P_PARTS == 2 else 1  # groups of a PV product
    for j in range(1, own):
        # j as it is, but the compiler does not know and keeps no 64 bits of it
        tile = j + (kv_len >> 30)
        now = before + tile
        stage = now % form.STAGES
        last = (now - 1) % form.STAGES
        k_inverse, v_inverse = 1.0, 1.0
        if form.SCALED:  # loaded while the products run
            k_inverse = gl.load(K_INVERSE + (scales + tile))
            v_inverse = gl.load(V_INVERSE + (scales + tile))
        s_started = multiply_qk(
            q_s, k_s, stage, tile, zero_s, GROUP, form.PARTS, form.BLOCK_KV, form.BLOCK_D
        )
        mbarrier.wait(v_full.index(last), ((now - 1) // form.STAGES) & 1)
        o_started = multiply_pv(p, v_s, last, zero_o if FRESH else acc, FRESH, form.PARTS,
                                form.BLOCK_KV, form.BLOCK_DV)  # fmt: skip
        s = warpgroup_mma_wait(IN_FLIGHT, deps=[s_started])
        release(k_empty.index(stage))
        if form.Q_COMES:
            release(q_empty.index(GROUP), pred=tile == own - 1)
        unit, sunk, lowered = values_unit(v_inverse, unit, form.SCALED)
        s, slope = logits(s, scale, k_inverse, factors, form.CAP)
        masked = tile >= whole
        if form.WINDOW:
            masked = masked | (tile < full)
        if masked:  # a branch and not a loop of its own, whose code would be fetched as well
            s = seen(s, numbers, first_diagonal, window_left, kv_len, tile * form.BLOCK_KV,
                     form.CAUSAL, form.WINDOW)  # fmt: skip
        weight, m, l, row_shrink = softmax(s, m, l, slope, sunk, lowered, form.SCALED, form.SHIFT,
                                         LANES)  # fmt: skip
        # Waiting for the next K here opens a basic block, so that ptxas cannot hoist the wait for
        # the PV product above the softmax that is to run beside it.
        mbarrier.wait(k_full.index((now + 1) % form.STAGES), ((now + 1) // form.STAGES) & 1,
                      pred=tile + 1 < own)  # fmt: skip
        o, weight = finish_pv(o_started, p, weight)
        p = split_p(weight, k_s.dtype, p_layout, form.P_PARTS)
        release(v_empty.index(last))
        if FRESH:
            acc = scaled(acc, shrink) + o
            shrink = row_shrink
        else:
            # three groups would spill in their loops
            acc = scaled_unless_one(o, row_shrink) if form.GROUPS == 2 else scaled(o, row_shrink)
    return m, l, unit, shrink, acc, p


@gluon.jit
def attend(s_started, tiles, own, whole, full, before, pipe, scale, factors, K_INVERSE, V_INVERSE,
           scales, sight, GROUP: gl.constexpr, form: gl.constexpr):  # fmt: skip
    """A group's queries against their own tiles, of which full ≤ j < whole need no mask.

    On entry the QK product of the first one is under way. Returns the output before its division,
    in units of the largest factor; what logits were taken against, the sum of probabilities, and
    that factor.
    """
    q_s, k_s, v_s, q_empty, k_full, k_empty, v_full, v_empty = pipe
    numbers, first_diagonal, window_left, kv_len = sight
    s_layout: gl.constexpr = accumulator(form.BLOCK_KV)
    o_layout: gl.constexpr = accumulator(form.BLOCK_DV)
    p_layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=o_layout, k_width=2)
    row: gl.constexpr = gl.SliceLayout(1, s_layout)
    FRESH: gl.constexpr = form.P_PARTS == 2
    LANES: gl.constexpr = _by_lanes(form)
    zero_s = gl.zeros([64, form.BLOCK_KV], gl.float32, s_layout)
    zero_o = gl.zeros([64, form.BLOCK_DV], gl.float32, o_layout)
    acc = gl.zeros([64, form.BLOCK_DV], gl.float32, o_layout)
    m = gl.full([64], -3.4028234663852886e38, gl.float32, row)
    l = added(zero_s, LANES)
    k_inverse, unit = 1.0, 1.0
    if form.SCALED:
        k_inverse = gl.load(K_INVERSE + scales)
        unit = gl.load(V_INVERSE + scales)
    unit, sunk, lowered = values_unit(unit, unit, form.SCALED)
    s = warpgroup_mma_wait(0, deps=[s_started])
    release(k_empty.index(before % form.STAGES))
    if form.Q_COMES:
        release(q_empty.index(GROUP), pred=own == 1)
    s, slope = logits(s, scale, k_inverse, factors, form.CAP)
    masked = whole < 1
    if form.WINDOW:
        masked = masked | (full > 0)
    if masked:
        s = seen(s, numbers, first_diagonal, window_left, kv_len, 0, form.CAUSAL, form.WINDOW)
    weight, m, l, shrink = softmax(s, m, l, slope, sunk, lowered, form.SCALED, form.SHIFT,
                                   LANES)  # fmt: skip
    p = split_p(weight, k_s.dtype, p_layout, form.P_PARTS)
    mbarrier.wait(k_full.index((before + 1) % form.STAGES), ((before + 1) // form.STAGES) & 1,
                  pred=own > 1)  # fmt: skip
    state = (m, l, unit, shrink, acc, p)
    state = _tiles(own, whole, full, before, state, pipe, zero_s, zero_o, scale, factors,
                   K_INVERSE, V_INVERSE, scales, sight, p_layout, GROUP, form)  # fmt: skip
    m, l, unit, shrink, acc, p = state
    last = before + own - 1
    mbarrier.wait(v_full.index(last % form.STAGES), (last // form.STAGES) & 1)
    o = warpgroup_mma_wait(0, deps=[
        multiply_pv(p, v_s, last % form.STAGES, zero_o if FRESH else acc, FRESH, form.PARTS,
                    form.BLOCK_KV, form.BLOCK_DV)
    ])  # fmt: skip
    release(v_empty.index(last % form.STAGES))
    acc = scaled(acc, shrink) + o if FRESH else o
    for j in range(own, tiles):  # those that other groups alone see
        stage = (before + j) % form.STAGES
        parity = ((before + j) // form.STAGES) & 1
        mbarrier.wait(k_full.index(stage), parity)
        mbarrier.arrive(k_empty.index(stage), count=1)  # no product holds its warps together here
        mbarrier.wait(v_full.index(stage), parity)
        mbarrier.arrive(v_empty.index(stage), count=1)
    return acc, m, total(l, row), unit
