import dataclasses
import math

import pytest
import torch
from fake_kernels import workload

from autoprec.kernels.interface import Call
from autoprec.kernels.reference import attention, of_call
from autoprec.probe import accuracy
from autoprec.probe.accuracy import Oracle
from autoprec.probe.comparison import NonFiniteError
from autoprec.probe.inputs import call_of, draw
from autoprec.types import Phase, Workload

APPEND = workload(
    phase=Phase.APPEND, batch=2, q_len=30, kv_len=70, q_heads=6, kv_heads=2, head_dim=32
)


@dataclasses.dataclass(frozen=True)
class Allowed:
    """An allowance in shares of Σ w|v| alone."""

    relative: float
    p_floor: float = 0.0
    v_floor: float = 0.0


EVERYTHING = {"rows": 10**6, "groups": 10**6, "seed": 0}


def exact(it: Workload) -> tuple[Call, torch.Tensor, torch.Tensor]:
    call = call_of(it, *draw(it, "gauss", 0, torch.device("cpu")))
    out, lse = attention(call.q, call.k, call.v, diagonal=call.diagonal, sm_scale=call.sm_scale)
    return call, out, lse


def test_the_exact_result_has_no_error() -> None:
    call, out, lse = exact(APPEND)
    errors = Oracle(call, "gauss", **EVERYTHING).errors(out, lse)
    # grouped differently, the fp64 sums may differ by rounding
    assert set(errors) == {"rel_l2", "row_rel_p999", "row_rel_max", "max_abs", "lse_abs"}
    assert all(value < 1e-14 for value in errors.values())


def test_windows_caps_and_sinks_belong_to_the_exact_result() -> None:
    it = dataclasses.replace(APPEND, window=20, soft_cap=1.5, sinks=True)
    call = call_of(it, *draw(it, "gauss", 0, torch.device("cpu")))
    errors = Oracle(call, "gauss", **EVERYTHING).errors(*of_call(call))
    assert all(value < 1e-14 for value in errors.values())
    plain = dataclasses.replace(call, sinks=None)
    assert Oracle(call, "gauss", **EVERYTHING).errors(*of_call(plain))["rel_l2"] > 1e-3


def test_errors_are_what_their_names_say() -> None:
    call, out, lse = exact(APPEND)
    off = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    off = off * torch.linspace(1e-4, 1e-3, out.shape[2], dtype=torch.float64)[:, None]
    lse_off = torch.zeros_like(lse)
    lse_off[1, 5, 7] = -0.25
    errors = Oracle(call, "gauss", **EVERYTHING).errors(out + off, lse + lse_off)
    rows = (off.norm(dim=-1) / out.norm(dim=-1)).ravel().sort().values
    assert errors == pytest.approx(
        {
            "rel_l2": (off.norm() / out.norm()).item(),
            "row_rel_max": rows[-1].item(),
            "row_rel_p999": rows[math.ceil(0.999 * len(rows)) - 1].item(),
            "max_abs": off.abs().max().item(),
            "lse_abs": 0.25 * math.log(2),
        },
        rel=1e-9,
    )
    assert "lse_abs" not in Oracle(call, "gauss", **EVERYTHING).errors(out, None)


def test_the_999th_of_1000_rows_is_the_p999() -> None:
    rows = torch.arange(1.0, 1001.0, dtype=torch.float64)
    assert accuracy._p999(rows) == 999


