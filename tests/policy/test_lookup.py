"""The lookup: which measured choice stands in for a workload nobody measured, and what is said."""

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import workload

from autoprec.errors import BudgetError, UnsupportedError
from autoprec.policy.lookup import nearest
from autoprec.types import Choice, Layout, Refusal, Storage, Workload


def choice(path: str = "fp16", **shape: Any) -> Choice:
    return Choice(
        workload=workload(**shape),
        path=path,
        kernel="triton",
        config={},
        storage=Storage.FP32,
        margin=2.0,
        rejected={},
    )


def refusal(**shape: Any) -> Refusal:
    rejected = {"bf16": "rel_l2 3.00e-03 on gauss is over the budget of 0.001", "fp32": "too slow"}
    return Refusal(workload=workload(**shape), rejected=rejected)


PREFILL = choice(kv_len=4096)
LONG = choice("bf16", kv_len=16384)
DECODE = choice("tf32", phase="decode", batch=16, kv_len=8192)
CHOICES = [PREFILL, LONG, DECODE]


def test_a_measured_workload_is_found_exactly() -> None:
    found = nearest(workload(phase="decode", batch=16, kv_len=8192), CHOICES)
    assert (found.choice, found.exact, found.note) == (DECODE, True, "")


def test_a_single_query_sees_the_same_keys_under_either_mask() -> None:
    causal, full = (
        {"phase": "decode", "kv_len": 8192, "mask": mask} for mask in ("causal", "full")
    )
    found = nearest(workload(**full), [choice(**causal)])
    assert (found.exact, found.note) == (True, "")
    both = [choice(**causal), choice("bf16", **full)]
    assert nearest(workload(**full), both).choice.path == "bf16"
    windowed = nearest(workload(**full, window=8), [choice(**causal, window=8)])
    assert windowed.note.endswith("here mask full instead of causal")


@pytest.mark.parametrize(
    ("asked", "path", "differences"),
    [
        (
            {"kv_len": 5000},
            "fp16",
            "prefill b1 q4096 kv4096 32/8 d128 causal fp32; "
            "here q_len 5000 instead of 4096, kv_len 5000 instead of 4096",
        ),
        (
            {"kv_len": 12000, "batch": 4},
            "bf16",
            "prefill b1 q16384 kv16384 32/8 d128 causal fp32; here batch 4 instead of 1, "
            "q_len 12000 instead of 16384, kv_len 12000 instead of 16384",
        ),
        (
            {"phase": "append", "q_len": 512, "kv_len": 4096, "mask": "full"},
            "fp16",
            "prefill b1 q4096 kv4096 32/8 d128 causal fp32; here phase append instead of prefill, "
            "q_len 512 instead of 4096, mask full instead of causal",
        ),
        (
            {"phase": "decode", "kv_len": 8192, "batch": 16, "q_heads": 28, "kv_heads": 4},
            "tf32",
            "decode b16 q1 kv8192 32/8 d128 causal fp32; "
            "here q_heads 28 instead of 32, kv_heads 4 instead of 8",
        ),
        (
            {"head_dim": 192, "head_dim_v": 128, "kv_len": 4096},
            "fp16",
            "prefill b1 q4096 kv4096 32/8 d128 causal fp32; here head_dim 192 instead of 128",
        ),
    ],
)
def test_the_nearest_is_taken_and_said(asked: dict[str, Any], path: str, differences: str) -> None:
    found = nearest(workload(**asked), CHOICES)
    assert (found.choice.path, found.exact) == (path, False)
    assert found.note == f"nearest measured: {differences}"


def test_prefill_may_use_what_was_measured_for_append() -> None:
    append = choice(phase="append", q_len=512, kv_len=4096)
    assert nearest(workload(kv_len=512), [append, DECODE]).choice is append


