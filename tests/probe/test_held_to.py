"""Right kernels pass what tuning holds them to: every kernel and path, on every family."""

from dataclasses import replace
from typing import Any

import kernel_cases
import made_up
import pytest
import torch
from fake_kernels import workload

from autoprec import registry
from autoprec import tune as tuning
from autoprec.budget import Budget
from autoprec.kernels.interface import Kernel
from autoprec.paths import PATHS
from autoprec.probe.contender import Contender
from autoprec.probe.draws import Draws
from autoprec.probe.effort import Effort
from autoprec.probe.families import FAMILIES, Family
from autoprec.probe.harness import Harness
from autoprec.probe.measure import timer
from autoprec.probe.screen import check_edges
from autoprec.probe.share import Share
from autoprec.types import Conversion, Dtype, Layout, Phase, Role, Status, Workload

EFFORT = Effort(rounds=(1,), samples=1, rows=8, groups=4)


def shape(row: Kernel, path: str, dtype: Dtype, device: str) -> Workload:
    """A small workload of the kernel's; on a GPU one as in use."""
    decode = row.phases == (Phase.DECODE,)
    sizes = {"q_heads": 2, "kv_heads": 1, "head_dim": 16, "kv_len": 40}
    if device == "cuda":
        sizes = {"q_heads": 32, "kv_heads": 8, "head_dim": 128, "kv_len": 4096}
    phase = Phase.DECODE if decode else Phase.PREFILL
    q_len = 1 if decode else sizes["kv_len"]
    # cpu-flash knows one type for operands and results
    dtype = Dtype(path) if row.name == "cpu-flash" else dtype
    return workload(phase=phase, q_len=q_len, input_dtype=dtype, **sizes)


def _families(row: Kernel, device: str) -> dict[str, Family]:
    """All; in the interpreter, where each run takes a second, the hardest."""
    hardest = ("gauss", "kbias", "resonant", "tiny", "cancel")
    every = row.device == "cpu" or device == "cuda"
    return dict(FAMILIES) if every else {name: FAMILIES[name] for name in hardest}


def drawn(
    row: Kernel,
    path: str,
    it: Workload,
    device: str,
    families: dict[str, Family] | None = None,
) -> tuple[Contender, Harness]:
    """A kernel and path after its draws, and what they were made with."""
    target, place = kernel_cases.target(row, device), torch.device(device)
    contender = Contender(
        role=Role.CANDIDATE, path=path, name=row.name, workload=it, kernel=row,
        conversion=Conversion.NONE, best=row.configs(path, it, target)[0],
    )  # fmt: skip
    contender.samples, contender.errors["gauss"] = [1.0], made_up.errors(0.0)
    harness = Harness(
        device=place, target=target, timer=timer(place), effort=EFFORT, seed=1, builds={},
        observe=lambda event: None, patience_s=0.0, submit=None, max_workspace_gib=None,
        families=_families(row, device) if families is None else families,
        judge=tuning.judge(Budget.parse("1"), 0.1, allow_baselines=False, prunes=False),
    )  # fmt: skip
    share = Share.of_what_is_left(float("inf"), 1, float("inf"))
    assert share is not None
    Draws(harness, it, [contender], share).run()
    return contender, harness


@pytest.mark.filterwarnings("ignore:Specified kernel cache directory")  # of torch's own kernels
@pytest.mark.parametrize(("row", "path", "device"), kernel_cases.parameters())
def test_a_right_kernel_is_not_refused(row: Kernel, path: str, device: str) -> None:
    target = kernel_cases.target(row, device)
    for dtype in PATHS[path].inputs if device == "cuda" else PATHS[path].inputs[:1]:
        it = shape(row, path, dtype, device)
        if row.refusals(path, it, target):
            continue
        contender, harness = drawn(row, path, it, device)
        assert contender.status is Status.OK, contender.reason
        assert len(contender.by_head) + len(contender.extremes) == len(harness.families)
        check_edges([contender], it, harness)
        assert contender.status is Status.OK, contender.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"layout": Layout.PAGED, "page_size": 16, "batch": 2},
        {"layout": Layout.RAGGED, "batch": 2},
        {"window": 20},
        {"soft_cap": 5.0},
        {"sinks": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["triton-decode", "triton-prefill"])
def test_layouts_windows_caps_and_sinks_are_drawn_too(name: str, changes: dict[str, Any]) -> None:
    row = registry.kernel(name)
    it = replace(shape(row, "fp32", Dtype.FP32, "cpu"), **changes)
    assert row.refusals("fp32", it, kernel_cases.target(row, "cpu")) == []
    contender, harness = drawn(row, "fp32", it, "cpu", families={"gauss": FAMILIES["gauss"]})
    check_edges([contender], it, harness)
    assert contender.status is Status.OK, contender.reason
    assert contender.bounds["gauss"]["rel_l2"] < 1e-5
