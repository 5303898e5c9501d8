"""Every kernel and path against the oracle, in cases where every two choices meet.

Triton kernels run on CPU tensors in the interpreter, and compiled on a GPU (marked ``cuda``).
"""

import itertools

import kernel_cases
import made_up
import pairwise
import pytest
import torch

from autoprec import registry
from autoprec.kernels.interface import Kernel, Target
from autoprec.paths import PATHS
from autoprec.types import Dtype, Layout, Phase


def _parameters(device: str) -> list[object]:
    return [
        pytest.param(row, case, id=kernel_cases.name(row, case))
        for row in kernel_cases.rows(device)
        for case in kernel_cases.cases(row, device)
    ]


@pytest.mark.parametrize(("row", "case"), _parameters("cpu"))
def test_kernel(row: Kernel, case: pairwise.Case) -> None:
    kernel_cases.run(row, case, "cpu")


@pytest.mark.cuda
@pytest.mark.parametrize(("row", "case"), _parameters("cuda"))
def test_compiled_kernel(row: Kernel, case: pairwise.Case) -> None:
    kernel_cases.run(row, case, "cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("row", kernel_cases.rows("cuda"), ids=lambda row: row.name)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mask", ["full", "bottom-right"])
def test_long_context(row: Kernel, path: str, mask: str) -> None:
    if path not in row.paths:
        pytest.skip(f"{row.name} does not run the path {path}")
    here = kernel_cases.target(row, "cuda")
    lengths = (3, 40_003) if row.phases == (Phase.DECODE,) else (1100, 5003)
    case = {
        "input": PATHS[path].inputs[0], "out": Dtype.FP32, "lengths": lengths, "heads": (8, 2),
        "dims": (128, 128), "layout": "bshd",
    }  # fmt: skip
    q, k, v = kernel_cases.inputs(case, "cuda", batch=2)
    guard = kernel_cases.guarded(
        q, k, v, out_dtype=torch.float32, layout="bshd", sm_scale=128**-0.5,
        diagonal=kernel_cases.diagonal(mask, *lengths),
    )  # fmt: skip
    rows = torch.arange(0, lengths[0], max(1, lengths[0] // 40), device="cuda")
    config = row.configs(path, kernel_cases.workload(row, case), here)[0]
    kernel_cases.check(row, guard, path, config, rows=rows)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.name) for row in registry.kernels() if row.consistent is not None],
)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_consistent_mode_has_one_configuration(row: Kernel, head_dim: int) -> None:
    """A batch may change how many requests there are, how long they are, and where they lie."""
    assert row.consistent is not None
    target = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
    for path in row.paths:
        found = [
            row.consistent(path, made_up.workload(
                phase=phase, batch=batch, kv_len=kv_len, layout=layout,
                page_size=16 if layout is Layout.PAGED else None, head_dim=head_dim,
                input_dtype=PATHS[path].inputs[0],
            ), target)
            for phase in row.phases
            for batch, kv_len, layout in itertools.product([1, 64], [1000, 5000], row.layouts)
        ]  # fmt: skip
        assert all(config == found[0] for config in found)


def test_every_kernel_module_is_here() -> None:
    assert registry.broken_modules() == {}
