import csv
import io
import json

import pytest
from made_up import environment, measurement, profile, workload

from autoprec.errors import InputError
from autoprec.report import missing, summary
from autoprec.report.formats import table
from autoprec.report.frames import COLUMNS
from autoprec.report.outcomes import outcomes
from autoprec.report.report import document, render
from autoprec.types import Conversion, Profile, Status

DECODE = workload(phase="decode", batch=16, kv_len=8192, input_dtype="bf16")
INCLUDED = {"conversion": Conversion.INCLUDED}
NO_FP32 = {"status": Status.UNSUPPORTED, "reason": "torch's flash backend takes no fp32."}


def made(**changes: object) -> Profile:
    rows = [
        measurement("fp16", 0.341, 3.9e-4, **INCLUDED),
        measurement("bf16", 0.25, 3.1e-2, **INCLUDED),
        measurement("fp32", 16.9, 5.4e-7),
        measurement("sdpa-efficient", 3.24, 5.4e-7),
        measurement("sdpa-flash", None, None, **NO_FP32),
        measurement("bf16", 0.202, 2.2e-3, workload=DECODE),
        measurement("sdpa-cudnn", 0.188, 2.2e-3, workload=DECODE),
    ]
    return profile(rows, **changes)


HEAD = """\
profile   h100.json
device    NVIDIA H100 80GB HBM3 (cuda 9.0), 132 multiprocessors, 79.1 GiB
versions  autoprec 0.1.0, torch 2.13.0+cu130, triton 3.7.1, driver 580.82, CUDA 13.0, python 3.12.11
ceilings  copy 3030 GB/s; matrix product fp32 51.0, tf32 370, bf16 785, fp16 733 TFLOP/s
budget    rel_l2<=0.01 on every input family
bounds    none: choices rest on the largest errors measured, without a bound
recorded  2026-11-23T12:00:00Z by autoprec tune

2 of 2 workloads have a path within the budget: fp16 on 1 and bf16 on 1.
2.97x the speed of the fastest baseline, in the geometric mean over 2 workloads.
On 1 workload a baseline within the budget is faster than the choice: autoprec tune
--allow-baselines lets the plan run it.

prefill 32/8 d128 causal
workload         path  kernel          p50 ms  TFLOP/s  ceiling    rel_l2  speedup  verdict
b1 kv4096 fp32   fp16  triton-prefill   0.341      403      55%  3.90e-04    9.50x  within budget

decode q1 32/8 d128 causal
workload         path  kernel          p50 ms     GB/s  ceiling    rel_l2  speedup  verdict
b16 kv8192 bf16  bf16  triton-decode    0.202     2660      88%  2.20e-03    0.93x  baseline faster
- b16 kv8192 bf16: sdpa-cudnn, within the budget, is 1.07x faster than bf16: 0.188 against 0.202 ms
"""

LEGEND = """
- ceiling: part of what the machine was measured to do; decode of its copy bandwidth, prefill and
  append of its matrix-product rate in the path's type
- speedup: over the fastest baseline within the budget, on the same workload and types
- rel_l2: what is held to the budget, the largest of whole outputs over the input families
"""

REPORT = f"""\
{HEAD}
prefill b1 q4096 kv4096 32/8 d128 causal fp32
  path            kernel          p50 ms  TFLOP/s  ceiling    rel_l2  speedup  verdict
  bf16            triton-prefill   0.250   550         70%  3.10e-02    13.0x  over budget
> fp16            triton-prefill   0.341   403         55%  3.90e-04    9.50x  chosen
  sdpa-efficient  torch-sdpa       3.24     42.4       83%  5.40e-07    1.00x  baseline
  fp32            triton-prefill  16.9       8.13      16%  5.40e-07    0.19x  49.6x slower

decode b16 q1 kv8192 32/8 d128 causal bf16
  path            kernel          p50 ms     GB/s  ceiling    rel_l2  speedup  verdict
  sdpa-cudnn      torch-sdpa       0.188  2860         94%  2.20e-03    1.00x  baseline
> bf16            triton-decode    0.202  2660         88%  2.20e-03    0.93x  chosen
{LEGEND}\
- sdpa-flash (torch-sdpa) unsupported on prefill b1 q4096 kv4096 32/8 d128 causal fp32: torch's
  flash backend takes no fp32
- The clocks were throttled by the power cap.
- left out for want of width: whole outputs, worst on, over, p20-p80 ms, workspace GiB, reason;
  --format markdown has every column
"""

