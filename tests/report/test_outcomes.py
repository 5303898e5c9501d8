from dataclasses import replace

import pytest
from made_up import ceilings, errors, measurement, profile, workload

from autoprec.report.outcomes import Outcome, Verdict, outcomes
from autoprec.report.rates import ceiling, share
from autoprec.types import Measurement, Phase, Status, Storage


def verdicts(outcome: Outcome) -> dict[str, str]:
    return {row.measurement.path: row.verdict.value for row in outcome.rows}


def only(*measurements: Measurement, budget: str = "1e-2") -> Outcome:
    (outcome,) = outcomes(profile(measurements, budget=budget))
    return outcome


def test_every_measurement_gets_a_verdict_and_the_fastest_comes_first() -> None:
    outcome = only(
        measurement("fp32", 3.0, 5e-7),
        measurement("tf32", 1.01, 4e-4),  # meets fp16's range: 0.9898 <= 1.03
        measurement("fp16", 1.0, 3e-4),
        measurement("bf16", 0.9, 3e-2),
        measurement("sdpa-flash", 0.8, 2e-2),
        measurement("sdpa-math", 9.0, 5e-7),
        measurement("sdpa-cudnn", None, None, status=Status.UNSUPPORTED, reason="no cuDNN"),
        measurement("tf32x3", None, None, status=Status.FAILED, reason="no answer in 30 s"),
        measurement("bf16x3", None, None, status=Status.SKIPPED, reason="no time"),
    )
    assert verdicts(outcome) == {
        "sdpa-flash": "over budget",
        "bf16": "over budget",
        "fp16": "chosen",
        "tf32": "less accurate",
        "fp32": "slower",
        "sdpa-math": "baseline",
        "sdpa-cudnn": "unsupported",
        "tf32x3": "failed",
        "bf16x3": "skipped",
    }
    reasons = {row.measurement.path: row.reason for row in outcome.rows}
    assert reasons["fp16"] == ""
    assert reasons["bf16x3"] == "no time"
    assert reasons["bf16"] == "rel_l2 3.00e-02 on gauss is over the budget of 0.01"


def test_speedups_are_over_the_fastest_baseline_within_the_budget() -> None:
    outcome = only(
        measurement("fp16", 1.0, 3e-4),
        measurement("sdpa-flash", 0.5, 2e-2),
        measurement("sdpa-efficient", 2.0, 5e-7),
        measurement("sdpa-math", 8.0, 5e-7),
    )
    assert outcome.baseline is not None
    assert (outcome.baseline.path, outcome.baseline_within) == ("sdpa-efficient", True)
    assert {row.measurement.path: row.speedup for row in outcome.rows} == {
        "sdpa-flash": 4.0,
        "fp16": 2.0,
        "sdpa-efficient": 1.0,
        "sdpa-math": 0.25,
    }


def test_where_no_baseline_is_within_the_budget_the_fastest_of_all_stands_in() -> None:
    outcome = only(
        measurement("fp16", 1.0, 3e-4),
        measurement("sdpa-flash", 0.5, 2e-2),
        measurement("sdpa-math", 8.0, 3e-2),
    )
    assert outcome.baseline is not None
    assert (outcome.baseline.path, outcome.baseline_within) == ("sdpa-flash", False)


def test_without_a_baseline_there_is_no_speedup() -> None:
    outcome = only(measurement("fp16", 1.0, 3e-4))
    assert (outcome.baseline, outcome.rows[0].speedup) == (None, None)


def test_a_baseline_can_be_the_choice() -> None:
    rows = [measurement("fp16", 1.0, 3e-4), measurement("sdpa-flash", 0.5, 3e-4)]
    (outcome,) = outcomes(profile(rows, allow_baselines=True))
    assert verdicts(outcome) == {"sdpa-flash": "chosen", "fp16": "slower"}


