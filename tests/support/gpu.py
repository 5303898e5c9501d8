"""Plans on the GPU that is here, of rows made up: tests need no profile of it. Time of its host."""

import time
from collections.abc import Callable, Mapping

import made_up
import pytest
import torch

from autoprec import registry
from autoprec.plan.plan import Plan
from autoprec.probe import device as devices
from autoprec.types import Dtype, Measurement, Phase


def device() -> torch.device:
    """The first GPU."""
    return torch.device("cuda", 0)


def plan_of(
    paths: Mapping[Dtype, str],
    *,
    head_dim: int = 64,
    error: float = 5e-3,
    prefill: str = "triton-prefill",
) -> Plan:
    """A plan of the first configuration of each kernel; skips where a kernel does not run.

    Args:
        paths: Which path it chooses for inputs of a type.
        head_dim: Of keys and values; 32 query and 8 KV heads.
        error: rel_l2 of every measurement; the budget is 1e-2.
        prefill: The kernel of prefill; that of decode is triton-decode.
    """
    target = devices.target(device())
    rows: list[Measurement] = []
    for phase, name in ((Phase.PREFILL, prefill), (Phase.DECODE, "triton-decode")):
        kernel = registry.kernel(name)
        if kernel.device_refusals(target):
            pytest.skip("; ".join(kernel.device_refusals(target)))
        for dtype, path in paths.items():
            workload = made_up.workload(
                phase=phase, kv_len=1024, head_dim=head_dim, input_dtype=dtype
            )
            config = dict(kernel.configs(path, workload, target)[0])
            rows.append(
                made_up.measurement(path, 1.0, error, workload=workload, kernel=name, config=config)
            )
    profile = made_up.profile(rows, environment=devices.environment(device()))
    return Plan(profile, device())


def host_us(act: Callable[[], object], n: int = 30) -> float:
    """Microseconds that the host takes for one of n in a row, at best; the GPU may lag behind."""
    best = float("inf")
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(n):
            act()
        best = min(best, (time.perf_counter() - start) / n)
    return best * 1e6