def test_head_dims_count_more_than_lengths() -> None:
    narrow, wide = choice("bf16", head_dim=64, kv_len=4096), choice("fp16", kv_len=1024)
    assert nearest(workload(kv_len=4096), [narrow, wide]).choice is wide


def test_of_equal_sizes_the_same_mask_is_nearer() -> None:
    causal, full = choice(mask="causal", kv_len=4096), choice(mask="full", kv_len=4096)
    assert nearest(workload(mask="full", kv_len=5000), [causal, full]).choice is full
    assert nearest(workload(mask="causal", kv_len=5000), [full, causal]).choice is causal


COMMAND = (
    "autoprec tune --phase prefill --batch 1 --kv-len 4096 --heads 32/8 --head-dim 128 "
    "--mask causal --input-dtype {} --out-dtype {}"
)


@pytest.mark.parametrize(
    ("choices", "asked", "why"),
    [
        ([], {}, "the profile has no choices"),
        ([DECODE], {}, "its phase is prefill or append, and the profile has decode"),
        (
            [PREFILL, choice(input_dtype="bf16")],
            {"input_dtype": "fp16"},
            "its input dtype is fp16, and the profile has bf16, fp32",
        ),
        ([choice(soft_cap=5.0)], {"window": 128}, "its window is set, and the profile has none"),
        ([choice(soft_cap=5.0)], {}, "its soft cap is none, and the profile has set"),
        (
            [PREFILL],
            {"out_dtype": "bf16"},
            "the budget was kept with fp32 outputs, and rounding them to bf16 could break it",
        ),
        (
            [choice(out_dtype="fp16"), PREFILL],
            {"out_dtype": "bf16"},
            "the budget was kept with fp16, fp32 outputs, and rounding them to bf16 could break it",
        ),
    ],
)
def test_nothing_comparable_names_what_is_in_the_way(
    choices: list[Choice], asked: dict[str, Any], why: str
) -> None:
    shape = workload(**asked)
    with pytest.raises(UnsupportedError) as caught:
        nearest(shape, choices)
    assert caught.value.sentence == f"nothing measured can stand in for {shape}: {why}."
    if "window" not in asked:
        assert caught.value.hint == COMMAND.format(shape.input_dtype, shape.out_dtype)


def test_without_a_window_measured_one_without_stands_in() -> None:
    shape = workload(window=128, soft_cap=5.0)
    found = nearest(shape, CHOICES)
    assert (found.choice, found.exact) == (PREFILL, False)
    assert found.note == (
        "nearest measured: prefill b1 q4096 kv4096 32/8 d128 causal fp32; "
        "here window 128 instead of none, soft_cap 5.0 instead of none"
    )
    capped, windowed = choice(soft_cap=9.0), choice(window=64)
    assert nearest(shape, [*CHOICES, capped]).choice == capped
    assert nearest(shape, [*CHOICES, windowed]).choice == windowed
    with pytest.raises(UnsupportedError, match="its window is set, and the profile has none"):
        nearest(replace(shape, soft_cap=None), [capped])


def test_a_coarser_output_that_kept_to_the_budget_stands_in_for_a_finer_one() -> None:
    coarse = choice(input_dtype="bf16", out_dtype="bf16")
    found = nearest(workload(input_dtype="bf16", out_dtype="fp32"), [coarse])
    assert found.note == (
        "nearest measured: prefill b1 q4096 kv4096 32/8 d128 causal bf16; "
        "here out_dtype fp32 instead of bf16"
    )


def test_a_nearer_refusal_refuses() -> None:
    choices, refusals = [choice(kv_len=1024)], [refusal(kv_len=32768)]
    assert nearest(workload(kv_len=2048), choices, refusals).choice is choices[0]
    with pytest.raises(BudgetError) as caught:
        nearest(workload(kv_len=30000), choices, refusals)
    assert caught.value.sentence == (
        "no path keeps to the budget on prefill b1 q32768 kv32768 32/8 d128 causal fp32: "
        "bf16: rel_l2 3.00e-03 on gauss is over the budget of 0.001; fp32: too slow."
    )
    assert caught.value.hint == "accept a looser budget"


