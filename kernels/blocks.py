"""The @triton.jit pieces that the attention kernels share.

Pieces name no number of their module: with one, Triton's key of a kernel would depend on which
kernels the process had met before, and what one process compiled would not be found by another.
"""

import triton
import triton.language as tl

LOG2_E = 1.4426950408889634

P_SHIFT_FP16 = 15
"""Probabilities are computed as 2^15 times themselves before they are rounded to fp16, so that
those down to 2^-29 of the row's largest stay normal numbers; the sum carries the same factor."""


def base2_scale(sm_scale: float) -> float:
    """The factor that makes base-2 logits of products, without sign; above 0: -inf stays -inf."""
    return max(abs(sm_scale) * LOG2_E, 2.0**-126)


def cap_scales(sm_scale: float, soft_cap: float | None) -> tuple[float | None, float | None]:
    """The factors of ``capped`` for products without sign; None without a cap."""
    if soft_cap is None:
        return None, None
    return min(max(abs(sm_scale) / soft_cap, 2.0**-126), 2.0**126), soft_cap * LOG2_E


@triton.jit
def round_tf32(x):
    """fp32 rounded to the nearest tf32, ties away from zero; NaN stays NaN.

    The hardware truncates fp32 operands of a tf32 product, which is biased and four times worse.
    """
    rounded = (x.to(tl.uint32, bitcast=True) + 0x1000) & 0xFFFFE000
    return tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)


@triton.jit
def finite_magnitude(x):
    """|x| in fp32, with 0 for NaN and infinity."""
    magnitude = tl.abs(x.to(tl.float32))
    return tl.where(magnitude < float("inf"), magnitude, 0.0)


@triton.jit
def fp16_scale(amax):
    """The power of two that brings amax (fp32, finite) into [2^14, 2^15), and its inverse.

    Both are exact and normal numbers, so that scaling loses nothing; amax below 2^-111 comes out
    smaller than 2^14. An inverse of 2^-126 stands for amax = 0, and for nothing else.
    """
    bits = amax.to(tl.int32, bitcast=True)
    biased = tl.minimum(268 - (bits >> 23), tl.where(bits == 0, 253, 252))
    scale = (biased << 23).to(tl.float32, bitcast=True)
    inverse = ((254 - biased) << 23).to(tl.float32, bitcast=True)
    return scale, inverse


@triton.jit
def rounded(x, OPERAND: tl.constexpr):
    """x rounded once to the operand type; 16-bit numbers are tf32 numbers as they are."""
    if OPERAND == "fp32":
        return x.to(tl.float32)
    elif OPERAND == "tf32":
        if x.dtype == tl.float32:
            return round_tf32(x)
        else:
            return x.to(tl.float32)
    elif OPERAND == "bf16":
        return x.to(tl.bfloat16)
    else:
        return x.to(tl.float16)


@triton.jit
def bounded(scale):
    """A power of two by which products are scaled back, neither 0 nor infinity.

    So what is minus infinity or zero stays it, and is no NaN. Products of parts lie below 2^38 and,
    where they are not zero, above 2^-48: only the extremes of fp32 itself are ever bounded.
    """
    return tl.minimum(tl.where(scale == 0.0, 2.0**-126, scale), 2.0**127)


@triton.jit
def weights(s, scale, m, qk_scale, SHIFT: tl.constexpr, SCALED: tl.constexpr):
    """2^SHIFT times the probabilities of a tile's products s against the row's reference m.

    scale is a power of two for each row, used where SCALED; scale * s and m are products of Q and
    K, and qk_scale makes base-2 logits of them. Where a shift is to stay within fp16, the
    difference comes first: that of scaled products would round, by more than SHIFT if they are
    large. Elsewhere one operation an element is enough.
    """
    if SHIFT > 0:
        if SCALED:
            s = s * scale[:, None]
        return tl.exp2((s - m[:, None]) * qk_scale + SHIFT)
    else:
        return tl.exp2(s * qk_scale - (m * qk_scale)[:, None])