def test_two_kernels_of_a_path_each_have_a_reason_of_their_own() -> None:
    outcome = only(
        measurement("fp32", 1.0, 5e-7, kernel="quick"),
        measurement("fp32", 1.01, 6e-7, kernel="like"),
        measurement("fp32", 4.0, 5e-7, kernel="slow"),
        measurement("fp32", 0.1, 5e-2, kernel="wrong"),
        measurement("fp32", 0.9, 5e-7, kernel="new", n_draws=8),
    )
    assert [(r.measurement.kernel, r.verdict, r.reason) for r in outcome.rows] == [
        ("wrong", Verdict.OVER_BUDGET, "rel_l2 5.00e-02 on gauss is over the budget of 0.01"),
        (
            "new",
            Verdict.FEW_DRAWS,
            "within the budget on 8 of the 59 draws that it needs to be chosen",
        ),
        ("quick", Verdict.CHOSEN, ""),
        (
            "like",
            Verdict.LESS_ACCURATE,
            "no clear difference in time from fp32 of quick, which is more accurate",
        ),
        ("slow", Verdict.SLOWER, "takes 4.00x the time of fp32 of quick"),
    ]


def test_a_choice_that_was_not_measured_leaves_no_row_chosen() -> None:
    made = profile([measurement("fp16", 1.0, 3e-4)])
    other = replace(made.choices[0], storage=Storage.BF16)
    (outcome,) = outcomes(replace(made, choices=[other]))
    assert (outcome.chosen, outcome.choice) == (None, other)


def test_the_worst_family_is_the_one_with_the_largest_error() -> None:
    both = {"gauss": errors(1e-4), "outlier": errors(3e-4) | {"lse_abs": 1e-9}}
    (row,) = only(measurement("fp16", errors=both)).rows
    assert (row.held.family, row.worst("rel_l2")) == ("outlier", 3e-4)
    assert row.worst("lse_abs") == 0.5e-4  # of gauss: each metric has its own worst family
    assert row.worst("bits") is None


def test_workloads_stand_by_phase_then_type_then_size() -> None:
    shapes = [
        workload(phase="decode", batch=16),
        workload(phase="decode", batch=1),
        workload(input_dtype="bf16"),
        workload(phase="append", kv_len=8192),
        workload(kv_len=8192),
        workload(kv_len=1024),
    ]
    made = profile([measurement("bf16", workload=shape) for shape in shapes])
    assert [str(outcome.workload) for outcome in outcomes(made)] == [
        "prefill b1 q1024 kv1024 32/8 d128 causal fp32",
        "prefill b1 q8192 kv8192 32/8 d128 causal fp32",
        "prefill b1 q4096 kv4096 32/8 d128 causal bf16",
        "append b1 q512 kv8192 32/8 d128 causal fp32",
        "decode b1 q1 kv4096 32/8 d128 causal fp32",
        "decode b16 q1 kv4096 32/8 d128 causal fp32",
    ]


@pytest.mark.parametrize(
    ("path", "phase", "rate", "what"),
    [
        ("fp16", "prefill", 733.0, "the fp16 matrix-product rate"),
        ("tf32x3", "append", 370.0, "the tf32 matrix-product rate"),
        ("sdpa-flash", "prefill", 51.0, "the fp32 matrix-product rate"),
        ("fp16", "decode", 3030.0, "the copy bandwidth"),
    ],
)
def test_the_ceiling_is_of_what_the_phase_does(
    path: str, phase: str, rate: float, what: str
) -> None:
    it = measurement(path, workload=workload(phase=phase, kv_len=8192))
    assert ceiling(it, ceilings()) == (rate, what)
    reached = it.gb_s if it.workload.phase is Phase.DECODE else it.tflops
    assert reached is not None
    assert share(it, ceilings()) == reached / rate


def test_where_fp32_is_faster_than_the_operand_type_it_is_the_ceiling() -> None:
    slow = ceilings(gemm_tflops={"fp32": 0.19, "bf16": 0.82, "fp16": 0.0024})
    found = [ceiling(measurement(path), slow)[0] for path in ("fp16", "tf32", "bf16")]
    assert found == [0.19, 0.19, 0.82]


def test_without_a_measured_ceiling_there_is_no_share() -> None:
    assert share(measurement("bf16"), ceilings(gemm_tflops={})) is None
    without = measurement("bf16", None, None, status=Status.SKIPPED, reason="no time")
    assert share(without, ceilings()) is None
