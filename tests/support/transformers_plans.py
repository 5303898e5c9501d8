"""Plans of one path for tiny models, and how far off their outputs are."""

from collections.abc import Iterator
from contextlib import contextmanager

import made_up
import pytest
import torch
from exact import cpu_profile
from torch import Tensor

from autoprec import registry
from autoprec.plan.plan import Plan
from autoprec.probe import device as devices
from autoprec.types import Phase, Profile

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
DEVICES = pytest.mark.parametrize("device", ["cpu", CUDA])
BUDGETS = {"fp32": 1e-6, "bf16": 1e-2}
KERNELS = {"cpu": ("cpu-blocked", "cpu-blocked"), "cuda": ("triton-prefill", "triton-decode")}


@contextmanager
def inference() -> Iterator[None]:
    """No gradients; and one thread, since several only wait for one another on so little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def profile(path: str, device: str) -> Profile:
    """One in which a path alone was measured, by the kernels that have every feature."""
    target = devices.target(torch.device(device))
    rows = []
    for phase, kernel in zip((Phase.PREFILL, Phase.DECODE), KERNELS[device], strict=True):
        workload = made_up.workload(phase=phase, kv_len=1024, head_dim=16)
        config = dict(registry.kernel(kernel).configs(path, workload, target)[0])
        rows.append(
            made_up.measurement(
                path, 1.0, BUDGETS[path] / 2, workload=workload, kernel=kernel, config=config
            )
        )
    budget = f"rel_l2<={BUDGETS[path]}"
    if device == "cpu":
        return cpu_profile(rows, budget=budget)
    environment = devices.environment(torch.device(device))
    return made_up.profile(rows, budget=budget, environment=environment)


def plan_of(path: str, device: str) -> Plan:
    return Plan(profile(path, device), torch.device(device))


def tokens(device: str, batch: int = 1, length: int = 20) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(2, 97, (batch, length), generator=draw).to(device)


def off(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def padded_tokens(device: str) -> tuple[Tensor, Tensor]:
    """Three prompts of 20, 9 and 1 tokens, padded on the left."""
    ids = tokens(device, batch=3)
    mask = torch.ones_like(ids)
    for row, length in enumerate((20, 9, 1)):
        mask[row, : 20 - length] = 0
    return ids * mask, mask
