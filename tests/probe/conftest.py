"""For tests of the probe: the kernels that there are.

Imports stand inside the fixtures: pytest may load this file before tests/conftest.py has chosen
between Triton's interpreter and its compiler.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from autoprec.kernels.interface import Kernel


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put kernels in the registry's place."""
    from autoprec import registry

    def put(*kernels: "Kernel", broken: dict[str, str] | None = None) -> None:
        monkeypatch.setattr(registry, "_load", lambda: (kernels, broken or {}))

    put()
    return put


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No baselines: they are so much faster than the fakes that these get one sample each."""
    from autoprec.probe import lineup

    monkeypatch.setattr(lineup, "BASELINES", ())
