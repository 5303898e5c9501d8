"""Plans: what is computed, in every layout and for every way to ask."""

import pytest
import torch
from exact import ULP, Recorder, close, inputs, naive
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoprec.plan.plan import Plan
from autoprec.types import Phase


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    q_len=st.integers(1, 24),
    kv_len=st.integers(1, 24),
    dims=st.sampled_from([(8, 8), (24, 8), (8, 16)]),
    causal=st.booleans(),
    dtype=st.sampled_from(list(ULP)),
    out_dtype=st.sampled_from([None, "fp32", torch.float32]),
    layout=st.sampled_from(["bhsd", "bshd"]),
    with_out=st.booleans(),
)
def test_attention_is_attention(
    plan: Plan, batch: int, kv_heads: int, group: int, q_len: int, kv_len: int,
    dims: tuple[int, int], causal: bool, dtype: torch.dtype, out_dtype: str | torch.dtype | None,
    layout: str, with_out: bool,
) -> None:  # fmt: skip
    q, k, v = inputs(batch, kv_heads * group, kv_heads, q_len, kv_len, *dims, dtype)
    expected, expected_lse = naive(q, k, v, causal=causal)
    if layout == "bshd":
        q, k, v, expected = (t.transpose(1, 2).contiguous() for t in (q, k, v, expected))
    wanted = dtype if out_dtype is None else torch.float32
    out = torch.full(expected.shape, float("nan"), dtype=wanted) if with_out else None
    got = plan.attention(
        q, k, v, causal=causal, out=out, out_dtype=out_dtype, return_lse=True, layout=layout
    )
    assert isinstance(got, tuple)
    assert got[0].dtype == wanted
    assert got[0] is out or not with_out
    assert got[0].is_contiguous()
    close(got[0], expected)
    assert got[1].shape == (batch, kv_heads * group, q_len)
    close(got[1], expected_lse)


@pytest.mark.parametrize(
    ("q_len", "kv_len", "method", "expected"),
    [
        (1, 1, "attention", Phase.DECODE),
        (1, 100, "attention", Phase.DECODE),
        (16, 17, "attention", Phase.DECODE),
        (16, 16, "attention", Phase.PREFILL),
        (17, 100, "attention", Phase.APPEND),
        (100, 100, "attention", Phase.PREFILL),
        (101, 100, "attention", Phase.PREFILL),
        (8, 100, "append", Phase.APPEND),
        (8, 8, "append", Phase.PREFILL),
        (1, 8, "append", Phase.DECODE),
        (8, 100, "prefill", Phase.APPEND),
        (8, 8, "prefill", Phase.PREFILL),
        (8, 8, "decode", Phase.DECODE),
        (20, 100, "decode", Phase.DECODE),
    ],
)
def test_phase_follows_the_lengths_and_the_method(
    plan: Plan, q_len: int, kv_len: int, method: str, expected: Phase
) -> None:
    q, k, v = inputs(q_len=q_len, kv_len=kv_len)
    named = None if method == "attention" else method
    text = plan.explain(q, k, v, phase=named)
    assert text.splitlines()[0].split()[:2] == ["workload", expected.value]
    close(getattr(plan, method)(q, k, v, causal=True), naive(q, k, v, causal=True)[0])


def test_sm_scale_takes_any_finite_number(plan: Plan) -> None:
    q, k, v = inputs()
    for sm_scale in (0.5, -1, 0.0):
        got = plan.prefill(q, k, v, causal=False, sm_scale=sm_scale)
        assert isinstance(got, Tensor)
        close(got, naive(q, k, v, causal=False, sm_scale=sm_scale)[0])


def test_inputs_of_any_strides_are_handed_on_without_a_copy(plan: Plan, recorder: Recorder) -> None:
    packed = torch.randn(2, 9, 3, 4, 8)
    q, k, v = packed.unbind(2)
    plan.prefill(q, k, v, causal=True, layout="bshd")
    call = recorder.calls[0]
    assert [t.data_ptr() for t in (call.q, call.k, call.v)] == [t.data_ptr() for t in (q, k, v)]
    assert call.q.stride() == q.transpose(1, 2).stride()
    assert call.diagonal == 0


def test_out_may_have_any_strides(plan: Plan) -> None:
    q, k, v = inputs()
    memory = torch.full((5, 8, 4, 2), float("nan"))
    out = memory.permute(3, 2, 0, 1)
    assert plan.prefill(q, k, v, causal=True, out=out) is out
    close(out, naive(q, k, v, causal=True)[0])


@pytest.mark.parametrize(
    "sizes",
    [{"batch": 0}, {"q_len": 0}, {"heads": 0, "kv_heads": 0}, {"dim_v": 0}],
    ids=str,
)
def test_an_empty_output_runs_nothing(
    plan: Plan, recorder: Recorder, sizes: dict[str, int]
) -> None:
    q, k, v = inputs(**sizes)
    got = plan.attention(q, k, v, causal=True)
    assert isinstance(got, Tensor)
    assert got.shape == (*q.shape[:3], v.shape[3])
    assert recorder.calls == []
    assert plan.explain(q, k, v) == "nothing to compute: there is no query, or no key to see"


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_no_keys_give_zeros_and_minus_infinity(plan: Plan, recorder: Recorder, layout: str) -> None:
    q, k, v = inputs(kv_len=0)
    if layout == "bshd":
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out, lse = plan.attention(q, k, v, causal=True, return_lse=True, layout=layout)
    assert torch.equal(out, torch.zeros(q.shape))
    assert torch.equal(lse, torch.full((2, 4, 5), float("-inf")))
    assert recorder.calls == []


def test_properties(plan: Plan) -> None:
    assert plan.device == torch.device("cpu")
    assert str(plan.budget) == "rel_l2<=0.01"
    assert plan.choices == plan.profile.choices
    assert {choice.path for choice in plan.choices} == {"bf16"}
