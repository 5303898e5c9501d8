"""Paths with K and V prepared beforehand, in reports."""

import json

from made_up import measurement, profile, workload
from reported import INCLUDED

from autoprec.report import summary
from autoprec.report.formats import table
from autoprec.report.report import document, render
from autoprec.types import Conversion, Profile, Status

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