SUMMARY = f"""\
{HEAD}{LEGEND}\
- left out for want of width: whole outputs, worst on, over; --format markdown has every column
"""

MARKDOWN = r"""- **profile**: h100.json
- **device**: NVIDIA H100 80GB HBM3 (cuda 9.0), 132 multiprocessors, 79.1 GiB
- **versions**: autoprec 0.1.0, torch 2.13.0+cu130, triton 3.7.1, driver 580.82, CUDA 13.0, python 3.12.11
- **ceilings**: copy 3030 GB/s; matrix product fp32 51.0, tf32 370, bf16 785, fp16 733 TFLOP/s
- **budget**: rel_l2\<=0.01 on every input family
- **bounds**: none: choices rest on the largest errors measured, without a bound
- **recorded**: 2026-11-23T12:00:00Z by autoprec tune

1 of 1 workload has a path within the budget: bf16 on 1.

0.93x the speed of the fastest baseline, in the geometric mean over 1 workload.

On 1 workload a baseline within the budget is faster than the choice: autoprec tune --allow-baselines lets the plan run it.

### decode q1 32/8 d128 causal

| workload | path | kernel | p50 ms | GB/s | ceiling | rel_l2 | whole outputs | worst on | speedup | over | verdict |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | --- | --- |
| b16 kv8192 bf16 | bf16 | triton-decode | 0.202 | 2660 | 88% | 2.20e-03 | 2.20e-03 | gauss | 0.93x | sdpa-cudnn | baseline faster |

- b16 kv8192 bf16: sdpa-cudnn, within the budget, is 1.07x faster than bf16: 0.188 against 0.202 ms

### decode b16 q1 kv8192 32/8 d128 causal bf16

| path | kernel | p50 ms | p20-p80 ms | GB/s | ceiling | rel_l2 | whole outputs | worst on | workspace GiB | speedup | verdict | reason |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- | --- |
| sdpa-cudnn | torch-sdpa | 0.188 | 0.184-0.194 | 2860 | 94% | 2.20e-03 | 2.20e-03 | gauss | - | 1.00x | baseline | a baseline, taken only with --allow-baselines: 0.188 ms against 0.202 ms of bf16 |
| **bf16** | triton-decode | 0.202 | 0.198-0.208 | 2660 | 88% | 2.20e-03 | 2.20e-03 | gauss | - | 0.93x | chosen |  |

- ceiling: part of what the machine was measured to do; decode of its copy bandwidth, prefill and append of its matrix-product rate in the path's type
- speedup: over the fastest baseline within the budget, on the same workload and types
- rel_l2: what is held to the budget, the largest of whole outputs over the input families
"""  # noqa: E501


def test_table() -> None:
    remarks = ["The clocks were throttled by the power cap."]
    assert table.render(document(made(remarks=remarks), "h100.json"), 100, False) == REPORT


def test_summary() -> None:
    assert table.render(summary.document(made(), "h100.json"), 100, False) == SUMMARY


def test_markdown() -> None:
    rows = [row for row in made().measurements if row.workload == DECODE]
    assert render([("h100.json", profile(rows))], "markdown") == MARKDOWN