def test_where_nothing_ran_no_budget_is_too_tight() -> None:
    shape = workload(kv_len=32768)
    rejected = {"bf16": "unsupported: it needs 99.0 GiB, and 9.0 GiB are free"}
    with pytest.raises(BudgetError) as caught:
        nearest(shape, [], [Refusal(workload=shape, rejected=rejected, ran=False)])
    assert str(caught.value) == (
        "no path runs on prefill b1 q32768 kv32768 32/8 d128 causal fp32: "
        "bf16: unsupported: it needs 99.0 GiB, and 9.0 GiB are free. "
        "Try: autoprec paths, which says what runs"
    )


def test_what_was_refused_with_a_coarse_output_says_nothing_of_a_finer_one() -> None:
    choices = [choice(input_dtype="bf16", out_dtype="fp32", kv_len=1024)]
    refusals = [refusal(input_dtype="bf16", out_dtype="bf16", kv_len=8192)]
    asked = workload(input_dtype="bf16", out_dtype="fp32", kv_len=8192)
    assert nearest(asked, choices, refusals).choice is choices[0]
    with pytest.raises(UnsupportedError) as caught:
        nearest(asked, [], refusals)
    assert caught.value.sentence.endswith(
        "no path kept to the budget with bf16 outputs, and no other was measured."
    )
    with pytest.raises(BudgetError):
        nearest(workload(input_dtype="bf16", kv_len=8192), [], [refusal(input_dtype="bf16")])
    with pytest.raises(BudgetError):
        nearest(workload(out_dtype="bf16", kv_len=8192), [], [refusal()])


SHAPES = st.builds(
    workload,
    phase=st.sampled_from(["prefill", "decode"]),
    batch=st.sampled_from([1, 3, 16]),
    kv_len=st.integers(17, 1 << 20),
    head_dim=st.sampled_from([64, 128]),
    mask=st.sampled_from(["causal", "full"]),
    input_dtype=st.sampled_from(["fp32", "bf16"]),
)


@given(SHAPES, st.lists(SHAPES, unique=True), st.randoms(use_true_random=False))
def test_any_answer_is_of_the_same_kind_and_the_order_decides_nothing(
    asked: Workload, shapes: list[Workload], random: Any
) -> None:
    choices = [replace(choice(), workload=shape) for shape in shapes]
    shuffled = random.sample(choices, len(choices))
    try:
        found = nearest(asked, choices)
    except UnsupportedError:
        assert not any((s.phase, s.input_dtype) == (asked.phase, asked.input_dtype) for s in shapes)
        return
    other = nearest(asked, shuffled)
    assert (other.choice.workload, other.note) == (found.choice.workload, found.note)
    used = found.choice.workload
    assert (used.phase, used.input_dtype) == (asked.phase, asked.input_dtype)
    assert found.exact == (found.note == "")
    if asked in shapes:
        assert used == asked


def test_a_thousand_choices_take_milliseconds() -> None:
    """A new shape waits for this. It takes 2 ms; the bound leaves room for a slow machine."""
    choices = [choice(kv_len=16 + i) for i in range(1000)]
    asked = workload(phase="append", q_len=100, kv_len=300)
    start = time.perf_counter()
    nearest(asked, choices)
    assert time.perf_counter() - start < 0.1


def test_a_layout_and_sinks_are_stood_in_for_with_a_note() -> None:
    asked = workload(layout=Layout.PAGED, page_size=16, sinks=True)
    found = nearest(asked, [choice()])
    assert not found.exact
    assert found.note.endswith(
        "here layout paged instead of contiguous, page_size 16 instead of none, "
        "sinks True instead of False"
    )
    near = choice(layout=Layout.PAGED, page_size=64)
    assert nearest(asked, [choice(), near]).choice is near
