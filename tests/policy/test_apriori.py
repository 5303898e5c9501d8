"""What is known of a budget before anything is measured."""

import pytest
import torch
from made_up import workload

from autoprec.budget import Budget
from autoprec.errors import BudgetError
from autoprec.kernels.interface import TORCH_DTYPES
from autoprec.policy.apriori import hopeless, refuse_out_of_reach
from autoprec.types import Dtype, Workload

BF16 = workload(input_dtype="bf16")
FP32 = workload()
MIXED = workload(input_dtype="bf16", out_dtype="fp32")
DECODE = workload(phase="decode")


def refused(budget: str, *workloads: Workload) -> str:
    with pytest.raises(BudgetError) as caught:
        refuse_out_of_reach(workloads, Budget.parse(budget))
    return str(caught.value)


def test_a_budget_far_below_the_rounding_of_the_output_is_refused() -> None:
    assert refused("bits>=500", FP32) == (
        "no path can keep to the budget: rounding the output to fp32 alone costs 2.5e-08, far over "
        "bits>=500. Try: a larger --budget"
    )
    assert refused("1e-300", BF16, FP32) == (
        "no path can keep to the budget: rounding the output to bf16 alone costs 1.7e-03, far over "
        "rel_l2<=1e-300; rounding the output to fp32 alone costs 2.5e-08, far over rel_l2<=1e-300. "
        "Try: a larger --budget, or --out-dtype fp32"
    )
    assert "far over row_rel.max<=1e-12" in refused("1,lse_abs<=1,row_rel.max<=1e-12", FP32, MIXED)


@pytest.mark.parametrize(
    ("budget", "workloads"),
    [
        ("3.2e-9", [FP32]),  # an eighth of 2.5e-8
        ("2.1e-4", [BF16]),
        ("1e-5", [BF16, FP32]),  # one of them may
        ("1e-5", [MIXED]),
        ("decode:1e-300", [FP32]),
        ("decode:1e-300", [FP32, DECODE]),
        ("ratio:fp32<=1e-9,max_abs<=1e-30,lse_abs<=1e-30", [FP32]),
        ("layer3:1e-300", [FP32]),
        ("1e-300,layer0-31:1e-2", [FP32]),  # the layers may
        ("1e-300,layer0-31:1e-300,layer32:1e-2", [FP32]),
        ("layer0-3:1e-300,prefill:1e-300", [DECODE]),
        ("row_rel.max<=1e-300,layer7:row_rel.max<=1", [FP32]),
        ("1e-300", [workload(phase="decode", kv_len=1)]),  # the output is the value, and exact
        ("1e-300", [workload(window=1)]),
        ("1e-300", []),
    ],
)
def test_what_may_be_kept_to_is_measured(budget: str, workloads: list[Workload]) -> None:
    refuse_out_of_reach(workloads, Budget.parse(budget))


def test_a_budget_that_no_layer_can_keep_to_is_refused() -> None:
    assert refused("1e-300,layer0-31:1e-12", FP32) == (
        "no path can keep to the budget: rounding the output to fp32 alone costs 2.5e-08, far over "
        "layer0-31:rel_l2<=1e-12. Try: a larger --budget"
    )
    assert "far over rel_l2<=1e-12." in refused("1e-12,layer3:1e-300", FP32)
    assert "far over rel_l2<=1e-12." in refused("1e-12,layer3:max_abs<=1", FP32)
    assert "far over rel_l2<=1e-12." in refused("1e-12,decode:layer3:1", FP32)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_exact_attention_once_rounded_is_over_what_is_refused(dtype: Dtype) -> None:
    """Whatever the length and the shape of the weights, from two keys on."""
    draw = torch.Generator().manual_seed(0)
    for keys in (2, 3, 64, 1024):
        logits = 2 * torch.randn(8, keys, generator=draw, dtype=torch.float64)
        values = torch.randn(keys, 16, generator=draw, dtype=torch.float64)
        exact = logits.softmax(-1) @ values
        rounded = exact.to(TORCH_DTYPES[dtype]).double()
        error = (torch.linalg.norm(rounded - exact) / torch.linalg.norm(exact)).item()
        shape = workload(kv_len=keys, q_len=keys, out_dtype=dtype)
        refuse_out_of_reach([shape], Budget.parse(error))
        assert refused(repr(error / 12), shape)


def test_a_path_far_over_the_budget_is_hopeless() -> None:
    assert hopeless("bf16", FP32, Budget.parse("1e-4")) == (
        "left out: its expected rel_l2 of 3.3e-03 is far over the budget of 0.0001, and a larger "
        "--effort measures it all the same"
    )
    assert hopeless("bf16", FP32, Budget.parse("1e-3")) == ""
    assert hopeless("bf16", workload(window=128), Budget.parse("1e-4")) == ""
    # a layer may keep to its own, and is held to no other
    for budget in ("1e-9,layer0-31:1e-2", "layer3:1e-9", "1e-9,layer3:row_rel.max<=1,layer4:1e-3"):
        assert hopeless("bf16", FP32, Budget.parse(budget)) == ""
    assert " far over the budget of 0.0002, " in hopeless(
        "bf16", FP32, Budget.parse("1e-4,layer0-31:2e-4")
    )
