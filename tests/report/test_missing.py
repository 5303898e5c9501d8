"""What no path does, and what was not measured."""

import pytest
from made_up import measurement, profile, workload
from reported import DECODE, NO_FP32, made

from autoprec.budget import Budget
from autoprec.policy.apriori import hopeless
from autoprec.report import missing, summary
from autoprec.report.formats import table
from autoprec.report.outcomes import outcomes
from autoprec.report.report import document, render
from autoprec.types import Status

REFUSED = """\
No path keeps to the budget on any workload.

prefill 32/8 d128 causal
workload         path  kernel  p50 ms  TFLOP/s  ceiling  rel_l2  whole outputs  worst on  speedup  over  verdict
b1 kv4096 fp32   none  -            -        -        -       -              -  -               -  -     over budget
- b1 kv4096 fp32: no path keeps to rel_l2<=1e-12. Reached: sdpa-efficient 5.40e-07, fp32 5.40e-07, \
fp16 3.90e-04, bf16 3.10e-02, sdpa-flash unsupported.

decode q1 32/8 d128 causal
workload         path  kernel  p50 ms     GB/s  ceiling  rel_l2  whole outputs  worst on  speedup  over  verdict
b16 kv8192 bf16  none  -            -        -        -       -              -  -               -  -     over budget
- b16 kv8192 bf16: no path keeps to rel_l2<=1e-12. Reached: sdpa-cudnn 2.20e-03, bf16 2.20e-03.
- rounding the output to bf16 alone costs 1.7e-03: try --out-dtype fp32

"""  # noqa: E501


def test_a_refusal_names_every_path_with_its_error() -> None:
    text = table.render(summary.document(made(budget="1e-12")), 160, False)
    assert text[text.index("No path") : text.index("- ceiling")] == REFUSED


NOTHING_RUNS = """\
No path runs on any workload.

decode q1 32/8 d128 causal
workload         path  kernel  p50 ms  GB/s  ceiling  rel_l2  whole outputs  worst on  speedup  over  verdict
b16 kv8192 bf16  none  -            -     -        -       -              -  -               -  -     nothing runs
- b16 kv8192 bf16: no path runs. bf16 unsupported, sdpa-flash unsupported.

"""  # noqa: E501


def test_where_nothing_runs_the_budget_is_not_to_blame() -> None:
    rows = [measurement(path, workload=DECODE, **NO_FP32) for path in ("bf16", "sdpa-flash")]
    refused = profile(rows, budget="1e-12")
    text = table.render(summary.document(refused), 160, False)
    assert text[text.index("No path") : text.index("- ceiling")] == NOTHING_RUNS
    found = outcomes(refused)
    assert summary.verdict(found, refused) == "No path runs on any workload."


def test_what_was_left_out_for_its_error_is_not_said_to_lack_a_kernel() -> None:
    reason = hopeless("bf16", workload(), Budget.parse("1e-7"))
    left_out = measurement("bf16", None, None, status=Status.UNSUPPORTED, reason=reason)
    lines = summary.document(profile([left_out], budget="1e-7")).sentences
    assert lines[0] == "No path keeps to the budget on any workload."
    text = table.render(summary.document(profile([left_out], budget="1e-7")), 160, False)
    assert "- b1 kv4096 fp32: no path keeps to rel_l2<=1e-07. bf16 left out.\n" in text


def test_what_lacked_memory_is_said_in_the_summary_too() -> None:
    rows = [
        measurement(
            "sdpa-math", workload=DECODE, status=Status.UNSUPPORTED, lacked_memory=True,
            reason="it needs 392.0 GiB, and 137.9 GiB are free",
        ),
        measurement("sdpa-flash", workload=DECODE, **NO_FP32),
    ]  # fmt: skip
    text = table.render(summary.document(profile([*made().measurements[:-1], *rows])), 160, False)
    assert (
        "\n- sdpa-math (torch-sdpa) unsupported on decode b16 q1 kv8192 32/8 d128 causal bf16: it "
        "needs 392.0 GiB, and 137.9 GiB are free\n"
    ) in text
    assert "sdpa-flash (torch-sdpa) unsupported" not in text


