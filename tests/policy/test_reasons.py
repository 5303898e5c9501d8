"""The reasons: what rounding the output costs, and how it is said."""

import pytest
import torch
from made_up import measurement, workload

from autoprec.budget import Budget
from autoprec.policy.choose import choose
from autoprec.policy.reasons import ROUNDING_REL_L2
from autoprec.types import Dtype


def reason(rel_l2: float, budget: str, out_dtype: str) -> str:
    shape = workload(input_dtype="fp32", out_dtype=out_dtype)
    table = [measurement("bf16", 0.3, rel_l2, workload=shape)]
    return choose(table, Budget.parse(budget))[1][0].rejected["bf16"]


@pytest.mark.parametrize("dtype", [Dtype.BF16, Dtype.FP16])
def test_rounding_costs_what_was_derived(dtype: Dtype) -> None:
    """N(0, 1) is smooth enough over powers of two for one per cent.

    Weighted by its square, log2|x| mod 1 has the density 1 + 2c·cos(2πu + φ) and less, where
    c = |Γ(3/2 + iπ/ln 2)| / Γ(3/2) = 0.010. That moves the mean of 1 / m² = 4^-u by at most
    2c·|∫ 4^-u e^(2πiu) du| / (3 / (8·ln 2)) = 0.43 c = 0.45 %, and its root by half of it.
    A million samples add less than 0.2 %.
    """
    x = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    rounded = x.to({Dtype.BF16: torch.bfloat16, Dtype.FP16: torch.float16}[dtype]).float()
    measured = (torch.linalg.norm(rounded - x) / torch.linalg.norm(x)).item()
    assert measured == pytest.approx(ROUNDING_REL_L2[dtype], rel=0.01)


def test_the_figures() -> None:
    assert {dtype: f"{cost:.2e}" for dtype, cost in ROUNDING_REL_L2.items()} == {
        "bf16": "1.66e-03",
        "fp16": "2.07e-04",
    }


@pytest.mark.parametrize(("out_dtype", "cost"), [("bf16", "1.7e-03"), ("fp16", "2.1e-04")])
def test_where_rounding_alone_is_over_budget_that_is_said(out_dtype: str, cost: str) -> None:
    assert reason(3e-3, "1e-4", out_dtype) == (
        "rel_l2 3.00e-03 on gauss is over the budget of 0.0001; "
        f"rounding the output to {out_dtype} alone costs {cost}: try --out-dtype fp32"
    )


@pytest.mark.parametrize(
    ("budget", "out_dtype"), [("2e-3", "bf16"), ("1e-3", "fp16"), ("1e-9", "fp32")]
)
def test_where_rounding_is_not_to_blame_nothing_is_said_of_it(budget: str, out_dtype: str) -> None:
    assert reason(3e-3, budget, out_dtype) == (
        f"rel_l2 3.00e-03 on gauss is over the budget of {float(budget):g}"
    )


def test_long_times_have_no_exponent() -> None:
    table = [measurement("fp32", 12345.6, 5e-7), measurement("bf16", 0.000123456, 3e-3)]
    (choice,), _ = choose(table, Budget.parse("1e-2"))
    assert choice.rejected["fp32"] == (
        "100000000.00x slower than bf16: 12346 ms against 0.0001235 ms"
    )


@pytest.mark.parametrize(("ms", "how"), [(1.004, "under 1 %"), (1.006, "1.01x")])
def test_a_little_slower_is_not_1_00_times(ms: float, how: str) -> None:
    rows = [
        measurement(path, it, 5e-7, p20_ms=it, p80_ms=it)
        for path, it in (("fp32", 1.0), ("bf16", ms))
    ]
    (choice,), _ = choose(rows, Budget.parse("1e-2"))
    assert choice.rejected["bf16"].startswith(f"{how} slower than fp32: ")
