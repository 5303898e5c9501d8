"""Which kernel runs in CUDA graphs of lengths to come, on Hopper."""

import warnings
from dataclasses import replace
from typing import Any

import made_up
import pytest
import torch

from autoprec import registry
from autoprec.flashinfer import precision
from autoprec.flashinfer.steady import steadied
from autoprec.kernels.interface import Target
from autoprec.plan.decision import Decision
from autoprec.plan.plan import Plan
from autoprec.plan.realise import realised
from autoprec.policy.lookup import Found
from autoprec.types import Choice, Layout, Storage, Workload

pytest.importorskip("triton")

GPU = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
BRINGS = (
    "hopper-prefill was chosen but brings keys and values together from all pages that a graph has "
    "room for, so triton-prefill runs the same path"
)
FIRST = "triton-prefill was not measured here, so its first configuration is used"


def paged(dtype: str = "fp32", **changes: Any) -> Workload:
    return made_up.workload(
        **{"input_dtype": dtype, "layout": Layout.PAGED, "page_size": 16, **changes}
    )


def chosen(path: str, workload: Workload, kernel: str = "hopper-prefill") -> Decision:
    """A measured choice, on the workload that it was measured on."""
    config = dict(registry.kernel(kernel).configs(path, workload, GPU)[-1])
    choice = Choice(
        workload=workload, path=path, kernel=kernel, config=config,
        storage=Storage(workload.input_dtype.value), margin=0.0, rejected={},
    )  # fmt: skip
    return realised(Found(choice, exact=True, note=""), workload, GPU)


@pytest.mark.parametrize(
    ("path", "workload"),
    [
        ("fp16x3", paged()),
        ("bf16", paged("fp16", phase="append")),
        ("fp16", paged("fp16", page_size=4)),
        ("fp16", paged("fp16", page_size=48)),
        ("bf16", paged("bf16", page_size=2048)),
        ("bf16", paged("bf16", head_dim=100)),
        ("bf16", paged("bf16", head_dim_v=100)),
    ],
    ids=str,
)
def test_pages_that_would_be_brought_together_are_read_where_they_lie(
    path: str, workload: Workload
) -> None:
    decision = chosen(path, workload)
    assert (decision.kernel.name, decision.notes) == ("hopper-prefill", ())
    steady = steadied(decision, GPU)
    assert (steady.kernel.name, steady.path) == ("triton-prefill", path)
    assert steady.config == registry.kernel("triton-prefill").configs(path, workload, GPU)[0]
    assert (steady.substituted, steady.notes) == (BRINGS, (BRINGS, FIRST))


@pytest.mark.parametrize(
    ("path", "workload"),
    [
        ("fp16", paged("fp16")),
        ("bf16p2", paged("bf16", page_size=1024, phase="append")),
        ("fp16x3", made_up.workload(layout=Layout.RAGGED)),  # whose planes are as large as K and V
    ],
    ids=str,
)
def test_what_the_copy_engine_brings_stays_as_chosen(path: str, workload: Workload) -> None:
    decision = chosen(path, workload)
    assert steadied(decision, GPU) is decision


def test_a_kernel_says_itself_whether_it_brings_pages_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = registry.kernel("triton-prefill")
    row = replace(reads, name="made-up", gathers=lambda path, workload: True)
    monkeypatch.setattr(registry, "_load", lambda: ((row, reads), {}))
    decision = replace(chosen("fp16", paged("fp16"), "triton-prefill"), kernel=row)
    steady = steadied(decision, GPU)
    assert steady.kernel.name == "triton-prefill"
    assert steady.substituted == BRINGS.replace("hopper-prefill", "made-up")


def test_a_kernel_that_is_alone_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    decision = chosen("fp16x3", paged())
    monkeypatch.setattr(registry, "_load", lambda: ((decision.kernel,), {}))
    assert steadied(decision, GPU) is decision


def test_decode_has_splits_that_no_length_moves() -> None:
    workload = paged(phase="decode")
    decision = chosen("fp16x3", workload, "triton-decode")
    steady = steadied(decision, GPU)
    assert (steady.kernel, steady.notes) == (decision.kernel, ())
    assert decision.kernel.steady is not None
    assert steady.config == decision.kernel.steady(decision.config, workload, GPU)


def test_a_plan_says_it_of_graphs_alone_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.devices, "target", lambda device: GPU)
    cpu, workload = torch.device("cpu"), paged()
    config = dict(registry.kernel("hopper-prefill").configs("fp16x3", workload, GPU)[0])
    row = made_up.measurement("fp16x3", 1.0, 1e-6, kernel="hopper-prefill", config=config,
                              workload=workload)  # fmt: skip
    chooser = precision.Chooser(Plan(made_up.profile([row]), cpu).runner, None)
    assert chooser.decide(workload, cpu).kernel.name == "hopper-prefill"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert chooser.decide(workload, cpu, steady=True).kernel.name == "triton-prefill"
    assert [str(it.message) for it in caught] == [f"{BRINGS}."]
    precision.forget()