@triton.jit
def capped(s, cap_in, cap_out):
    """cap_out * tanh(cap_in * s): base-2 logits under a soft cap.

    Below 1/2 the series of tanh, whose first term left out is 2^-23 of it; above, exponentials.
    """
    x = s * cap_in
    y = x * x
    series = 0.0035921280  # 21844/6081075, and so on down to -1/3
    series = series * y - 0.0088632355
    series = series * y + 0.021869489
    series = series * y - 0.053968254
    series = series * y + 0.13333334
    series = series * y - 0.33333334
    magnitude = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp2(magnitude * 2.8853900817779268) + 1.0)  # 2 log2(e)
    tanh = tl.where(magnitude < 0.5, x + x * y * series, tl.where(x < 0.0, -far, far))
    return tanh * cap_out


@triton.jit
def closed(l, m, qk_scale, some, sink, WITH_SINK: tl.constexpr):
    """A row's end: what the output shrinks by, is divided by, and the LSE.

    Args:
        l: The sum of the row's probabilities against its largest product m.
        some: Whether it sees a key. It is emptied by position, not by l == 0: a row of keys at
            -inf is NaN, as in a softmax.
        sink: A logit in natural units that joins the sum, used where said.
    """
    if WITH_SINK:
        sink *= 1.4426950408889634  # log2(e)
        top = tl.where(some, tl.maximum(m * qk_scale, sink), sink)
        origin = tl.where(top == float("-inf"), 0.0, top)
        shrink = tl.exp2(m * qk_scale - origin)
        total = l * shrink + tl.exp2(sink - origin)
        return shrink, total, tl.where(some, origin + tl.log2(total), sink)
    else:
        return 1.0, l, tl.where(some, m * qk_scale + tl.log2(l), float("-inf"))


@triton.jit
def split(x, OPERAND: tl.constexpr, PARTS: tl.constexpr):
    """x as three parts of the operand type, the largest first; those beyond PARTS repeat it.

    An infinity is the last part alone. That one is multiplied once, by the other's first; were it
    the first, the other's small parts, of any sign or zero, would make NaN of it.
    """
    first = rounded(x, OPERAND)
    second, third = first, first
    if PARTS >= 2:
        infinite = tl.abs(x) == float("inf")
        first = tl.where(infinite, 0.0, first).to(first.dtype)
        left = x.to(tl.float32) - first.to(tl.float32)
        second = rounded(left, OPERAND)
        if PARTS >= 3:
            second = tl.where(infinite, 0.0, second).to(second.dtype)
            third = rounded(left - second.to(tl.float32), OPERAND)
    return first, second, third


@triton.jit
def _dot(a, b, acc, OPERAND: tl.constexpr):
    if OPERAND == "fp32":
        return tl.dot(a, b, acc, input_precision="ieee")
    elif OPERAND == "tf32":
        return tl.dot(a, b, acc, input_precision="tf32")
    else:
        return tl.dot(a, b, acc)


@triton.jit
def products(a, b, acc, OPERAND: tl.constexpr, PARTS_A: tl.constexpr, PARTS_B: tl.constexpr):
    """acc + a @ b for split a and b: the products of parts, the smallest first."""
    if PARTS_A == 3:
        acc = _dot(a[1], b[1], acc, OPERAND)
        acc = _dot(a[2], b[0], acc, OPERAND)
        acc = _dot(a[0], b[2], acc, OPERAND)
    if PARTS_A >= 2:
        acc = _dot(a[1], b[0], acc, OPERAND)
    if PARTS_B >= 2:
        acc = _dot(a[0], b[1], acc, OPERAND)
    return _dot(a[0], b[0], acc, OPERAND)


