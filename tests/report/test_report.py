"""The report of a profile, in every form."""

import csv
import io
import json

import pytest
from made_up import environment, profile
from reported import DECODE, made

from autoprec.errors import InputError
from autoprec.report import summary
from autoprec.report.formats import table
from autoprec.report.frames import COLUMNS
from autoprec.report.report import document, render

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


def test_a_profile_without_measurements() -> None:
    empty = profile([], environment=environment(triton=None, variables={"OMP_NUM_THREADS": "2"}))
    text = render([("", empty)])
    assert "\nNothing was measured.\n" in text
    assert "triton missing" in text
    assert "\nvariables  OMP_NUM_THREADS=2\n" in text
    assert render([("", empty)], "csv") == f"{','.join(COLUMNS)}\n"
    assert render([("", empty)], "json") == "[]\n"


def test_wide_tables_have_the_reason() -> None:
    text = table.render(document(made()), 200, False)
    assert "49.6x slower  49.56x slower than fp16: 16.9 ms against 0.341 ms\n" in text


def test_what_cannot_be_rendered() -> None:
    with pytest.raises(InputError, match="the format 'pdf' is not one of table, markdown, csv"):
        render([("", made())], "pdf")
    with pytest.raises(InputError, match="there is no profile to report"):
        render([])
