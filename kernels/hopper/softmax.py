"""From products to probabilities.

Registers are short here: CI looks for spills in the loops.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from autoprec.kernels.blocks import bounded, capped, count, far_below


@gluon.jit
def _exponent(x):
    return x.to(gl.int32, bitcast=True) >> 23


@gluon.jit
def _power_of_two(exponent):
    return ((127 + exponent) << 23).to(gl.float32, bitcast=True)


@gluon.jit
def values_unit(inverse, unit, SCALED: gl.constexpr):
    """Make the largest factor that V's tiles lost so far the unit of the output.

    Returns the new unit, and log2 of the old one and of the tile's own factor in units of it. The
    tile's probabilities are lowered by the latter, so that no element of the output needs a
    product of its own, but by 2^64 at most: a tile whose values lie that far below the others'
    counts as lost long before.
    """
    sunk = 0
    lowered = 0
    if SCALED:
        larger = gl.maximum(unit, inverse)
        sunk = _exponent(unit) - _exponent(larger)
        lowered = gl.maximum(_exponent(inverse) - _exponent(larger), -64)
        unit = larger
    return unit, sunk, lowered


@gluon.jit
def count_far_below(V_INVERSE, tiles, LOST, P_PARTS: gl.constexpr):
    """Count a head where a tile of its values lies too far below its largest."""
    layout: gl.constexpr = gl.BlockedLayout([4], [32], [4], [0])  # every warp has all of it
    largest = gl.zeros([128], gl.float32, layout)
    least = gl.full([128], float("inf"), gl.float32, layout)
    for first in range(0, tiles, 128):
        j = first + gl.arange(0, 128, layout)
        inverse = gl.load(V_INVERSE + j, mask=j < tiles, other=0.0)
        largest = gl.maximum(largest, inverse)
        least = gl.minimum(least, gl.where(inverse > 2.0**-126, inverse, float("inf")))
    count(far_below(gl.min(least, 0), gl.max(largest, 0), P_PARTS).to(gl.int32), LOST)


@gluon.jit
def sight_of(numbers, first_diagonal, window_left, kv_len, rows: gl.constexpr,
             CAUSAL: gl.constexpr, WINDOW: gl.constexpr):  # fmt: skip
    """The first and the last key that each of a group's rows sees; none where they are crossed."""
    last = gl.full([64], 0, gl.int32, rows) + (kv_len - 1)
    first = gl.full([64], 0, gl.int32, rows)
    if CAUSAL or WINDOW:
        position = first_diagonal + numbers.slice(0, 64).load(rows)
        if CAUSAL:
            last = gl.minimum(last, position)
        if WINDOW:
            first = gl.maximum(position - window_left, 0)
    return first, last


@gluon.jit
def seen(s, numbers, first_diagonal, window_left, kv_len, first_key, CAUSAL: gl.constexpr,
         WINDOW: gl.constexpr):  # fmt: skip
    """Products of keys that a row does not see, minus infinity.

    Numbers of rows and columns come from shared memory: the compiler would compute them before
    the loop and keep them in registers, of which there are none left.
    """
    first, last = sight_of(numbers, first_diagonal, window_left, kv_len,
                           gl.SliceLayout(1, s.type.layout), CAUSAL, WINDOW)  # fmt: skip
    columns = numbers.slice(0, s.shape[1]).load(gl.SliceLayout(0, s.type.layout))
    keys = (first_key + columns)[None, :]
    inside = keys <= last[:, None]
    if WINDOW:
        inside = inside & (keys >= first[:, None])
    return gl.where(inside, s, float("-inf"))


@gluon.jit
def logits(s, scale, k_inverse, factors, CAP: gl.constexpr):
    """Products of a tile, and the slope that makes base-2 logits of them, of each row.

    With a soft cap they are base-2 logits already. The slope is neither 0 nor infinity: -inf stays
    -inf.
    """
    (qk_scale, cap_in, cap_out) = factors
    unscaled = bounded(scale * k_inverse)
    if CAP:
        s = capped(s * unscaled[:, None], cap_in, cap_out)
        slope = gl.full([64], 1.0, gl.float32, scale.type.layout)
    else:
        slope = gl.minimum(gl.maximum(unscaled * qk_scale, 2.0**-126), 2.0**127)
    return s, slope


@gluon.jit
def coarse(slope):
    """The least power of two that is no less than a slope."""
    bits = (slope.to(gl.int32, bitcast=True) + 0x007FFFFF) & 0x7F800000
    return bits.to(gl.float32, bitcast=True)


