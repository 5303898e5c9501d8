"""The consumers of a program: groups of four warps, each with 64 queries of its own.

A group takes its queries of one item after the other, and writes what they give.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from autoprec.kernels.hopper.attend import attend
from autoprec.kernels.hopper.items import heard, place, rows_told
from autoprec.kernels.hopper.memory import accumulator
from autoprec.kernels.hopper.output import divide, write
from autoprec.kernels.hopper.products import multiply_qk
from autoprec.kernels.hopper.queries import load_q
from autoprec.kernels.hopper.softmax import count_far_below


@gluon.jit
def _start(row, head, first, s_b, s_h, s_t):
    """Where a head of a request begins in Q, O or LSE."""
    first = gl.to_tensor(first)
    row = gl.to_tensor(row)
    return row.to(gl.int64) * s_b + head.to(gl.int64) * s_h + first.to(gl.int64) * s_t


@gluon.jit
def _begin(placed, turn, before, memory, GROUP: gl.constexpr, form: gl.constexpr):
    """Start the first QK product of an item; and the factor that each query lost."""
    (Q, O, o_desc, o_s, LSE, SINKS, numbers, q_s, k_s, v_s, q_full, q_empty, k_full, k_empty,
     v_full, v_empty, sq_b, sq_h, sq_t, sq_d, so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t, group,
     factors, K_INVERSE, V_INVERSE, LOST) = memory  # fmt: skip
    first_query, rows, batch, q_head, tiles, q_row, q_first, kv_len, diagonal, first_key = placed
    s_layout: gl.constexpr = accumulator(form.BLOCK_KV)
    row: gl.constexpr = gl.SliceLayout(1, s_layout)
    if form.Q_COMES:
        inverse = gl.full([64], 1.0, gl.float32, row)
        mbarrier.wait(q_full.index(GROUP), turn & 1)
    else:
        first_row = first_query + 64 * GROUP
        q_at = Q + _start(q_row, q_head, q_first, sq_b, sq_h, sq_t)
        inverse = load_q(q_at, q_s, LOST, first_row, rows - first_row, sq_t, sq_d, GROUP,
                         form.PARTS, form.NEGATE, form.SCALED_Q, form.COUNT, form.HEAD_DIM,
                         form.BLOCK_D, form.Q_WIDE)  # fmt: skip
        inverse = gl.convert_layout(inverse, row)
    first = before % form.STAGES
    mbarrier.wait(k_full.index(first), (before // form.STAGES) & 1)
    zero_s = gl.zeros([64, form.BLOCK_KV], gl.float32, s_layout)
    s_started = multiply_qk(
        q_s, k_s, first, before, zero_s, GROUP, form.PARTS, form.BLOCK_KV, form.BLOCK_D
    )
    return s_started, inverse


@gluon.jit
def _serve(begun, placed, before, sizes, memory, GROUP: gl.constexpr, form: gl.constexpr):
    """A group's queries of one item, from first_query + 64 * GROUP on: their output and LSE."""
    (Q, O, o_desc, o_s, LSE, SINKS, numbers, q_s, k_s, v_s, q_full, q_empty, k_full, k_empty,
     v_full, v_empty, sq_b, sq_h, sq_t, sq_d, so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t, group,
     factors, K_INVERSE, V_INVERSE, LOST) = memory  # fmt: skip
    (blocks, section, sections, heads, q_heads, most_q, most_kv, unaligned, batches,
     window_left) = sizes  # fmt: skip
    first_query, rows, batch, q_head, tiles, q_row, q_first, kv_len, diagonal, first_key = placed
    s_started, inverse = begun
    first_row = first_query + 64 * GROUP
    all_tiles = gl.cdiv(most_kv, form.BLOCK_KV)
    scales = (batch * (q_heads // group) + q_head // group) * all_tiles
    if form.COUNT and form.SCALED and GROUP == 0:
        if (first_query == 0) & (rows > 0):  # once a head
            count_far_below(V_INVERSE + scales, gl.cdiv(first_key + kv_len, form.BLOCK_KV), LOST,
                            form.P_PARTS)  # fmt: skip
    first_diagonal = first_row + diagonal
    own = tiles  # of which some row of the group sees a key; the first one in any case
    whole = kv_len // form.BLOCK_KV  # before it every row sees all keys, from full on
    full = 0
    if form.CAUSAL:
        own = gl.minimum(own, gl.cdiv(gl.maximum(first_diagonal + 64, 0), form.BLOCK_KV))
        whole = gl.minimum(whole, gl.maximum(first_diagonal + 1, 0) // form.BLOCK_KV)
    if form.WINDOW:
        full = gl.cdiv(gl.maximum(first_diagonal + 63 - window_left, 0), form.BLOCK_KV)
    own = gl.maximum(gl.where(rows > first_row, own, 1), 1)
    pipe = (q_s, k_s, v_s, q_empty, k_full, k_empty, v_full, v_empty)
    sight = (numbers, first_diagonal, window_left, kv_len)
    acc, m, l, unit = attend(s_started, tiles, own, whole, full, before, pipe, inverse, factors,
                             K_INVERSE, V_INVERSE, scales + first_key // form.BLOCK_KV, sight,
                             GROUP, form)  # fmt: skip
    sink = 0.0
    if form.WITH_SINKS:
        sink = gl.load(SINKS + q_head)
    return divide(acc, m, l, unit, sink, sight, factors, O.dtype.element_ty, form.CAUSAL,
                  form.WINDOW, form.WITH_SINKS, form.SCALED)  # fmt: skip


@gluon.jit
def _to(placed):
    """Of an item, what says where its output goes."""
    return placed[0], placed[1], placed[2], placed[3], placed[5], placed[6]


@gluon.jit
def _deliver(out, lse, to, memory, GROUP: gl.constexpr, form: gl.constexpr):
    """Write a group's rows of one item; none where it has no queries."""
    (Q, O, o_desc, o_s, LSE, SINKS, numbers, q_s, k_s, v_s, q_full, q_empty, k_full, k_empty,
     v_full, v_empty, sq_b, sq_h, sq_t, sq_d, so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t, group,
     factors, K_INVERSE, V_INVERSE, LOST) = memory  # fmt: skip
    first_query, rows, batch, q_head, q_row, q_first = to
    first_row = first_query + 64 * GROUP
    o_at = O + _start(q_row, q_head, q_first, so_b, so_h, so_t)
    l_at = LSE + _start(q_row, q_head, q_first, sl_b, sl_h, sl_t)
    write(out, lse, first_row, rows - first_row, o_at, o_desc, o_s.index(GROUP),
          [batch, q_head, first_row, 0], l_at, so_t, so_d, sl_t, form.HEAD_DIM_V, form.WITH_LSE,
          form.O_GOES, form.O_WIDE)  # fmt: skip


@gluon.jit
def consume(shared, memory, GROUP: gl.constexpr, form: gl.constexpr):
    """One group: 64 queries of every item of its program.

    Where queries come by themselves and registers are enough, the output of an item is written
    while the first product of the next one runs.
    """
    (told, told_full, told_empty, items, sizes, requests) = shared
    LATER: gl.constexpr = form.Q_COMES and form.GROUPS == 2
    if form.PERSISTENT:
        O = memory[1]
        out = gl.zeros([64, form.BLOCK_DV], O.dtype.element_ty, accumulator(form.BLOCK_DV))
        lse = gl.zeros([64], gl.float32, gl.SliceLayout(1, accumulator(form.BLOCK_KV)))
        last = (0, 0, 0, 0, 0, 0)  # where the output is to go: nowhere at first
        turn = 0
        before = 0  # tiles of earlier items
        mbarrier.wait(told_full, 0)
        rows = rows_told(told)
        while rows > 0:
            placed = heard(told, rows)
            mbarrier.arrive(told_empty, count=1)
            begun = _begin(placed, turn, before, memory, GROUP, form)
            if LATER:
                _deliver(out, lse, last, memory, GROUP, form)
                out, lse = _serve(begun, placed, before, sizes, memory, GROUP, form)
                last = _to(placed)
            else:
                _deliver(*_serve(begun, placed, before, sizes, memory, GROUP, form), _to(placed),
                         memory, GROUP, form)  # fmt: skip
            turn += 1
            before += placed[4]
            mbarrier.wait(told_full, turn & 1)
            rows = rows_told(told)
        if LATER:
            _deliver(out, lse, last, memory, GROUP, form)
    else:
        item = gl.program_id(0)
        if item < items:
            placed = place(item, sizes, requests, form)
            if placed[1] > 0:
                begun = _begin(placed, 0, 0, memory, GROUP, form)
                _deliver(*_serve(begun, placed, 0, sizes, memory, GROUP, form), _to(placed),
                         memory, GROUP, form)  # fmt: skip
    if form.O_GOES:
        tma.store_wait(0)
