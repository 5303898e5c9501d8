"""Plans over made-up profiles, whose kernels are recorded.

Imports stand inside the fixtures: pytest may load this file before tests/conftest.py has chosen
between Triton's interpreter and its compiler, and what imports torch may import Triton.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from exact import Recorder

    from autoprec.kernels.interface import Kernel
    from autoprec.plan.plan import Plan


@pytest.fixture
def recorder() -> "Recorder":
    from exact import Recorder

    return Recorder()


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the registry know these kernels and no others."""
    from autoprec import registry

    def only(*kernels: "Kernel", broken: dict[str, str] | None = None) -> None:
        monkeypatch.setattr(registry, "_load", lambda: (kernels, broken or {}))

    return only


@pytest.fixture
def plan(recorder: "Recorder", register: Callable[..., None]) -> "Plan":
    """A plan that chooses bf16 by the kernel ``exact`` everywhere."""
    import torch
    from exact import cpu_profile

    from autoprec.plan.plan import Plan

    register(recorder.kernel("exact"))
    return Plan(cpu_profile(), torch.device("cpu"))
