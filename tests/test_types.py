"""The records: what they refuse, and what they work out."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import ceilings, errors, measurement, profile, workload

from autoprec.errors import InputError
from autoprec.kernels.reference import attention
from autoprec.types import Conversion, Dtype, Layout, Mask, Phase, Role, Status, Storage


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0."),
        ({"q_len": -3}, "q_len must be at least 1, got -3."),
        ({"kv_len": 0}, "q_len must be at least 1, got 0."),
        ({"q_heads": 0}, "q_heads must be at least 1, got 0."),
        ({"kv_heads": 0}, "kv_heads must be at least 1, got 0."),
        ({"head_dim": 0}, "head_dim must be at least 1, got 0."),
        ({"head_dim_v": 0}, "head_dim_v must be at least 1, got 0."),
        ({"batch": 10**9}, "batch must be at most 999999999, got 1000000000."),
        ({"kv_len": 10**400}, "q_len must be at most 999999999, got 1329 bits."),
        ({"batch": -(10**400)}, "batch must be at least 1, got 1329 bits."),
        ({"window": 10**9}, "window must be at most 999999999, got 1000000000."),
        ({"window": 0}, "window must be at least 1, got 0."),
        ({"batch": 1.5}, "batch must be a whole number, got 1.5."),
        ({"batch": "8"}, "batch must be a whole number, got '8'."),
        ({"soft_cap": 0.0}, "soft_cap must be above zero and finite, got 0."),
        ({"soft_cap": math.inf}, "soft_cap must be above zero and finite, got inf."),
        ({"soft_cap": math.nan}, "soft_cap must be above zero and finite, got nan."),
        ({"q_heads": 30}, "q_heads must be a multiple of kv_heads, got 30/8."),
        ({"kv_heads": 64}, "q_heads must be a multiple of kv_heads, got 32/64."),
        (
            {"phase": "append", "q_len": 1, "kv_len": 8},
            "append needs 1 < q_len < kv_len, got q_len 1, kv_len 8.",
        ),
        (
            {"phase": "append", "q_len": 8, "kv_len": 8},
            "append needs 1 < q_len < kv_len, got q_len 8, kv_len 8.",
        ),
        (
            {"layout": "paged"},
            "page_size is for the layout paged, and paged is given page_size None.",
        ),
        (
            {"page_size": 16},
            "page_size is for the layout paged, and contiguous is given page_size 16.",
        ),
        ({"layout": "paged", "page_size": 0}, "page_size must be at least 1, got 0."),
        ({"q_len": 8, "kv_len": 9}, "prefill needs q_len = kv_len, got q_len 8, kv_len 9."),
    ],
)
def test_sizes_that_are_no_attention_problem_are_refused(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        workload(**changes | ({"layout": Layout(changes["layout"])} if "layout" in changes else {}))
    assert caught.value.sentence == sentence


@given(
    q_len=st.integers(1, 12),
    kv_len=st.integers(1, 12),
    mask=st.sampled_from(Mask),
    window=st.none() | st.integers(1, 15),
)
def test_pairs_are_those_that_a_mask_lets_through(
    q_len: int, kv_len: int, mask: Mask, window: int | None
) -> None:
    shape = workload(phase="decode", q_len=q_len, kv_len=kv_len, mask=mask, window=window)
    places = range(kv_len - q_len, kv_len)
    seen = [
        key
        for place, key in itertools.product(places, range(kv_len))
        if (mask is Mask.FULL or key <= place) and (window is None or key > place - window)
    ]
    assert shape.pairs == len(seen)


@pytest.mark.parametrize(("q_len", "kv_len", "window"), [(7, 7, 3), (3, 9, 4), (9, 4, 2)])
def test_a_full_mask_s_window_counts_what_kernels_see(q_len: int, kv_len: int, window: int) -> None:
    shape = workload(phase="decode", q_len=q_len, kv_len=kv_len, mask=Mask.FULL, window=window)
    q, k, v = (torch.zeros(1, 1, n, 8) for n in (q_len, kv_len, kv_len))
    _, lse = attention(q, k, v, diagonal=None, sm_scale=1.0, window_left=window - 1)
    assert shape.pairs == lse.exp2().sum().round()


def test_more_prompts_than_fit_end_to_end_are_refused() -> None:
    for batch, length in ((64, 500_000_000), (999_999_999, 999_999_999), (8_000_000, 130)):
        sentence = (
            f"{batch} prompts of up to {length} tokens, laid end to end, have more than 999999999 "
            "tokens."
        )
        with pytest.raises(InputError) as caught:
            workload(batch=batch, kv_len=length, layout=Layout.RAGGED)
        assert caught.value.sentence == sentence
        workload(batch=batch, kv_len=length)
    for batch, length in ((999_999_999, 1), (16, 500_000_000), (1, 999_999_999)):
        workload(batch=batch, kv_len=length, layout=Layout.RAGGED)


def test_lengths_are_drawn_once() -> None:
    it, same = (workload(batch=64, kv_len=8192, layout=Layout.RAGGED) for _ in range(2))
    assert it.lengths is same.lengths


def test_prompts_laid_end_to_end_have_lengths_of_their_own() -> None:
    it = workload(batch=64, kv_len=8192, layout=Layout.RAGGED)
    lengths = it.lengths
    assert it.unequal
    assert lengths == it.lengths != tuple(sorted(lengths))
    steps = [math.log(b / a) for a, b in itertools.pairwise(sorted(lengths))]
    assert steps == pytest.approx([math.log(64) / 63] * 63, abs=0.5 / 128 * 2)
    assert (min(lengths), max(lengths), len(lengths)) == (128, 8192, 64)
    assert it.kv_tokens == it.new_tokens == sum(lengths)
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    assert it.flops == 2 * 32 * pairs * (128 + 128)
    assert it.kv_bytes == sum(lengths) * 8 * 256 * 4
    assert workload(batch=3, kv_len=64, layout=Layout.RAGGED).lengths == (64,) * 3


@pytest.mark.parametrize(
    "changes",
    [{"batch": 1}, {"layout": Layout.CONTIGUOUS}, {"phase": "decode", "q_len": 1}],
    ids=str,
)
def test_all_others_are_measured_with_equal_lengths(changes: dict[str, Any]) -> None:
    it = workload(**{"batch": 2, "kv_len": 300, "layout": Layout.RAGGED} | changes)
    assert it.lengths == (300,) * it.batch
    assert (it.kv_tokens, it.new_tokens) == (300 * it.batch, it.q_len * it.batch)


def test_work_and_bytes() -> None:
    shape = workload(
        phase="decode", batch=2, q_len=1, kv_len=10, head_dim=24, head_dim_v=8, input_dtype="bf16"
    )
    assert shape.group == 4
    assert shape.flops == 2 * 2 * 32 * 10 * (24 + 8)
    assert shape.kv_bytes == 2 * 8 * 10 * (24 + 8) * 2
    assert Dtype.FP32.nbytes == 4


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "prefill b1 q4096 kv4096 32/8 d128 causal fp32"),
        (
            {"phase": "decode", "batch": 8, "input_dtype": "bf16", "out_dtype": "fp32"},
            "decode b8 q1 kv4096 32/8 d128 causal bf16>fp32",
        ),
        (
            {"mask": "full", "head_dim": 192, "head_dim_v": 128, "window": 512, "soft_cap": 50.0},
            "prefill b1 q4096 kv4096 32/8 d192/128 full w512 cap50 fp32",
        ),
    ],
)
def test_a_workload_in_one_line(changes: dict[str, Any], text: str) -> None:
    assert str(workload(**changes)) == text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"p80_ms": None}, "the ok measurement of bf16 has no time or no errors."),
        ({"errors": {}}, "the ok measurement of bf16 has no time or no errors."),
        (
            {"p20_ms": 0.0},
            "the times of bf16 must be above zero and in order, got p20 0, p50 1, p80 1.03 ms.",
        ),
        (
            {"p20_ms": 1.5},
            "the times of bf16 must be above zero and in order, got p20 1.5, p50 1, p80 1.03 ms.",
        ),
        (
            {"p80_ms": math.inf},
            "the times of bf16 must be above zero and in order, got p20 0.98, p50 1, p80 inf ms.",
        ),
        (
            {"p80_ms": math.nan},
            "the times of bf16 must be above zero and in order, got p20 0.98, p50 1, p80 nan ms.",
        ),
        (
            {"errors": {"gauss": {"rel_l2": 1e-4}}},
            "the errors of bf16 on gauss lack row_rel_p999.",
        ),
        (
            {"errors": {"gauss": errors(1e-4) | {"max_abs": math.nan}}},
            "max_abs of bf16 on gauss must be finite and not below zero, got nan.",
        ),
        (
            {"errors": {"gauss": errors(1e-4) | {"lse_abs": -1.0}}},
            "lse_abs of bf16 on gauss must be finite and not below zero, got -1.",
        ),
        (
            {"workspace_gib": -1.0},
            "workspace_gib of bf16 must be finite and not below zero, got -1.",
        ),
        (
            {"lacked_memory": True},
            "the ok measurement of bf16 cannot have lacked memory.",
        ),
        ({"status": Status.FAILED}, "the failed measurement of bf16 gives no reason."),
        ({"status": Status.SKIPPED}, "the skipped measurement of bf16 gives no reason."),
    ],
)
def test_measurements_that_cannot_be_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        measurement("bf16", **changes)
    assert caught.value.sentence == sentence


def test_a_kernel_without_an_lse_has_no_error_of_it() -> None:
    numbers = errors(1e-4)
    del numbers["lse_abs"]
    assert measurement("bf16", errors={"gauss": numbers}).errors == {"gauss": numbers}


def test_a_measurement_replaces_one_of_another_configuration() -> None:
    first = measurement("bf16", config={"block_q": 64})
    assert first.key == measurement("bf16", 2.0, config={"block_q": 128}).key


@pytest.mark.parametrize(
    "changes",
    [
        {"workload": workload(batch=2)},
        {"role": Role.BASELINE},
        {"kernel": "other"},
        {"storage": Storage.BF16},
        {"conversion": "amortised"},
    ],
)
def test_a_measurement_stands_beside_one_of_another_key(changes: dict[str, Any]) -> None:
    assert measurement("bf16").key != measurement("bf16", **changes).key


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_ceilings_are_above_zero(rate: float) -> None:
    with pytest.raises(InputError, match="the ceiling copy_gb_s must be above zero and finite"):
        ceilings(copy_gb_s=rate)
    with pytest.raises(InputError, match="the ceiling bf16 must be above zero and finite"):
        ceilings(gemm_tflops={"bf16": rate})


def test_the_largest_sizes_have_finite_work() -> None:
    most = 999_999_999
    sizes = dict.fromkeys(("batch", "kv_len", "q_heads", "kv_heads", "head_dim", "window"), most)
    assert workload(**sizes).flops < math.inf
    assert str(most) in str(workload(**sizes))


def test_a_ceiling_is_not_nearly_zero() -> None:
    assert ceilings(copy_gb_s=1e-12).copy_gb_s == 1e-12
    with pytest.raises(InputError) as caught:
        ceilings(copy_gb_s=1e-300)
    assert caught.value.sentence == "the ceiling copy_gb_s must be at least 1e-12, got 1e-300."


def test_the_made_up_profile_decides_every_workload() -> None:
    made = profile()
    decided = {choice.workload for choice in made.choices}
    assert decided == {row.workload for row in made.measurements}
    assert made.choices[0].workload.phase is Phase.PREFILL


def test_prepared_is_a_kernel_whose_time_leaves_the_conversion_out() -> None:
    assert measurement("bf16", conversion=Conversion.AMORTISED).prepared
    assert not measurement("bf16", conversion=Conversion.INCLUDED).prepared
    assert not measurement("sdpa-flash", conversion=Conversion.AMORTISED).prepared  # its heads were


def test_a_line_names_the_layout_and_the_sinks() -> None:
    paged = workload(phase="decode", kv_len=64, layout=Layout.PAGED, page_size=16, sinks=True)
    assert str(paged) == "decode b1 q1 kv64 32/8 d128 causal sinks page16 fp32"
    assert str(workload(kv_len=64, layout=Layout.RAGGED)) == (
        "prefill b1 q64 kv64 32/8 d128 causal ragged fp32"
    )
