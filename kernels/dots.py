"""Single matrix products, formed as the kernels form theirs: what the fingerprint is taken of."""

import torch
import triton
import triton.language as tl

from autoprec.kernels.blocks import products, rounded
from autoprec.kernels.interface import Launch


@triton.jit
def _product(A, B, C, OUT, OPERAND: tl.constexpr, ROUNDED: tl.constexpr, ROWS: tl.constexpr,
             COLS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """One program a product of tiles; grid (products,)."""
    place = tl.program_id(0)
    i, j, k = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :], tl.arange(0, DEPTH)
    a = tl.load(A + (place * ROWS + i) * DEPTH + k[None, :])
    b = tl.load(B + (place * DEPTH + k[:, None]) * COLS + j)
    c = tl.load(C + (place * ROWS + i) * COLS + j)
    if ROUNDED:
        a, b = rounded(a, OPERAND), rounded(b, OPERAND)
    out = products((a, a, a), (b, b, b), c, OPERAND, 1, 1)
    tl.store(OUT + (place * ROWS + i) * COLS + j, out)


def product(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, out: torch.Tensor, operand: str,
    *, rounded: bool = True,
) -> Launch:  # fmt: skip
    """Plan out = c + a @ b.

    Args:
        a: ``[products, rows, depth]``, fp32, contiguous like the others.
        b: ``[products, depth, cols]``, fp32.
        c: ``[products, rows, cols]``, fp32.
        out: Like c; written.
        operand: Of a path: what the matrix product multiplies.
        rounded: Whether a and b are rounded to the operand type first, as kernels do; only fp32
            and tf32 products take them as they are.
    """
    count, rows, depth = a.shape
    arguments = {
        "A": a, "B": b, "C": c, "OUT": out, "OPERAND": operand, "ROUNDED": rounded,
        "ROWS": rows, "COLS": c.shape[2], "DEPTH": depth, "num_warps": 4, "num_stages": 1,
    }  # fmt: skip
    return Launch(_product, (count,), arguments)