def test_a_row_that_cancels_is_measured_against_the_typical_row() -> None:
    call, out, lse = exact(workload(phase=Phase.PREFILL, q_len=8, kv_len=8, q_heads=2, kv_heads=2))
    call.v[0, 0, 0] = 0.0  # causal: the first row of the first head is exactly zero
    oracle = Oracle(call, "gauss", **EVERYTHING)
    out, lse = attention(call.q, call.k, call.v, diagonal=0, sm_scale=call.sm_scale)
    typical = out.norm(dim=-1).square().mean().sqrt()
    got = out.clone()
    got[0, 0, 0, 0] = 1e-6
    assert oracle.errors(got, lse)["row_rel_max"] == pytest.approx((1e-6 / (1e-3 * typical)).item())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_said(value: float) -> None:
    call, out, lse = exact(APPEND)
    oracle = Oracle(call, "outlier", **EVERYTHING)
    out[0, 1, 2, 3] = out[1, 1, 2, 3] = value
    with pytest.raises(NonFiniteError) as error:
        oracle.errors(out, lse)
    assert str(error.value) == "NaN or infinity in 2 of 360 rows looked at, on outlier."


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_lse_that_is_not_finite_is_said(value: float) -> None:
    call, out, lse = exact(APPEND)
    lse[0, 0, 0] = value
    with pytest.raises(NonFiniteError) as error:
        Oracle(call, "gauss", **EVERYTHING).errors(out, lse)
    assert str(error.value) == "NaN or infinity in 1 of 360 rows looked at, on gauss."


def test_rows_that_must_be_nan_are_not_judged() -> None:
    call, _, _ = exact(APPEND)
    call.q[0, 0, 4, 0] = float("nan")
    out, lse = attention(call.q, call.k, call.v, diagonal=call.diagonal, sm_scale=call.sm_scale)
    assert Oracle(call, "gauss", **EVERYTHING).errors(out, lse)["rel_l2"] < 1e-14


def test_rows_that_see_no_key_are_right_as_zero_and_minus_infinity() -> None:
    call, _, _ = exact(workload(phase=Phase.DECODE, q_len=6, kv_len=4))
    out, lse = attention(call.q, call.k, call.v, diagonal=-2, sm_scale=call.sm_scale)
    assert torch.isneginf(lse[..., :2]).all()
    assert max(Oracle(call, "gauss", **EVERYTHING).errors(out, lse).values()) < 1e-14


def test_a_sample_holds_the_first_the_last_and_the_middle() -> None:
    generator = torch.Generator().manual_seed(0)
    for most in (3, 4, 20):
        numbers = accuracy.sample(1000, most, generator).tolist()
        assert {0, 500, 999} <= set(numbers)
        assert numbers == sorted(set(numbers))
        assert len(numbers) == most
    assert accuracy.sample(5, 5, generator).tolist() == [0, 1, 2, 3, 4]
    assert accuracy.sample(9, 1, generator).tolist() == [0]


@pytest.mark.parametrize(("head", "row"), [(0, 0), (5, 29), (2, 15)])
def test_sampled_rows_are_compared_with_the_right_ones(head: int, row: int) -> None:
    call, out, lse = exact(APPEND)
    oracle = Oracle(call, "gauss", rows=5, groups=4, seed=0)
    assert oracle.errors(out, lse)["rel_l2"] < 1e-14
    out[:, head, row] *= 1 + 1e-3
    assert oracle.errors(out, lse)["row_rel_max"] == pytest.approx(1e-3)


def test_groups_bound_what_is_looked_at() -> None:
    call, out, _ = exact(APPEND)
    oracle = Oracle(call, "gauss", rows=3, groups=2, seed=0)
    out[:] = float("nan")
    with pytest.raises(NonFiniteError, match="18 of 18 rows"):  # 2 groups of 3 heads, 3 rows each
        oracle.errors(out, None)


def test_a_few_pairs_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    call, out, lse = exact(APPEND)
    monkeypatch.setattr(accuracy, "_PIECE_BYTES", 1)
    assert max(Oracle(call, "gauss", **EVERYTHING).errors(out, lse).values()) < 1e-14


def test_a_row_that_must_be_nan_hides_no_error_of_others() -> None:
    call, _, _ = exact(APPEND)
    call.q[0, 0, 4, 0] = float("nan")
    out, _ = attention(call.q, call.k, call.v, diagonal=call.diagonal, sm_scale=call.sm_scale)
    oracle = Oracle(call, "gauss", **EVERYTHING, magnitudes=True)
    allowance = Allowed(relative=1e-3)
    assert float(oracle.share_of(out, lambda *_: allowance, 0.0)) < 1e-6
    out[1, 0, 0] *= 1.1
    assert float(oracle.share_of(out, lambda *_: allowance, 0.0)) > 1