def test_a_budget_that_some_workloads_meet() -> None:
    text = render([("", made(budget="1e-3"))])
    assert "\n1 of 2 workloads has a path within the budget: fp16 on 1.\n" in text


def test_what_there_was_no_time_for() -> None:
    skipped = {"status": Status.SKIPPED, "reason": "the time limit of 50 s was reached"}
    shapes = [DECODE, workload()]
    rows = [
        measurement(path, None, None, workload=shape, **skipped)
        for shape in shapes
        for path in ("fp32", "bf16", "fp16")
    ]
    text = table.render(document(profile(rows)), 160, False)
    assert "No path keeps" not in text
    assert "\nThere was no time to decide on 2 workloads.\n" in text
    assert (
        "\nb16 kv8192 bf16  none  -            -        -        -       -              -  -     "
        "          -  -     no time\n"
    ) in text
    assert (
        "\n- fp32, bf16 and fp16 (triton-prefill) skipped on prefill b1 q4096 kv4096 32/8 d128 "
        "causal fp32: the time limit of 50 s was reached\n"
    ) in text
    assert "decode b16 q1 kv8192 32/8 d128 causal bf16\n- nothing was measured\n" in text


def test_what_there_was_no_time_for_counts_among_all() -> None:
    late = measurement("fp32", None, None, workload=workload(kv_len=64), status=Status.SKIPPED,
                       reason="the time was up before its turn")  # fmt: skip
    some = profile([*made().measurements, late])
    text = table.render(document(some), 100, False)
    assert (
        "\n2 of 3 workloads have a path within the budget: fp16 on 1 and bf16 on 1; there was no "
        "time for 1.\n"
    ) in text
    assert "no time to decide" not in text
    assert summary.verdict(outcomes(some), some) == (
        "Within rel_l2<=0.01, the chosen paths run 2 of 3 workloads at 2.97x the speed of the "
        "fastest baseline, in the geometric mean."
    )
    none = profile(some.measurements, budget="1e-12")
    assert summary.sentences(outcomes(none)) == (
        "No path keeps to the budget on any of 2 workloads, and there was no time for 1.",
    )


@pytest.mark.parametrize(
    ("reason", "of_several"),
    [
        ("the time was up before its turn", "the time was up before their turn"),
        ("there was no time for it", "there was no time for them"),
        (
            "there was no time for it: one run takes about 2.0 s",
            "there was no time for them: one run takes about 2.0 s",
        ),
        (
            "it was not compiled before the time was up",
            "they were not compiled before the time was up",
        ),
        ("it broke", "it broke"),
    ],
)
def test_a_reason_of_several_paths_is_of_several(reason: str, of_several: str) -> None:
    def said(*paths: str) -> list[str]:
        skipped = {"status": Status.SKIPPED, "reason": reason, "kernel": ""}
        rows = [measurement(path, None, None, workload=DECODE, **skipped) for path in paths]
        return list(missing.sentences(outcomes(profile(rows))))

    where = "decode b16 q1 kv8192 32/8 d128 causal bf16"
    assert said("fp32", "bf16") == [f"fp32 and bf16 skipped on {where}: {of_several}"]
    assert said("fp32") == [f"fp32 skipped on {where}: {reason}"]


def test_what_is_missing_everywhere_is_said_once() -> None:
    rows = [
        measurement(path, None, None, workload=shape, **NO_FP32)
        for shape in (workload(), workload(kv_len=64))
        for path in ("sdpa-flash", "sdpa-cudnn")
    ]
    text = table.render(document(profile([*made().measurements, *rows[2:], rows[1]])), 160, False)
    assert (
        "\n- sdpa-flash and sdpa-cudnn (torch-sdpa) unsupported on 2 workloads: torch's flash "
        "backend takes no fp32\n"
    ) in text
    text = table.render(document(profile(rows)), 160, False)
    assert "sdpa-cudnn (torch-sdpa) unsupported on all 2 workloads: torch's" in text