def test_csv_has_a_line_for_every_measurement() -> None:
    text = render([("h100.json", made())], "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert list(lines[0]) == list(COLUMNS)
    assert [line["path"] for line in lines] == [
        "bf16", "fp16", "sdpa-efficient", "fp32", "sdpa-flash", "sdpa-cudnn", "bf16",
    ]  # fmt: skip
    assert text.splitlines()[5] == (
        "h100.json,prefill b1 q4096 kv4096 32/8 d128 causal fp32,prefill,1,4096,4096,32,8,128,128,"
        "causal,,,contiguous,,False,fp32,fp32,baseline,sdpa-flash,torch-sdpa,,fp32,none,False,"
        "unsupported,,,,0,,,,,8192,,,,,,,,,,,,sdpa-efficient,True,,unsupported,"
        "torch's flash backend takes no fp32."
    )


def test_json_keeps_every_digit_and_has_null_for_what_is_missing() -> None:
    records = json.loads(render([("h100.json", made())], "json"))
    unsupported, fp32 = records[4], records[3]
    assert unsupported["p50_ms"] is None
    assert unsupported["window"] is None
    assert (fp32["rel_l2"], fp32["p50_ms"]) == (5.4e-7, 16.9)
    assert fp32 == {
        "profile": "h100.json",
        "workload": "prefill b1 q4096 kv4096 32/8 d128 causal fp32",
        "phase": "prefill",
        "batch": 1,
        "q_len": 4096,
        "kv_len": 4096,
        "q_heads": 32,
        "kv_heads": 8,
        "head_dim": 128,
        "head_dim_v": 128,
        "mask": "causal",
        "window": None,
        "soft_cap": None,
        "layout": "contiguous",
        "page_size": None,
        "sinks": False,
        "input_dtype": "fp32",
        "out_dtype": "fp32",
        "role": "candidate",
        "path": "fp32",
        "kernel": "triton-prefill",
        "config": "block_q=128 block_kv=64 num_warps=8",
        "storage": "fp32",
        "conversion": "none",
        "consistent": False,
        "status": "ok",
        "p20_ms": 0.98 * 16.9,
        "p50_ms": 16.9,
        "p80_ms": 1.03 * 16.9,
        "n": 20,
        "workspace_gib": 0.125,
        "tflops": fp32["tflops"],
        "gb_s": fp32["gb_s"],
        "tokens_s": 4096 / 16.9 * 1e3,
        "token_bytes": 8192,
        "ceiling_share": fp32["tflops"] / 51.0,
        "rel_l2": 5.4e-7,
        "worst_family": "gauss",
        "row_rel_p999": 1.5 * 5.4e-7,
        "lse_abs": 0.5 * 5.4e-7,
        "rel_l2_bound": None,
        "rel_l2_held": 5.4e-7,
        "held_family": "gauss",
        "families": "gauss outlier",
        "n_draws": None,
        "confidence": None,
        "baseline": "sdpa-efficient",
        "baseline_within_budget": True,
        "speedup": 3.24 / 16.9,
        "verdict": "slower",
        "reason": "49.56x slower than fp16: 16.9 ms against 0.341 ms",
    }


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


PREPARED = """\
2 of 2 workloads have a path within the budget: fp16 on 2.
2.48x the speed of the fastest baseline, in the geometric mean over 2 workloads.

prefill 32/8 d128 causal
workload        path  kernel          p50 ms  TFLOP/s  ceiling    rel_l2  speedup  verdict
b1 kv64 fp32    fp16  triton-prefill   0.200    0.170     0.0%  3.90e-04    1.50x  within budget
b1 kv4096 fp32  fp16  triton-prefill   0.700  196          27%  3.90e-04    4.10x  within budget
- b1 kv4096 fp32: K and V prepared once (plan.prepare_kv): 0.580 against 0.700 ms

prefill b1 q64 kv64 32/8 d128 causal fp32
  path             kernel          p50 ms  TFLOP/s  ceiling    rel_l2  speedup  verdict
  fp16 (prepared)  triton-prefill   0.195    0.175     0.0%  3.90e-04    1.54x  prepared
> fp16             triton-prefill   0.200    0.170     0.0%  3.90e-04    1.50x  chosen
  sdpa-efficient   torch-sdpa       0.300    0.114     0.2%  5.40e-07    1.00x  baseline

prefill b1 q4096 kv4096 32/8 d128 causal fp32
  path             kernel          p50 ms  TFLOP/s  ceiling    rel_l2  speedup  verdict
  bf16 (prepared)  triton-prefill   0.300  458          58%  3.10e-02    9.57x  over budget
  bf16             triton-prefill   0.400  344          44%  3.10e-02    7.17x  over budget
  fp16 (prepared)  triton-prefill   0.580  237          32%  3.90e-04    4.95x  prepared
> fp16             triton-prefill   0.700  196          27%  3.90e-04    4.10x  chosen
  tf32             triton-prefill   1.40    98.2        27%  3.90e-04    2.05x  2.00x slower
  sdpa-efficient   torch-sdpa       2.87    47.9        94%  5.40e-07    1.00x  baseline

- ceiling: part of what the machine was measured to do; decode of its copy bandwidth, prefill and
  append of its matrix-product rate in the path's type
- speedup: over the fastest baseline within the budget, on the same workload and types
- rel_l2: what is held to the budget, the largest of whole outputs over the input families
- (prepared): K and V brought into the path's form once, outside the time; never chosen
- fp32 (triton-prefill) failed on prefill b1 q64 kv64 32/8 d128 causal fp32: it broke
- tf32 (prepared) (triton-prefill) failed on prefill b1 q4096 kv4096 32/8 d128 causal fp32: no room
- left out for want of width: whole outputs, worst on, over, p20-p80 ms, workspace GiB, reason;
  --format markdown has every column
"""


def with_prepared() -> Profile:
    """Rows of K and V prepared: notably faster, hardly faster, over the budget, and failed."""
    amortised = {"conversion": Conversion.AMORTISED}
    small = workload(kv_len=64)
    failed = {"status": Status.FAILED, "reason": "it broke", "workload": small}
    return profile([
        measurement("fp16", 0.7, 3.9e-4, **INCLUDED),
        measurement("fp16", 0.58, 3.9e-4, **amortised),
        measurement("bf16", 0.4, 3.1e-2, **INCLUDED),
        measurement("bf16", 0.3, 3.1e-2, **amortised),
        measurement("tf32", 1.4, 3.9e-4, **INCLUDED),
        measurement("tf32", status=Status.FAILED, reason="no room", **amortised),
        measurement("sdpa-efficient", 2.87, 5.4e-7),
        measurement("fp16", 0.2, 3.9e-4, workload=small, **INCLUDED),
        measurement("fp16", 0.195, 3.9e-4, workload=small, **amortised),
        measurement("fp32", **failed, **INCLUDED),
        measurement("fp32", **failed, **amortised),
        measurement("sdpa-efficient", 0.3, 5.4e-7, workload=small),
    ])  # fmt: skip


def test_both_costs_of_a_path_are_shown() -> None:
    text = table.render(document(with_prepared()), 100, False)
    assert text[text.index("2 of 2") :] == PREPARED


def test_prepared_rows_for_programs() -> None:
    records = json.loads(render([("", with_prepared())], "json"))
    rows = {
        record["conversion"]: (record["p50_ms"], record["verdict"], record["reason"])
        for record in records
        if (record["path"], record["kv_len"]) == ("fp16", 4096)
    }
    assert rows == {
        "included": (0.7, "chosen", ""),
        "amortised": (
            0.58, "prepared",
            "its time leaves out the conversion of K and V, so it is never chosen",
        ),
    }  # fmt: skip


def test_a_refusal_names_no_prepared_row() -> None:
    changed = profile(with_prepared().measurements, budget="1e-12")
    text = table.render(summary.document(changed), 160, False)
    assert (
        "- b1 kv4096 fp32: no path keeps to rel_l2<=1e-12. Reached: sdpa-efficient 5.40e-07, fp16 "
        "3.90e-04, tf32 3.90e-04, bf16 3.10e-02.\n"
    ) in text


@pytest.mark.parametrize(
    ("spread", "verdict"), [(0.02, "baseline as fast"), (0.002, "baseline faster")]
)
def test_a_baseline_one_percent_ahead_is_faster_only_where_the_ranges_do_not_meet(
    spread: float, verdict: str
) -> None:
    rows = [
        measurement(path, ms, 5e-7, p20_ms=ms * (1 - spread), p80_ms=ms * (1 + spread))
        for path, ms in (("fp32", 8.18), ("sdpa-flash", 8.09))
    ]
    text = table.render(summary.document(profile(rows)), 160, False)
    assert f"  {verdict}\n" in text
    assert ("is 1.01x faster than fp32: 8.09 against 8.18 ms" in text) == (spread < 0.01)
    assert ("a baseline within the budget is faster" in text) == (spread < 0.01)


@pytest.mark.parametrize(
    ("baseline_ms", "verdict"),
    [(2.0, "within budget"), (1.04, "baseline as fast"), (0.97, "baseline as fast"),
     (0.9, "baseline faster")],
)  # fmt: skip
def test_a_baseline_is_faster_only_where_the_ranges_do_not_meet(
    baseline_ms: float, verdict: str
) -> None:
    rows = [measurement("fp16", 1.0, 3e-4), measurement("sdpa-flash", baseline_ms, 3e-4)]
    text = table.render(document(profile(rows)), 160, False)
    assert verdict in text
    assert ("sdpa-flash, within the budget, is 1.11x faster than fp16: 0.900 against 1.00 ms" in
            text) == (verdict == "baseline faster")  # fmt: skip


@pytest.mark.parametrize(
    ("baseline_ms", "verdict"),
    [(1.2, "baseline as fast"), (0.85, "baseline as fast"), (1.3, "inconclusive"),
     (8.02, "inconclusive"), (0.16, "inconclusive")],
)  # fmt: skip
def test_ranges_that_meet_around_medians_far_apart_are_inconclusive(
    baseline_ms: float, verdict: str
) -> None:
    noise = {"p20_ms": 0.1, "p80_ms": 10.0}
    rows = [
        measurement("fp16", 1.0, 3e-4, **noise),
        measurement("sdpa-flash", baseline_ms, 3e-4, **noise),
    ]
    text = table.render(summary.document(profile(rows)), 160, False)
    assert f"  {verdict}\n" in text
    assert (
        "\nOn 1 workload the times are too noisy to say whether the choice or the baseline is "
        "faster: inconclusive.\n" in text
    ) == (verdict == "inconclusive")


def test_a_baseline_over_the_budget_is_no_rival() -> None:
    rows = [measurement("fp16", 1.0, 3e-4), measurement("sdpa-flash", 0.5, 3e-2)]
    text = table.render(summary.document(profile(rows)), 160, False)
    assert "faster" not in text
    assert (
        "\n- b1 kv4096 fp32: no baseline keeps to the budget; the speedup is over sdpa-flash, the "
        "fastest of all\n"
    ) in text


def test_a_chosen_baseline_is_not_said_to_beat_itself() -> None:
    rows = [measurement("fp16", 1.0, 3e-4), measurement("sdpa-flash", 0.5, 3e-4)]
    text = render([("", profile(rows, allow_baselines=True))])
    assert "sdpa-flash on 1" in text
    assert "faster" not in text


def test_a_profile_without_measurements() -> None:
    empty = profile([], environment=environment(triton=None, variables={"OMP_NUM_THREADS": "2"}))
    text = render([("", empty)])
    assert "\nNothing was measured.\n" in text
    assert "triton missing" in text
    assert "\nvariables  OMP_NUM_THREADS=2\n" in text
    assert render([("", empty)], "csv") == f"{','.join(COLUMNS)}\n"
    assert render([("", empty)], "json") == "[]\n"


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


def test_wide_tables_have_the_reason() -> None:
    text = table.render(document(made()), 200, False)
    assert "49.6x slower  49.56x slower than fp16: 16.9 ms against 0.341 ms\n" in text


def test_what_cannot_be_rendered() -> None:
    with pytest.raises(InputError, match="the format 'pdf' is not one of table, markdown, csv"):
        render([("", made())], "pdf")
    with pytest.raises(InputError, match="there is no profile to report"):
        render([])
