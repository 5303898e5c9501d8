"""The most that a machine could do of a workload, from its measured ceilings."""

from autoprec.types import Ceilings, Phase, Workload


def moved_bytes(it: Workload) -> float:
    """Bytes of q, k, v and the output, each moved once."""
    rows = it.new_tokens * it.q_heads
    queries = rows * it.head_dim * it.input_dtype.nbytes
    return float(queries + rows * it.head_dim_v * it.out_dtype.nbytes + it.kv_bytes)


def roof(workload: Workload, ceilings: Ceilings, operand: str) -> float | None:
    """The rate of a workload if it took no longer than its products or its bytes must.

    Args:
        workload: What is computed.
        ceilings: What was measured.
        operand: The type of what the matrix products multiply.

    Returns:
        In the phase's unit: for decode 1e9 bytes of K and V per second, else 1e12 operations per
        second; None where the matrix product of that type was not measured.
    """
    gemm_tflops = ceilings.gemm_tflops.get(operand)
    if gemm_tflops is None:
        return None
    least_s = max(
        workload.flops / (gemm_tflops * 1e12), moved_bytes(workload) / (ceilings.copy_gb_s * 1e9)
    )
    if workload.phase is Phase.DECODE:
        return workload.kv_bytes / least_s / 1e9
    return workload.flops / least_s / 1e12
