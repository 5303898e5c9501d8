"""A tile of keys and values in two steps: the products of queries and keys, and what they add.

FORM says what lies in memory. ``registers``: numbers that are rounded or split as they are read,
and scaled where the path needs it; ``parts``: planes of a path's parts with a factor for each tile,
as planes.py makes them; ``halves``: two fp16 planes with a factor for each token, as a cache of
``Storage.PLANES`` holds them, of which a path of one part reads the first alone.

Tokens of a tile lie one after another, in one page, or in several: PAGE tokens each, 0 for none.
"""

import triton
import triton.language as tl

from autoprec.kernels.blocks import (
    add_values,
    bounded,
    capped,
    products,
    tile_parts,
    weights,
)


@triton.jit
def _masked_logits(s, mask, keys, kv_len, MASKING: tl.constexpr):
    """The logits of a tile where the caller's mask lets them through, and -inf elsewhere.

    MASKING is ``bits``, ``bools``, or ``floats``, which join the logits: base-2 ones, then.
    """
    MASK, rows, q_len, sm_t, sm_d = mask
    real = (rows < q_len)[:, None] & (keys < kv_len)[None, :]
    if MASKING == "bits":
        pair = rows.to(tl.int64)[:, None] * kv_len + keys[None, :]
        byte = tl.load(MASK + pair // 8, mask=real, other=0).to(tl.int32)
        seen = ((byte >> (pair % 8).to(tl.int32)) & 1) != 0
    else:
        at = MASK + rows.to(tl.int64)[:, None] * sm_t + keys.to(tl.int64)[None, :] * sm_d
        if MASKING == "bools":
            seen = tl.load(at, mask=real, other=0) != 0
        else:
            bias = tl.load(at, mask=real, other=float("-inf")).to(tl.float32)
            seen = bias != float("-inf")
            # log2(e) times the lowest fp32 would be -inf, and hide a key
            s += tl.where(bias < -2e38, -2e38, bias) * 1.4426950408889634
    return tl.where(seen, s, float("-inf"))


@triton.jit
def _offsets(start, tokens, inside, kv_len, PAGES, s_b, s_t, PAGE: tl.constexpr,
             MASKED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Where a tile begins, and the offsets of its tokens from there.

    One that lies in several pages begins at 0: each of its tokens has the whole offset.
    """
    if PAGE == 0:
        return tl.cast(start, tl.int64) * s_t, tokens * s_t
    elif PAGE % BLOCK == 0:
        page = _one(PAGES + start // PAGE, start < kv_len, MASKED).to(tl.int64)
        return page * s_b + (start % PAGE) * s_t, tokens * s_t
    else:
        pages = tl.load(PAGES + (start + tokens) // PAGE, mask=inside, other=0).to(tl.int64)
        return 0, pages * s_b + ((start + tokens) % PAGE) * s_t


@triton.jit
def _load(at, plane, rows, cols, ROWS_MASKED: tl.constexpr, COLS_MASKED: tl.constexpr,
          OPERAND: tl.constexpr, PARTS: tl.constexpr):  # fmt: skip
    """The parts of a tile, from their planes; rows and cols are masks, used where said."""
    first = _masked(at, rows, cols, ROWS_MASKED, COLS_MASKED)
    if OPERAND == "fp32" or OPERAND == "tf32":
        first = first.to(tl.float32)  # 16-bit inputs are exact in both
    second, third = first, first
    if PARTS >= 2:
        second = _masked(at + plane, rows, cols, ROWS_MASKED, COLS_MASKED)
    if PARTS >= 3:
        # twice a plane may be beyond int32
        third = _masked(at + plane + plane, rows, cols, ROWS_MASKED, COLS_MASKED)
    return first, second, third


@triton.jit
def _masked(at, rows, cols, ROWS_MASKED: tl.constexpr, COLS_MASKED: tl.constexpr):
    if ROWS_MASKED and COLS_MASKED:
        return tl.load(at, mask=rows & cols, other=0.0)
    elif ROWS_MASKED:
        return tl.load(at, mask=rows, other=0.0)
    elif COLS_MASKED:
        return tl.load(at, mask=cols, other=0.0)
    else:
        return tl.load(at)


@triton.jit
def _one(at, real, MASKED: tl.constexpr):
    """A tile's one number, such as its page; MASKED: it may lie beyond all keys, and have none."""
    if MASKED:
        return tl.load(at, mask=real, other=1)
    else:
        return tl.load(at)


@triton.jit
def scores(q, memory, kv_len, start, OPERAND: tl.constexpr, PARTS: tl.constexpr,
           FORM: tl.constexpr, PAGE: tl.constexpr, SCALED_KV: tl.constexpr, MASKED: tl.constexpr,
           HEAD_DIM: tl.constexpr, BLOCK_KV: tl.constexpr, BLOCK_D: tl.constexpr,
           WIDE: tl.constexpr, COUNT: tl.constexpr):  # fmt: skip
    """The products of queries with the keys of a tile, and the factors its keys and values lost.

    Returns:
        s, the factor of the tile's keys, and for ``halves`` those of its values.
    """
    (K, V, K_INVERSE, V_INVERSE, PAGES, LOST, k_plane, v_plane, sk_b, sk_t, sk_d, sv_b, sv_t, sv_d,
     si_b, si_t) = memory  # fmt: skip
    n, d = tl.arange(0, BLOCK_KV), tl.arange(0, BLOCK_D)
    if WIDE:
        n, d = n.to(tl.int64), d.to(tl.int64)
    inside = start + n < kv_len
    k_from, k_tokens = _offsets(start, n, inside, kv_len, PAGES, sk_b, sk_t, PAGE, MASKED, BLOCK_KV)
    k_at = K + k_from + (k_tokens[None, :] + d[:, None] * sk_d)
    k = _load(k_at, k_plane, inside[None, :], (d < HEAD_DIM)[:, None], MASKED,
              HEAD_DIM < BLOCK_D, "any" if FORM == "registers" else OPERAND,
              1 if FORM == "registers" else PARTS)  # fmt: skip
    factors = 1.0
    if FORM == "halves":  # factors are loaded before they are waited for
        i_from, i_tokens = _offsets(start, n, inside, kv_len, PAGES, si_b, si_t, PAGE, MASKED,
                                    BLOCK_KV)  # fmt: skip
        k_factors = tl.load(K_INVERSE + i_from + i_tokens, mask=inside, other=1.0)
        factors = tl.load(V_INVERSE + i_from + i_tokens, mask=inside, other=2.0**-126)
    k_inverse = 1.0
    if FORM == "registers":
        k, k_inverse = tile_parts(k[0], LOST, OPERAND, PARTS, SCALED_KV, COUNT, 0)
    elif SCALED_KV:
        k_inverse = _one(K_INVERSE + start // BLOCK_KV, start < kv_len, MASKED)
    s = tl.zeros([q[0].shape[0], BLOCK_KV], tl.float32)
    s = products(q, k, s, OPERAND, PARTS, PARTS)
    if FORM == "halves":
        s *= k_factors[None, :]
    return s, k_inverse, factors


@triton.jit
def add(s, k_inverse, factors, scale, state, memory, sight, mask, start, qk_scale,
        OPERAND: tl.constexpr, PARTS: tl.constexpr, P_PARTS: tl.constexpr, FORM: tl.constexpr,
        PAGE: tl.constexpr, SCALED_Q: tl.constexpr, SCALED_KV: tl.constexpr, MASKED: tl.constexpr,
        GUARDED: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr,
        MASKING: tl.constexpr, SHIFT: tl.constexpr, HEAD_DIM_V: tl.constexpr,
        BLOCK_KV: tl.constexpr, BLOCK_DV: tl.constexpr, WIDE: tl.constexpr,
        COUNT: tl.constexpr):  # fmt: skip
    """The state with a tile of values, weighted by what ``scores`` gave; others as in ``tiles``."""
    (K, V, K_INVERSE, V_INVERSE, PAGES, LOST, k_plane, v_plane, sk_b, sk_t, sk_d, sv_b, sv_t, sv_d,
     si_b, si_t) = memory  # fmt: skip
    kv_len, position, window_left, cap_in, cap_out = sight
    m, l, acc, largest, least = state
    n, dv = tl.arange(0, BLOCK_KV), tl.arange(0, BLOCK_DV)
    if WIDE:
        n, dv = n.to(tl.int64), dv.to(tl.int64)
    inside = start + n < kv_len
    BASE2: tl.constexpr = CAP or MASKING == "floats"
    SCALED: tl.constexpr = (SCALED_Q or SCALED_KV) and not BASE2
    tile_scale = scale
    if SCALED_KV:
        tile_scale = bounded(scale * k_inverse)
    if CAP:
        s = capped(s * tile_scale[:, None], cap_in, cap_out)
    elif BASE2:
        s *= tile_scale[:, None] * cap_in
    if MASKING != "none":
        s = _masked_logits(s, mask, start + n, kv_len, MASKING)
    if MASKED:
        seen = inside[None, :]
        if CAUSAL:
            seen = seen & (start + n[None, :] <= position[:, None])
        if WINDOW:
            seen = seen & (start + n[None, :] >= (position - window_left)[:, None])
        s = tl.where(seen, s, float("-inf"))
    largest_product = tl.max(s, 1)
    if SCALED:
        largest_product *= tile_scale
    m_new = tl.maximum(m, largest_product)
    origin = m_new
    if GUARDED:
        origin = tl.where(m_new == float("-inf"), 0.0, m_new)
    p = weights(s, tile_scale, origin, qk_scale, SHIFT, SCALED)
    shrink = tl.exp2((m - origin) * qk_scale)
    l = l * shrink + tl.sum(p, 1)
    v_from, v_tokens = _offsets(start, n, inside, kv_len, PAGES, sv_b, sv_t, PAGE, MASKED, BLOCK_KV)
    v_at = V + v_from + (v_tokens[:, None] + dv[None, :] * sv_d)
    v = _load(v_at, v_plane, inside[:, None], (dv < HEAD_DIM_V)[None, :], MASKED,
              HEAD_DIM_V < BLOCK_DV, "any" if FORM == "registers" else OPERAND,
              1 if FORM == "registers" else PARTS)  # fmt: skip
    v_inverse = 1.0
    if FORM == "registers":
        v, v_inverse = tile_parts(v[0], LOST, OPERAND, PARTS, SCALED_KV, COUNT, 1)
    elif SCALED_KV:
        v_inverse = _one(V_INVERSE + start // BLOCK_KV, start < kv_len, MASKED)
    if FORM == "halves":
        # the tokens' factors go into their probabilities, as far as they differ
        v_inverse = tl.max(factors, 0)
        p *= (factors / v_inverse)[None, :]
        if COUNT:
            factors = tl.where(factors > 2.0**-126, factors, float("inf"))
            largest = tl.maximum(largest, v_inverse)
            least = tl.minimum(least, tl.min(factors, 0))
    elif SCALED_KV and FORM == "registers" and COUNT:
        largest = tl.maximum(largest, v_inverse)
        least = tl.where(v_inverse > 2.0**-126, tl.minimum(least, v_inverse), least)
    if SCALED_KV or FORM == "halves":
        v_inverse *= 2.0**-SHIFT  # acc holds Σ p v, and not 2^SHIFT of it, which may overflow
    acc = add_values(p, v, acc * shrink[:, None], v_inverse, OPERAND, P_PARTS, PARTS,
                     SCALED_KV or FORM == "halves")  # fmt: skip
    return m_new, l, acc, largest, least