@triton.jit
def add_values(p, v, acc, v_inverse, OPERAND: tl.constexpr, P_PARTS: tl.constexpr,
               PARTS: tl.constexpr, SCALED: tl.constexpr):  # fmt: skip
    """acc + v_inverse * (p @ v) for probabilities p in fp32.

    Tensor cores truncate as they accumulate: where P is split, a tile's product starts from zero
    and is added in fp32, which is ten times as accurate over a long row. A SCALED tile has a scale
    of its own and starts from zero as well.
    """
    parts = split(p, OPERAND, P_PARTS)
    if P_PARTS == 1 and not SCALED:
        return products(parts, v, acc, OPERAND, P_PARTS, PARTS)
    else:
        fresh = tl.zeros([acc.shape[0], acc.shape[1]], tl.float32)
        fresh = products(parts, v, fresh, OPERAND, P_PARTS, PARTS)
        if SCALED:
            fresh *= v_inverse
        return acc + fresh


@triton.jit
def lost_to_zero(magnitude, scale):
    """Whether an element, finite and not zero, is at most half of fp16's least and becomes zero."""
    return (magnitude > 0.0) & (magnitude * scale <= 2.0**-25)


@triton.jit
def far_below(inverse, unit, P_PARTS: tl.constexpr):
    """Whether a tile of values, by the factor it lost, lies too far below one that lost ``unit``.

    Probabilities, 2^15 times themselves, are held in fp16 to 2^-25: what that is of the larger
    values must not show in an output that the smaller ones make.
    """
    spread: tl.constexpr = 2.0**19 if P_PARTS >= 2 else 2.0**28
    return (inverse > 2.0**-126) & (inverse < unit / spread)


@triton.jit
def count(tiles, LOST):
    """Add a number of tiles to the counter, where it is not zero; nothing waits for that."""
    tl.atomic_add(LOST, tiles, mask=tiles > 0, sem="relaxed")


@triton.jit
def query_parts(q, LOST, OPERAND: tl.constexpr, PARTS: tl.constexpr, SCALED: tl.constexpr,
                NEGATE: tl.constexpr, COUNT: tl.constexpr):  # fmt: skip
    """A tile of queries [rows, head_dim], split, and the factor each row lost.

    SCALED brings every row into fp16's range by an exact power of two; NEGATE turns the sign, so
    that the kernel can take the logits' scale as positive; COUNT counts the tile in LOST where an
    element was lost to zero.
    """
    inverse = tl.full([q.shape[0]], 1.0, tl.float32)
    if SCALED:
        magnitude = finite_magnitude(q)
        scale, inverse = fp16_scale(tl.max(magnitude, 1))
        if COUNT:
            zeroed = tl.max(lost_to_zero(magnitude, scale[:, None]).to(tl.int32), 1)
            count(tl.max(zeroed, 0), LOST)
        q = q.to(tl.float32) * scale[:, None]
    if NEGATE:
        q = -q
    return split(q, OPERAND, PARTS), inverse


@triton.jit
def tile_parts(x, LOST, OPERAND: tl.constexpr, PARTS: tl.constexpr, SCALED: tl.constexpr,
               COUNT: tl.constexpr, DIM_AXIS: tl.constexpr):  # fmt: skip
    """A tile of keys or values, split, and the factor the whole tile lost.

    COUNT counts the tile in LOST where an element was lost to zero, or where a token's largest
    lies so far below the tile's that fp16, or the probabilities of its larger tokens, are too
    coarse for it.
    """
    inverse = 1.0
    if SCALED:
        magnitude = finite_magnitude(x)
        tokens = tl.max(magnitude, DIM_AXIS)
        scale, inverse = fp16_scale(tl.max(tokens, 0))
        if COUNT:
            least: tl.constexpr = 1.0 if PARTS >= 2 else 2.0**-9  # of [2^14, 2^15)
            zeroed = tl.max(lost_to_zero(magnitude, scale).to(tl.int32), DIM_AXIS)
            coarse = (tokens > 0.0) & (tokens * scale < least)
            count(tl.max(zeroed | coarse.to(tl.int32), 0), LOST)
        x = x.to(tl.float32) * scale
    return split(x, OPERAND, PARTS), inverse
