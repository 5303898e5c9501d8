"""A program of the Hopper prefill kernel: what it has in shared memory, and its warps' parts."""

from typing import Any

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from autoprec.kernels.hopper.consumer import consume
from autoprec.kernels.hopper.form import form_of
from autoprec.kernels.hopper.producer import produce
from autoprec.kernels.interface import Launch

_STAND_INS = {"window_left": 0, "cap_in": 0.0, "cap_out": 0.0}


@gluon.jit(do_not_specialize=["blocks", "section", "sections", "heads", "q_len", "kv_len",
                              "diagonal", "window_left", "batches", "fitting", "sl_b",
                              "sl_h", "sl_t"])  # fmt: skip
def _forward(Q, q_desc, k_desc, v_desc, O, o_desc, LSE, SINKS, K_INVERSE, V_INVERSE, LOST, ONLY_IF,
             NEXT, KV_LENS, KV_STARTS, PAGES, Q_STARTS,
             sq_b, sq_h, sq_t, sq_d, so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t,
             blocks, section, sections, heads, q_heads, group, batches, fitting, q_len,
             kv_len, diagonal, window_left, qk_scale, cap_in, cap_out, GROUPS: gl.constexpr,
             REGISTERS: gl.constexpr, PRODUCER_REGISTERS: gl.constexpr, PERSISTENT: gl.constexpr,
             CAUSAL: gl.constexpr, WINDOW: gl.constexpr, CAP: gl.constexpr,
             WITH_SINKS: gl.constexpr, PARTS: gl.constexpr, P_PARTS: gl.constexpr,
             SCALED_Q: gl.constexpr, SCALED: gl.constexpr,
             NEGATE: gl.constexpr, SHIFT: gl.constexpr, HEAD_DIM: gl.constexpr,
             HEAD_DIM_V: gl.constexpr, BLOCK_KV: gl.constexpr, BLOCK_D: gl.constexpr,
             BLOCK_DV: gl.constexpr, STAGES: gl.constexpr, WITH_LSE: gl.constexpr,
             COUNT: gl.constexpr, Q_COMES: gl.constexpr, Q_WIDE: gl.constexpr,
             O_GOES: gl.constexpr, O_WIDE: gl.constexpr, LENGTHS: gl.constexpr,
             RAGGED_Q: gl.constexpr, RAGGED_KV: gl.constexpr, PAGE: gl.constexpr):  # fmt: skip
    """One program blocks of 64 GROUPS queries of a head, one after the other; any grid (n,).

    They are handed out as programs get done, from a counter that is zero before and after.
    """
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([1, 1, 64, BLOCK_D], k_desc.dtype)
    q_s = gl.allocate_shared_memory(k_desc.dtype, [GROUPS * PARTS, 1, 1, 64, BLOCK_D], q_layout)
    k_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([1, 1, BLOCK_KV, BLOCK_D],
                                                                  k_desc.dtype)  # fmt: skip
    v_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([1, 1, BLOCK_KV, BLOCK_DV],
                                                                  v_desc.dtype)  # fmt: skip
    k_s = gl.allocate_shared_memory(k_desc.dtype, [PARTS * STAGES, 1, 1, BLOCK_KV, BLOCK_D],
                                    k_layout)  # fmt: skip
    v_s = gl.allocate_shared_memory(v_desc.dtype, [PARTS * STAGES, 1, 1, BLOCK_KV, BLOCK_DV],
                                    v_layout)  # fmt: skip
    o_s = q_s  # stands in for it
    if O_GOES:
        o_s = gl.allocate_shared_memory(o_desc.dtype, [GROUPS, 1, 1, 64, BLOCK_DV], o_desc.layout)
    counted: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    numbers = gl.allocate_shared_memory(gl.int32, [128], gl.SwizzledSharedLayout(1, 1, 1, [0]),
                                        gl.arange(0, 128, counted))  # fmt: skip
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(k_empty.index(stage), count=GROUPS)
        mbarrier.init(v_empty.index(stage), count=GROUPS)
    # The compiler gives away the memory of a barrier that nothing waits for, and whatever is there
    # is lost when the GPU turns to another process: only those that are used may be made.
    other = k_full.index(0)  # stands in for them
    q_full, q_empty, told, told_full, told_empty = other, other, numbers, other, other
    v_raw, pages_s = other, numbers
    if Q_COMES:
        q_full = gl.allocate_shared_memory(gl.int64, [GROUPS, 1], mbarrier.MBarrierLayout())
        q_empty = gl.allocate_shared_memory(gl.int64, [GROUPS, 1], mbarrier.MBarrierLayout())
        for one in gl.static_range(GROUPS):
            mbarrier.init(q_full.index(one), count=1)
            mbarrier.init(q_empty.index(one), count=1)
    if PERSISTENT:
        told = gl.allocate_shared_memory(gl.int32, [16], gl.SwizzledSharedLayout(1, 1, 1, [0]))
        told_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        told_empty = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        mbarrier.init(told_full, count=1)
        mbarrier.init(told_empty, count=GROUPS)
    if LENGTHS:
        v_raw = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        mbarrier.init(v_raw, count=1)
    if PAGE > 0:
        pages_s = gl.allocate_shared_memory(gl.int32, [32], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    fence_async_shared()
    items = blocks * section * sections  # an upper bound where the producer counts them
    if ONLY_IF is not None:
        items = gl.where(gl.load(ONLY_IF) != 0, items, 0)
    sizes = (blocks, section, sections, heads, q_heads, q_len, kv_len, diagonal, batches,
             window_left)  # fmt: skip
    requests = (KV_LENS, Q_STARTS, q_heads // group, fitting)
    shared = (told, told_full, told_empty, items, sizes, requests)
    factors = (qk_scale, cap_in, cap_out)
    eaten = (Q, O, o_desc, o_s, LSE, SINKS, numbers, q_s, k_s, v_s, q_full, q_empty, k_full,
             k_empty, v_full, v_empty, sq_b, sq_h, sq_t, sq_d, so_b, so_h, so_t, so_d, sl_b, sl_h,
             sl_t, group, factors, K_INVERSE, V_INVERSE, LOST)  # fmt: skip
    brought = (q_desc, k_desc, v_desc, q_s, k_s, v_s, q_full, q_empty, k_full, k_empty, v_full,
               v_empty, v_raw, pages_s, KV_STARTS, PAGES, batches, group)  # fmt: skip
    form: gl.constexpr = form_of(GROUPS, PERSISTENT, CAUSAL, WINDOW, CAP, WITH_SINKS, PARTS,
                                 P_PARTS, SCALED_Q, SCALED, NEGATE, SHIFT, HEAD_DIM, HEAD_DIM_V,
                                 BLOCK_KV, BLOCK_D, BLOCK_DV, STAGES, WITH_LSE, COUNT, Q_COMES,
                                 Q_WIDE, O_GOES, O_WIDE, LENGTHS, RAGGED_Q, RAGGED_KV,
                                 PAGE)  # fmt: skip
    # the first is what the program's own warps do, the last is one warp
    if GROUPS == 4:
        gl.warp_specialize([
            (consume, (shared, eaten, 0, form)),
            (consume, (shared, eaten, 1, form)),
            (consume, (shared, eaten, 2, form)),
            (consume, (shared, eaten, 3, form)),
            (produce, (shared, NEXT, brought, form)),
        ], [4, 4, 4, 1], [REGISTERS, REGISTERS, REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
    elif GROUPS == 3:
        gl.warp_specialize([
            (consume, (shared, eaten, 0, form)),
            (consume, (shared, eaten, 1, form)),
            (consume, (shared, eaten, 2, form)),
            (produce, (shared, NEXT, brought, form)),
        ], [4, 4, 1], [REGISTERS, REGISTERS, PRODUCER_REGISTERS])  # fmt: skip
    else:
        gl.warp_specialize([
            (consume, (shared, eaten, 0, form)),
            (consume, (shared, eaten, 1, form)),
            (produce, (shared, NEXT, brought, form)),
        ], [4, 1], [REGISTERS, PRODUCER_REGISTERS])  # fmt: skip


def launch_of(programs: int, arguments: dict[str, Any], *, counted: bool) -> Launch:
    """The launch of so many programs.

    Args:
        programs: How many; items beyond them are handed out as programs get done.
        arguments: Those of ``_forward``; None for what is not there.
        counted: Whether programs count in NEXT, which must then be zero as they begin.
    """
    # a tuple of arguments takes no None: others stand in for what is not there
    stand_ins = {
        name: arguments["k_desc"] if name.endswith("desc") else _STAND_INS.get(name, arguments["Q"])
        for name, value in arguments.items()
        if value is None and name != "ONLY_IF"
    }
    zeroed = ("NEXT",) if counted else ()
    return Launch(_forward, (programs,), arguments | stand_ins, temporary=("NEXT",), zeroed=zeroed)
