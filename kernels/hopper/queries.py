"""A group's queries, converted on their way to shared memory."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared

from autoprec.kernels.blocks import count, fp16_scale
from autoprec.kernels.hopper.memory import across, flat


@gluon.jit
def _lost_to_zero(x, inverse):
    """Whether a row has an element that is not zero and becomes zero in fp16, once it is scaled.

    Of twice the bits less one, of which those of zero are the largest. 2^-25 is half of fp16's
    least; elements are compared as they were, since their product with the scale may be zero.
    """
    bits = x.to(gl.uint32, bitcast=True)
    most = (inverse * 2.0**-25).to(gl.uint32, bitcast=True)
    return gl.min(bits + bits - 1, 1) < most + most


@gluon.jit
def load_q(Q, q_s, LOST, first_row, rows_left, stride_t, stride_d, GROUP: gl.constexpr,
            PARTS: gl.constexpr, NEGATE: gl.constexpr, SCALED: gl.constexpr, COUNT: gl.constexpr,
            HEAD_DIM: gl.constexpr, BLOCK_D: gl.constexpr, WIDE: gl.constexpr):  # fmt: skip
    """Bring a group's queries to shared memory in their parts; the factor that each row lost."""
    elements: gl.constexpr = 128 // Q.dtype.element_ty.primitive_bitwidth
    # eight lanes a row: few rows a thread, so that what is done for a row takes little code
    layout: gl.constexpr = gl.BlockedLayout([1, elements], [4, 8], [4, 1], [1, 0])
    rows = gl.arange(0, 64, gl.SliceLayout(1, layout))
    d = gl.arange(0, BLOCK_D, gl.SliceLayout(0, layout))
    at = Q + (first_row + rows).to(gl.int64)[:, None] * stride_t
    inside = (rows < rows_left)[:, None] & (d < HEAD_DIM)[None, :]
    q = gl.load(across(at, d, stride_d, WIDE), mask=inside, other=0.0)
    inverse = gl.full([64], 1.0, gl.float32, gl.SliceLayout(1, layout))
    if SCALED:
        q = q.to(gl.float32)
        largest = gl.max(gl.abs(q), 1)  # of what is no NaN
        scale, inverse = fp16_scale(gl.where(largest < float("inf"), largest, 0.0))
        if COUNT:
            count(gl.max(_lost_to_zero(q, inverse).to(gl.int32), 0), LOST)
        q = q * scale[:, None]
    if NEGATE:
        q = -q
    hi = q.to(q_s.dtype)
    flat(q_s.index(PARTS * GROUP), 64, BLOCK_D).store(hi)
    if PARTS == 2:
        # of an infinity it is NaN, as is the output of its row in any case
        lo = (q - hi.to(gl.float32)).to(q_s.dtype)
        flat(q_s.index(PARTS * GROUP + 1), 64, BLOCK_D).store(lo)
    fence_async_shared()
    return inverse
