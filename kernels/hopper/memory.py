"""How tiles lie in shared memory and are given back there, and rows in that of the device."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier


@gluon.constexpr_function
def accumulator(columns):
    """The layout of a group's 64 rows as its products leave them."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, columns, 16])


@gluon.jit
def flat(tile, ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """A tile of the copy engine, [1, 1, ROWS, COLUMNS], as a matrix."""
    return tile.reshape([ROWS, COLUMNS])


@gluon.jit
def across(rows, d, stride, WIDE: gl.constexpr):
    """Addresses of the elements d of rows; WIDE: rows lie without gaps, in whole 16 bytes.

    A partition is not told what the launch knows of strides and addresses.
    """
    if WIDE:
        elements: gl.constexpr = 128 // rows.dtype.element_ty.primitive_bitwidth
        return gl.max_contiguous(gl.multiple_of(rows + d[None, :], [1, 16]), [1, elements])
    else:
        return rows + d.to(gl.int64)[None, :] * stride


@gluon.jit
def release(bar, pred=True):
    """Tell a barrier that a group's products have read a tile.

    To be called once they have been waited for. One thread speaks for the group: products are made
    and waited for by its four warps together, so that they need not meet as ``mbarrier.arrive``
    has them do, which stands a warp that is ahead in line with one that is behind. Expecting no
    bytes is an arrival, and has no such meeting.
    """
    mbarrier.expect(bar, 0, pred=pred)
