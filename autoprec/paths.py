"""The precision paths: each a named way of forming QKᵀ and PV.

A new path is a row here; the kernels that can run it name it in their KERNELS.
"""

from dataclasses import dataclass

from autoprec.types import Dtype, Storage, Workload


@dataclass(frozen=True, kw_only=True)
class Path:
    """A way of computing attention. Softmax and sums are fp32 in all of them.

    A number that is split into parts is the sum of them, each rounded to the operand type; a
    product of two split numbers leaves out the pairs of parts that are below the rounding of the
    rest.

    Attributes:
        name: Triton's name where Triton has one.
        operand: The type of what the matrix products multiply.
        parts: Numbers of the operand type that each element of Q, K and V is split into.
        p_parts: The same for the probabilities.
        inputs: Types of Q, K and V the path is for.
        expected_rel_l2: The relative L2 error to expect from N(0, 1) inputs of the first of them.
        summary: One line for people.
    """

    name: str
    operand: str
    parts: int = 1
    p_parts: int = 1
    inputs: tuple[Dtype, ...] = (Dtype.FP32, Dtype.BF16, Dtype.FP16)
    expected_rel_l2: float
    summary: str

    @property
    def qk_products(self) -> int:
        """Matrix products that form QKᵀ."""
        return _products(self.parts, self.parts)

    @property
    def pv_products(self) -> int:
        """Matrix products that form PV."""
        return _products(self.p_parts, self.parts)


def read_bytes(path: str, workload: Workload, storage: Storage) -> int:
    """Bytes that a path reads of a cache, each once: of two planes, one part needs the high alone.

    Args:
        path: A name of PATHS.
        workload: Gives requests, keys and heads.
        storage: The cache's form.
    """
    a_token = workload.token_bytes(storage)
    if storage is Storage.PLANES and PATHS[path].parts == 1:
        a_token -= workload.token_bytes(Storage.FP16)
    return workload.kv_tokens * a_token


def _products(parts_a: int, parts_b: int) -> int:
    """Pairs (i, j) of parts, counted from 0 for the largest, with i + j below the larger count."""
    most = max(parts_a, parts_b)
    return sum(i + j < most for i in range(parts_a) for j in range(parts_b))


_ROWS = (
    Path(
        name="fp32",
        operand="fp32",
        expected_rel_l2=5e-7,
        summary="IEEE fp32 multiply-add, no rounding of operands",
    ),
    Path(
        name="tf32",
        operand="tf32",
        expected_rel_l2=4e-4,
        summary="operands rounded to nearest tf32 (10 mantissa bits, fp32's range)",
    ),
    Path(
        name="tf32x3",
        operand="tf32",
        parts=2,
        p_parts=2,
        inputs=(Dtype.FP32,),
        expected_rel_l2=5e-7,
        summary="operands split into two tf32 parts, three products",
    ),
    Path(
        name="fp16x3",
        operand="fp16",
        parts=2,
        p_parts=2,
        inputs=(Dtype.FP32,),
        expected_rel_l2=4e-7,
        summary="operands scaled by powers of two and split into two fp16 parts, three products",
    ),
    Path(
        name="bf16x3",
        operand="bf16",
        parts=2,
        p_parts=2,
        inputs=(Dtype.FP32,),
        expected_rel_l2=6e-6,
        summary="operands split into two bf16 parts, three products",
    ),
    Path(
        name="bf16x6",
        operand="bf16",
        parts=3,
        p_parts=3,
        inputs=(Dtype.FP32,),
        expected_rel_l2=3e-7,
        summary="operands split into three bf16 parts, six products",
    ),
    Path(
        name="bf16",
        operand="bf16",
        expected_rel_l2=3e-3,
        summary="operands rounded once to bf16 (7 mantissa bits, fp32's range)",
    ),
    Path(
        name="bf16p2",
        operand="bf16",
        p_parts=2,
        inputs=(Dtype.BF16,),
        expected_rel_l2=2e-6,
        summary="bf16 inputs as they are, probabilities split into two bf16 parts",
    ),
    Path(
        name="fp16",
        operand="fp16",
        expected_rel_l2=4e-4,
        summary="operands rounded once to fp16 (10 mantissa bits), scaled by an exact power of two",
    ),
    Path(
        name="fp16p2",
        operand="fp16",
        p_parts=2,
        inputs=(Dtype.FP16,),
        expected_rel_l2=3e-7,
        summary="fp16 inputs as they are, probabilities split into two fp16 parts",
    ),
)

PATHS: dict[str, Path] = {row.name: row for row in _ROWS}
