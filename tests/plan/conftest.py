"""Plans over made-up profiles, whose kernels are recorded."""

from collections.abc import Callable

import pytest
import torch
from exact import Recorder, cpu_profile

from autoprec import registry
from autoprec.kernels.interface import Kernel
from autoprec.plan.plan import Plan


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the registry know these kernels and no others."""

    def only(*kernels: Kernel, broken: dict[str, str] | None = None) -> None:
        monkeypatch.setattr(registry, "_load", lambda: (kernels, broken or {}))

    return only


@pytest.fixture
def plan(recorder: Recorder, register: Callable[..., None]) -> Plan:
    """A plan that chooses bf16 by the kernel ``exact`` everywhere."""
    register(recorder.kernel("exact"))
    return Plan(cpu_profile(), torch.device("cpu"))
