"""For ``autoprec.flashinfer``: a kernel that computes exactly, and the GPU's, interpreted.

Imports stand inside: pytest may load this file before tests/conftest.py has chosen between Triton's
interpreter and its compiler.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from autoprec.kernels.interface import Kernel


def _exact() -> list["Kernel"]:
    from exact_requests import KERNEL

    return [KERNEL]


def _triton() -> list["Kernel"]:
    """Decode in splits of 16 keys, and prefill by tiles of 16 by 16, on CPU tensors."""
    from dataclasses import replace

    from autoprec.kernels import decode, prefill

    tile: dict[str, int | str] = {"block_kv": 16, "num_warps": 4, "num_stages": 1}
    configs: dict[str, Any] = {"decode": {**tile, "split": 16}, "prefill": {**tile, "block_q": 16}}
    return [
        replace(module.KERNELS[0], device="cpu", configs=lambda *_, own=configs[name]: (own,))
        for name, module in (("decode", decode), ("prefill", prefill))
    ]


@pytest.fixture(params=["exact", "triton"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Have ``autoprec.flashinfer`` run the path fp32 by these kernels and no others."""
    from autoprec import flashinfer, registry

    if request.param == "triton":
        pytest.importorskip("triton")
    rows = {"exact": _exact, "triton": _triton}[request.param]()
    monkeypatch.setattr(registry, "_load", lambda: (tuple(rows), {}))
    flashinfer.set_plan("fp32")
    yield request.param
    flashinfer.set_plan(None)
    flashinfer.precision.forget()
