"""Every kernel and path against the oracle, in cases where every two choices meet.

Triton rows run on CPU tensors in the interpreter, and compiled on a GPU (marked ``cuda``).
"""

import kernel_cases
import pairwise
import pytest
import torch

from autoprec import registry
from autoprec.kernels.interface import Kernel, Target

# Programs run one after another in the interpreter, some milliseconds for each tile.
_COST_LIMIT = {"cpu": 1e8, "triton": 2e7, "hopper": 1e9}
_GPU_COST_LIMIT = 1e9
_TARGETS = {
    "cpu": Target(kind="cpu", arch="x86_64", shared_bytes=0, units=2),
    "triton": Target(kind="cuda", arch="sm_80", shared_bytes=166912, units=108),
}

_HERE = [row for row in registry.kernels() if row.device in _TARGETS]
_ON_GPU = [row for row in registry.kernels() if row.device != "cpu"]


def _parameters(rows: list[Kernel], limit: float | None = None) -> list[object]:
    return [
        pytest.param(row, case, id=kernel_cases.name(row, case))
        for row in rows
        for case in kernel_cases.cases(row, limit or _COST_LIMIT[row.device])
    ]


@pytest.mark.parametrize(("row", "case"), _parameters(_HERE))
def test_kernel(row: Kernel, case: pairwise.Case) -> None:
    kernel_cases.run(row, case, "cpu", _TARGETS[row.device])


@pytest.mark.cuda
@pytest.mark.parametrize(("row", "case"), _parameters(_ON_GPU, _GPU_COST_LIMIT))
def test_compiled_kernel(row: Kernel, case: pairwise.Case) -> None:
    from autoprec.probe.device import target

    here = target(torch.device("cuda"))
    if row.device_refusals(here):
        pytest.skip("; ".join(row.device_refusals(here)))
    kernel_cases.run(row, case, "cuda", here)


def test_every_kernel_module_is_here() -> None:
    assert registry.broken_modules() == {}
