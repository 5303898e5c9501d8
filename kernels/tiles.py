"""The loop over keys that decode and prefill share: wherever K and V lie, and in whatever form."""

import triton
import triton.language as tl

from autoprec.kernels.steps import add, scores


@triton.jit
def request(batch, Q_STARTS, KV_LENS, q_len, kv_len, diagonal):
    """The row of q that a request is in, its first query, its lengths and its diagonal.

    A request longer than the bound kv_len, which no caller may have, ends there.
    """
    q_row, q_first = batch, 0
    if KV_LENS is not None:
        kv_len = tl.minimum(tl.load(KV_LENS + batch), kv_len)
        if Q_STARTS is not None:
            q_row = batch * 0
            q_first = tl.load(Q_STARTS + batch)
            q_len = tl.load(Q_STARTS + batch + 1) - q_first
        diagonal += kv_len - q_len
    return q_row, q_first, q_len, kv_len, diagonal


@triton.jit
def split_of(kv_len, splits, unit):
    """Keys of each of a number of splits of a request: a whole number of units, and one at least.

    The unit is a whole number of tiles, so that tiles begin at multiples of their size.
    """
    return tl.maximum(tl.cdiv(tl.cdiv(kv_len, splits), unit), 1) * unit


@triton.jit
def base(X, batch, head, start, s_b, s_h, s_t, PAGE: tl.constexpr):
    """Where a head of a request begins; with pages, where the head of page 0 does.

    The request's start is its first token, or the place of its first page; None: it has a row.
    """
    at = X + head * s_h
    if start is None:
        at += batch * s_b
    elif PAGE == 0:
        at += start.to(tl.int64) * s_t
    return at


@triton.jit
def sees_any(position, window_left, kv_len, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
             LENGTHS: tl.constexpr):  # fmt: skip
    """Whether a query at a position sees any key."""
    seen = (position >= 0) | (not CAUSAL)
    if WINDOW:
        seen = seen & (position - window_left < kv_len)
    if LENGTHS:
        seen = seen & (kv_len > 0)
    return seen


@triton.jit
def mask_base(MASK, MASK_STARTS, batch, head, sm_b, sm_h, MASKING: tl.constexpr):
    """Where the mask of a head of a request begins."""
    if MASKING == "bits":
        return MASK + tl.load(MASK_STARTS + batch)
    else:
        return MASK + batch * sm_b + head * sm_h


@triton.jit
def tiles(q, scale, state, memory, sight, mask, first, last, qk_scale,
          OPERAND: tl.constexpr, PARTS: tl.constexpr, P_PARTS: tl.constexpr,
          FORM: tl.constexpr, PAGE: tl.constexpr, SCALED_Q: tl.constexpr, SCALED_KV: tl.constexpr,
          MASKED: tl.constexpr, GUARDED: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
          CAP: tl.constexpr, MASKING: tl.constexpr, SHIFT: tl.constexpr, HEAD_DIM: tl.constexpr,
          HEAD_DIM_V: tl.constexpr, BLOCK_KV: tl.constexpr, BLOCK_D: tl.constexpr,
          BLOCK_DV: tl.constexpr, WIDE: tl.constexpr, COUNT: tl.constexpr,
          AHEAD: tl.constexpr):  # fmt: skip
    """Take the keys first ≤ j < last into the state: the largest products, sums, outputs.

    Args:
        q: Its parts, and ``scale`` the factor that each row lost.
        state: m, l and acc of the rows, and, of the values' factors, the largest and the least.
        memory: Of one head of a request: where K, V and their factors begin, the page numbers,
            the distance of planes, strides, and the counter of lost tiles.
        sight: Keys there are, the rows' positions, the window, and the soft cap's two factors.
        mask: Where that of the head begins, the rows of queries, how many there are, and strides.
        qk_scale: Makes base-2 logits of products; with a soft cap, and with a mask of floats, 1,
            since they are made before: then cap_in, where there is no cap, does it.
        MASKED: Whether some row may not see all keys of these tiles, which may reach beyond kv_len.
        GUARDED: Whether a row may have seen nothing above -inf yet.
        WIDE: Whether offsets within a tile may need 64 bits.
        AHEAD: Whether a tile's products of queries and keys are formed before the softmax of the
            tile before, so that both can run at once; last is a whole number of tiles after first.
    """
    if not AHEAD:
        for start in tl.range(first, last, BLOCK_KV):
            s, k_inverse, factors = scores(q, memory, sight[0], start, OPERAND, PARTS, FORM, PAGE,
                                           SCALED_KV, MASKED, HEAD_DIM, BLOCK_KV, BLOCK_D, WIDE,
                                           COUNT)  # fmt: skip
            state = add(s, k_inverse, factors, scale, state, memory, sight, mask, start, qk_scale,
                        OPERAND, PARTS, P_PARTS, FORM, PAGE, SCALED_Q, SCALED_KV, MASKED, GUARDED,
                        CAUSAL, WINDOW, CAP, MASKING, SHIFT, HEAD_DIM_V, BLOCK_KV, BLOCK_DV, WIDE,
                        COUNT)  # fmt: skip
    elif first < last:
        s, k_inverse, factors = scores(q, memory, sight[0], first, OPERAND, PARTS, FORM, PAGE,
                                       SCALED_KV, MASKED, HEAD_DIM, BLOCK_KV, BLOCK_D, WIDE,
                                       COUNT)  # fmt: skip
        for start in tl.range(first, last - BLOCK_KV, BLOCK_KV):
            s_next, k_inverse_next, factors_next = scores(
                q, memory, sight[0], start + BLOCK_KV, OPERAND, PARTS, FORM, PAGE, SCALED_KV,
                MASKED, HEAD_DIM, BLOCK_KV, BLOCK_D, WIDE, COUNT
            )  # fmt: skip
            state = add(s, k_inverse, factors, scale, state, memory, sight, mask, start, qk_scale,
                        OPERAND, PARTS, P_PARTS, FORM, PAGE, SCALED_Q, SCALED_KV, MASKED, GUARDED,
                        CAUSAL, WINDOW, CAP, MASKING, SHIFT, HEAD_DIM_V, BLOCK_KV, BLOCK_DV, WIDE,
                        COUNT)  # fmt: skip
            s, k_inverse, factors = s_next, k_inverse_next, factors_next
        state = add(s, k_inverse, factors, scale, state, memory, sight, mask, last - BLOCK_KV,
                    qk_scale, OPERAND, PARTS, P_PARTS, FORM, PAGE, SCALED_Q, SCALED_KV, MASKED,
                    GUARDED, CAUSAL, WINDOW, CAP, MASKING, SHIFT, HEAD_DIM_V, BLOCK_KV, BLOCK_DV,
                    WIDE, COUNT)  # fmt: skip
    return state
