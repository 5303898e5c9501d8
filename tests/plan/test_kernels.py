"""Plans over the kernels there are: each is handed what it needs, and keeps the budget."""

import made_up
import pytest
import torch
from exact import cpu_profile, inputs, naive

from autoprec import registry
from autoprec.plan.plan import Plan
from autoprec.probe import device as devices
from autoprec.types import Dtype, Phase, Workload

CPU = torch.device("cpu")


def measured(phase: Phase, dtype: Dtype) -> Workload:
    return made_up.workload(phase=phase, kv_len=128, head_dim=32, input_dtype=dtype)


def running() -> list[tuple[str, str, Dtype]]:
    """Every kernel, path and input type that runs a prefill on a CPU."""
    target = devices.target(CPU)
    return [
        (kernel.name, path, dtype)
        for dtype in Dtype
        for kernel, path in registry.candidates(measured(Phase.PREFILL, dtype), target)[0]
    ]


@pytest.mark.parametrize(("name", "path", "dtype"), running(), ids=str)
def test_a_kernel_behind_a_plan(name: str, path: str, dtype: Dtype) -> None:
    kernel, target = registry.kernel(name), devices.target(CPU)
    rows = [
        made_up.measurement(
            path,
            workload=workload,
            kernel=name,
            config=dict(kernel.configs(path, workload, target)[0]),
        )
        for workload in (measured(Phase.PREFILL, dtype), measured(Phase.DECODE, dtype))
        if not kernel.refusals(path, workload, target)
    ]
    plan = Plan(cpu_profile(rows), CPU)
    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    for q_len, kv_len in ((70, 70), (40, 70), (80, 70), (1, 70), (3, 70)):
        q, k, v = inputs(2, 6, 2, q_len, kv_len, 32, 32, torch_dtype)
        expected, expected_lse = naive(q, k, v, causal=True)
        out, lse = plan.attention(q, k, v, causal=True, return_lse=True)
        # the budget of these profiles; a kernel's own tests have tighter bounds
        assert (out.double() - expected).norm() <= 1e-2 * expected.norm()
        torch.testing.assert_close(lse.double(), expected_lse, rtol=0, atol=2e-2)
