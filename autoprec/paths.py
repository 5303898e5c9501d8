"""The precision paths: each a named way of forming QKᵀ and PV.

A new path is a row here; the kernels that can run it name it in their KERNELS.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Path:
    """A way of computing attention. Softmax and sums are fp32 in all of them.

    Attributes:
        name: Triton's name where Triton has one.
        operand: The type the operands of both matrix products are rounded to.
        qk_products: Matrix products that form QKᵀ.
        pv_products: Matrix products that form PV.
        expected_rel_l2: The relative L2 error to expect from N(0, 1) inputs in fp32.
        summary: One line for people.
    """

    name: str
    operand: str
    qk_products: int
    pv_products: int
    expected_rel_l2: float
    summary: str


_ROWS = (
    Path(
        name="fp32",
        operand="fp32",
        qk_products=1,
        pv_products=1,
        expected_rel_l2=5e-7,
        summary="IEEE fp32 multiply-add, no rounding of operands",
    ),
    Path(
        name="tf32",
        operand="tf32",
        qk_products=1,
        pv_products=1,
        expected_rel_l2=4e-4,
        summary="operands rounded to nearest tf32 (10 mantissa bits, fp32's range)",
    ),
    Path(
        name="bf16",
        operand="bf16",
        qk_products=1,
        pv_products=1,
        expected_rel_l2=3e-3,
        summary="operands rounded once to bf16 (7 mantissa bits, fp32's range)",
    ),
    Path(
        name="fp16",
        operand="fp16",
        qk_products=1,
        pv_products=1,
        expected_rel_l2=4e-4,
        summary="operands rounded once to fp16 (10 mantissa bits), scaled by an exact power of two",
    ),
)

PATHS: dict[str, Path] = {row.name: row for row in _ROWS}