@gluon.jit
def added(p, LANES: gl.constexpr):
    """The sum of each row of a tile; or, with LANES, sums of each lane's own columns.

    Lanes of a narrow tile have little to add before they would add up among themselves, so that
    they do so once for all tiles, in ``total``.
    """
    if LANES:
        return gl.sum(p.reshape([p.shape[0], p.shape[1] // 8, 8]), 1)
    else:
        return gl.sum(p, 1)


@gluon.jit
def total(l, rows: gl.constexpr):
    """The sum of each row, of what ``added`` gave."""
    if len(l.shape) == 2:
        return gl.convert_layout(gl.sum(l, 1), rows)
    else:
        return l


@gluon.jit
def _sum_shrunk(l, shrink):
    """Sums, each row times a factor."""
    if len(l.shape) == 2:
        return l * gl.convert_layout(shrink, gl.SliceLayout(1, l.type.layout))[:, None]
    else:
        return l * shrink


@gluon.jit
def softmax(s, m, l, slope, sunk, lowered, SCALED: gl.constexpr, SHIFT: gl.constexpr,
            LANES: gl.constexpr):  # fmt: skip
    """The probabilities of a tile, up to powers of two, and what the output shrinks by.

    Args:
        m: Of each row, what its base-2 logits are taken against: the largest so far, whose
            probability is then 1; with a SHIFT, so much less, and it is 2^SHIFT or a little below,
            lest fp16 cannot hold it.
        l: Of each row, the sum of its probabilities so far, as ``added`` gives it.
        slope: What makes base-2 logits of products, of each row.
        sunk, lowered: What ``values_unit`` gave.

    Returns the probabilities, ``m`` and ``l`` with them, and the shrinking.

    From 2^24 on fp32 has no fractions of logits left, and a product that is scaled without being
    rounded, in one operation with the difference, may lie far above the largest one, which was. So
    there the slope is ``coarse``, which rounds none, and the output is that of logits up to twice
    as far apart; ``output.divide`` has the LSE right.
    """
    top = gl.max(s, 1)
    largest = top * slope
    huge = gl.abs(largest) >= 2.0**24
    slope = gl.where(huge, coarse(slope), slope)
    least = largest
    if SHIFT > 0:  # two units in the last place more: of large logits rounding could make 2^16
        least = (largest + gl.abs(largest) * 2.0**-22) - SHIFT
    least = gl.maximum(gl.where(huge, top * slope, least), -3.4028234663852886e38)  # the lowest
    m_new = gl.maximum(m, least)
    shrink = gl.exp2(m - m_new)
    if SCALED:
        p = gl.exp2(s * slope[:, None] + (lowered.to(gl.float32) - m_new)[:, None])
        l = _sum_shrunk(l, shrink) + added(p, LANES) * _power_of_two(-lowered)
        shrink = gl.exp2(m - m_new + sunk.to(gl.float32))
    else:
        p = gl.exp2(s * slope[:, None] - m_new[:, None])
        l = _sum_shrunk(l, shrink) + added(p, LANES)
    return p, m_new, l, shrink


@gluon.jit
def _rounded(x, dtype: gl.constexpr):
    """To 16 bits, two numbers in one instruction; the compiler takes three."""
    if dtype == gl.bfloat16:
        return gl.inline_asm_elementwise("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x],
                                         dtype=gl.bfloat16, is_pure=True, pack=2)  # fmt: skip
    else:
        return gl.inline_asm_elementwise("cvt.rn.f16x2.f32 $0, $2, $1;", "=r,r,r", [x],
                                         dtype=gl.float16, is_pure=True, pack=2)  # fmt: skip


@gluon.jit
def split_p(p, dtype: gl.constexpr, layout: gl.constexpr, P_PARTS: gl.constexpr):
    """Probabilities in one part or two, as operands of a product."""
    if P_PARTS == 1:
        return (gl.convert_layout(_rounded(p, dtype), layout),)
    else:
        # by pairs, two parts in fp16 would take registers that loops have not
        hi = _rounded(p, dtype) if dtype == gl.bfloat16 else p.to(dtype)
        rest = p - hi.to(gl.float32)
        lo = _rounded(rest, dtype) if dtype == gl.bfloat16 else rest.to(dtype)
        return gl.convert_layout(hi, layout), gl.convert_layout(lo, layout)
