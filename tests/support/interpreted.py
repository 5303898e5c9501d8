"""For tests of plans: one whose kernels are Triton's, on CPU tensors in the interpreter."""

import made_up
import pytest
import torch
from exact import cpu_profile

from autoprec.kernels.interface import Target
from autoprec.plan.plan import Plan
from autoprec.probe import device as devices
from autoprec.types import Phase

CONFIGS = {
    Phase.PREFILL: {"block_q": 32, "block_kv": 32, "num_warps": 4, "num_stages": 2},
    Phase.DECODE: {"block_kv": 32, "split": 64, "num_warps": 4, "num_stages": 2},
}


def plan_of(path: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan that chooses a path by triton-prefill and triton-decode for fp32 of head dim 16."""
    gpu = Target(kind="cuda", arch="sm_80", shared_bytes=166912, units=108)
    monkeypatch.setattr(devices, "target", lambda device: gpu)
    rows = [
        made_up.measurement(
            path,
            1.0,
            4e-7,
            workload=made_up.workload(phase=phase, kv_len=128, head_dim=16),
            config=config,
        )
        for phase, config in CONFIGS.items()
    ]
    return Plan(cpu_profile(rows), torch.device("cpu"))
