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
def dot(a, b, acc, PATH: tl.constexpr):
    """acc + a @ b with the products of PATH, operands already rounded to its type."""
    if PATH == "fp32":
        return tl.dot(a, b, acc, input_precision="ieee")
    elif PATH == "tf32":
        return tl.dot(a, b, acc, input_precision="tf32")
    else:
        return tl.dot(a, b, acc)


@triton.jit
def operand(x, PATH: tl.constexpr):
    """x rounded once to the operand type of PATH; fp16 scales are the caller's."""
    if PATH == "fp32":
        return x.to(tl.float32)
    elif PATH == "tf32":
        if x.dtype == tl.float32:
            return round_tf32(x)
        else:
            return x.to(tl.float32)  # 16-bit types are tf32 numbers already
    elif PATH == "bf16":
        return x.to(tl.bfloat16)
    else:
        return x.to(tl.float16)


@triton.jit
def widened(x, PATH: tl.constexpr):
    """x in fp32 where PATH multiplies fp32 numbers, as it is where it was rounded beforehand."""
    if PATH == "fp32" or PATH == "tf32":
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def query_operand(q, PATH: tl.constexpr, SCALED: tl.constexpr, NEGATE: tl.constexpr):
    """A tile of queries [rows, head_dim] in the operand type, and the factor each row lost.

    SCALED brings every row into fp16's range by an exact power of two; NEGATE turns the sign, so
    that the kernel can take the logits' scale as positive.
    """
    inverse = tl.full([q.shape[0]], 1.0, tl.float32)
    if SCALED:
        scale, inverse = fp16_scale(tl.max(finite_magnitude(q), 1))
        q = q.to(tl.float32) * scale[:, None]
    if NEGATE:
        q = -q
    return operand(q, PATH), inverse


@triton.jit
def tile_operand(x, PATH: tl.constexpr, SCALED: tl.constexpr):
    """A tile of keys or values in the operand type, and the factor the whole tile lost."""
    inverse = 1.0
    if SCALED:
        scale, inverse = fp16_scale(tl.max(tl.max(finite_magnitude(x), 1), 0))
        x = x.to(tl.float32) * scale
    return operand(x, PATH), inverse
