"""The @triton.jit pieces that the attention kernels share."""

import triton
import triton.language as tl

LOG2_E = 1.4426950408889634

P_SHIFT_FP16 = 10
"""Probabilities are computed as 2^10 times themselves before they are rounded to fp16, so that
those down to 2^-24 of the row's largest stay normal numbers; the sum carries the same factor."""


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

    Both are exact and normal numbers, so that scaling loses nothing; amax below 2^-112 comes out
    smaller than 2^14.
    """
    exponent = amax.to(tl.int32, bitcast=True) >> 23
    biased = tl.minimum(268 - exponent, 253)
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
def _residual(x, part):
    """What is left of x after its part; nothing where the part is infinite."""
    left = x - part.to(tl.float32)
    return tl.where(tl.abs(x) < float("inf"), left, 0.0)


@triton.jit
def split(x, OPERAND: tl.constexpr, PARTS: tl.constexpr):
    """x as three parts of the operand type, the largest first; those beyond PARTS repeat it."""
    first = rounded(x, OPERAND)
    second, third = first, first
    if PARTS >= 2:
        left = _residual(x.to(tl.float32), first)
        second = rounded(left, OPERAND)
        if PARTS >= 3:
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
def query_parts(q, OPERAND: tl.constexpr, PARTS: tl.constexpr, SCALED: tl.constexpr,
                NEGATE: tl.constexpr):  # fmt: skip
    """A tile of queries [rows, head_dim], split, and the factor each row lost.

    SCALED brings every row into fp16's range by an exact power of two; NEGATE turns the sign, so
    that the kernel can take the logits' scale as positive.
    """
    inverse = tl.full([q.shape[0]], 1.0, tl.float32)
    if SCALED:
        scale, inverse = fp16_scale(tl.max(finite_magnitude(q), 1))
        q = q.to(tl.float32) * scale[:, None]
    if NEGATE:
        q = -q
    return split(q, OPERAND, PARTS), inverse


@triton.jit
def tile_parts(x, OPERAND: tl.constexpr, PARTS: tl.constexpr, SCALED: tl.constexpr):
    """A tile of keys or values, split, and the factor the whole tile lost."""
    inverse = 1.0
    if SCALED:
        scale, inverse = fp16_scale(tl.max(tl.max(finite_magnitude(x), 1), 0))
        x = x.to(tl.float32) * scale
    return split(x, OPERAND, PARTS), inverse
