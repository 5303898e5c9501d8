"""The products of a tile, which run while the group does something else."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from autoprec.kernels.hopper.memory import flat


@gluon.jit
def multiply_qk(q_s, k_s, stage, j, zero, GROUP: gl.constexpr, PARTS: gl.constexpr,
                 BLOCK_KV: gl.constexpr, BLOCK_D: gl.constexpr):  # fmt: skip
    """Start q kᵀ, the smallest products first; a wgmma group each."""
    k_hi = flat(k_s.index(PARTS * stage), BLOCK_KV, BLOCK_D).permute([1, 0])
    # j is below 2^30: this is as if the place hung on it, or 16 addresses would stay in registers
    here = PARTS * GROUP + (j >> 30)
    q_hi = flat(q_s.index(here), 64, BLOCK_D)
    if PARTS == 2:
        k_lo = flat(k_s.index(PARTS * stage + 1), BLOCK_KV, BLOCK_D).permute([1, 0])
        q_lo = flat(q_s.index(here + 1), 64, BLOCK_D)
        s = warpgroup_mma(q_lo, k_hi, zero, use_acc=False, is_async=True)
        s = warpgroup_mma(q_hi, k_lo, s, is_async=True)
        return warpgroup_mma(q_hi, k_hi, s, is_async=True)
    else:
        return warpgroup_mma(q_hi, k_hi, zero, use_acc=False, is_async=True)


@gluon.jit
def multiply_pv(p, v_s, stage, o, FRESH: gl.constexpr, PARTS: gl.constexpr,
                 BLOCK_KV: gl.constexpr, BLOCK_DV: gl.constexpr):  # fmt: skip
    """Start o + p v, or p v from a fresh accumulator; a wgmma group for each product."""
    v_hi = flat(v_s.index(PARTS * stage), BLOCK_KV, BLOCK_DV)
    if len(p) == 2:
        o = warpgroup_mma(p[1], v_hi, o, use_acc=not FRESH, is_async=True)
        if PARTS == 2:
            v_lo = flat(v_s.index(PARTS * stage + 1), BLOCK_KV, BLOCK_DV)
            o = warpgroup_mma(p[0], v_lo, o, is_async=True)
        return warpgroup_mma(p[0], v_hi, o, is_async=True)
    else:
        return warpgroup_mma(p[0], v_hi, o, use_acc=not FRESH, is_async=True)


@gluon.jit
def finish_pv(started, p, following):
    """Wait for a PV product; the registers of the next tile's probabilities wait with it."""
    if len(p) == 2:
        o, p_hi, p_lo, following = warpgroup_mma_wait(0, deps=[started, p[0], p[1], following])
    else:
        o, p_hi, following = warpgroup_mma_wait(0, deps=[started, p[0], following])
    return o, following
