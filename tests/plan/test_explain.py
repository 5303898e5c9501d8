"""What explain says, whole."""

from collections.abc import Callable
from dataclasses import replace

import made_up
import pytest
import torch
from exact import Recorder, cpu_profile, rows

from autoprec.budget import Budget
from autoprec.errors import InputError
from autoprec.plan.decision import Decision
from autoprec.plan.explain import explain
from autoprec.plan.plan import Plan
from autoprec.policy.lookup import Found
from autoprec.probe.peers import PEERS
from autoprec.types import Conversion, Role

CPU = torch.device("cpu")
SLOWER = cpu_profile().choices[0].rejected["fp32"]


def tensors(q_len: int, kv_len: int, dim: int = 64) -> list[torch.Tensor]:
    return [
        torch.zeros(1, 32, q_len, dim),
        torch.zeros(1, 8, kv_len, dim),
        torch.zeros(1, 8, kv_len, dim),
    ]


def test_exact(recorder: Recorder, register: Callable[..., None]) -> None:
    register(recorder.kernel("exact"))
    plan = Plan(cpu_profile(), CPU, remarks=["made.json, made 2026-11-23"])
    assert plan.explain(*tensors(1, 1024)) == "\n".join(
        [
            "workload  decode b1 q1 kv1024 32/8 d64 causal fp32",
            "path      bf16: operands rounded once to bf16 (7 mantissa bits, fp32's range)",
            "kernel    exact block=64",
            "rests on  a measurement of this very workload",
            "time      0.5 ms (p20 0.49, p80 0.515; n 20)",
            "error     rel_l2 3.00e-03 on gauss, rel_l2 1.50e-03 on outlier",
            "bound     none: the profile has measured errors alone",
            "budget    rel_l2<=0.01, 3.33 times what is held to it",
            f"not fp32  {SLOWER}",
            "profile   made.json, made 2026-11-23",
        ]
    )
    assert recorder.calls == []


def test_a_bound_that_rests_on_few_captured_heads(
    recorder: Recorder, register: Callable[..., None]
) -> None:
    register(recorder.kernel("exact"))
    table = [
        replace(row, n_draws=64, captured={"captured": 30}, bounds=row.errors) for row in rows()
    ]
    lines = Plan(cpu_profile(table), CPU).explain(*tensors(1, 1024)).splitlines()
    assert (
        "bound     rel_l2 3.00e-03 on gauss, rel_l2 1.50e-03 on outlier; 96 % sure for 95 % of "
        "draws, from 64, and 79 % from all 30 heads of captured"
    ) in lines


def test_the_time_is_not_that_of_prepared_keys_and_values(
    recorder: Recorder, register: Callable[..., None]
) -> None:
    register(recorder.kernel("exact"))
    workload = made_up.workload(phase="decode", kv_len=1024, head_dim=64)
    prepared = made_up.measurement(
        "bf16", 0.1, 3e-3, workload=workload, kernel="exact", config={"block": 64},
        conversion=Conversion.AMORTISED,
    )  # fmt: skip
    lines = Plan(cpu_profile([prepared, *rows()]), CPU).explain(*tensors(1, 1024)).splitlines()
    assert "time      0.5 ms (p20 0.49, p80 0.515; n 20)" in lines


def test_nearest_and_substituted(recorder: Recorder, register: Callable[..., None]) -> None:
    register(recorder.kernel("exact", max_head_dim=16), recorder.kernel("spare"))
    table = [row for row in rows() if row.workload.phase == "decode"]
    plan = Plan(cpu_profile(table), CPU)
    nearest = "(of the nearest: decode b1 q1 kv1024 32/8 d64 causal fp32)"
    assert plan.explain(*tensors(1, 3000, 80), causal=False, out_dtype="fp32") == "\n".join(
        [
            "workload    decode b1 q1 kv3000 32/8 d80 full fp32",
            "path        bf16: operands rounded once to bf16 (7 mantissa bits, fp32's range)",
            "kernel      spare block=16",
            "rests on    nearest measured: decode b1 q1 kv1024 32/8 d64 causal fp32; here "
            "kv_len 3000 instead of 1024, head_dim 80 instead of 64, head_dim_v 80 instead of 64",
            f"time        0.5 ms (p20 0.49, p80 0.515; n 20) {nearest}",
            f"error       rel_l2 3.00e-03 on gauss, rel_l2 1.50e-03 on outlier {nearest}",
            f"bound       none: the profile has measured errors alone {nearest}",
            f"budget      rel_l2<=0.01, 3.33 times what is held to it {nearest}",
            "note        exact was chosen but cannot run this (exact takes head dims up to 16, "
            "not 80), so spare runs the same path",
            "note        spare was not measured here, so its first configuration is used",
            f"not fp32    {SLOWER} {nearest}",
            "to measure  autoprec tune --phase decode --batch 1 --q-len 1 --kv-len 3000 "
            "--heads 32/8 --head-dim 80 --mask full --input-dtype fp32 --out-dtype fp32",
        ]
    )


def test_consistent_mode_rests_on_the_workload_that_stands_for_all(
    recorder: Recorder, register: Callable[..., None]
) -> None:
    register(recorder.kernel("exact", consistent=lambda path, workload, target: {"block": 64}))
    typical = made_up.workload(phase="decode", kv_len=8192, head_dim=64)
    row = made_up.measurement("fp32", 0.5, 5e-7, workload=typical, kernel="exact")
    plan = Plan(cpu_profile([row]), CPU, consistent=True)
    lines = plan.explain(*tensors(1, 1024)).splitlines()
    stands = "decode b1 q1 kv8192 32/8 d64 causal fp32"
    assert f"rests on  a measurement of {stands}, which stands for this one" in lines
    assert f"time      0.5 ms (p20 0.49, p80 0.515; n 20) (of the nearest: {stands})" in lines


def test_a_baseline(recorder: Recorder, register: Callable[..., None]) -> None:
    register(recorder.kernel("exact"))
    workload = made_up.workload(phase="decode", kv_len=1024, head_dim=64)
    table = [*rows(), made_up.measurement("sdpa-math", 0.1, 5e-7, workload=workload)]
    plan = Plan(cpu_profile(table, allow_baselines=True), CPU)
    lines = plan.explain(*tensors(1, 1024)).splitlines()
    assert lines[1:3] == [
        "path      sdpa-math: a baseline, PyTorch's scaled_dot_product_attention",
        "kernel    torch-sdpa",
    ]
    lines = plan.explain(*tensors(1, 1024), return_lse=True).splitlines()
    assert "note           sdpa-math was chosen but gives no LSE, so bf16 runs" in lines


def test_a_baseline_of_another_library() -> None:
    workload = made_up.workload(phase="decode", kv_len=1024, input_dtype="bf16")
    library = made_up.measurement(
        "flashinfer-fa2", 0.1, 2e-3, workload=workload, kernel="flashinfer-fa2", role=Role.BASELINE
    )
    profile = cpu_profile([library], allow_baselines=True)
    (kernel,) = (it for it in PEERS if it.name == "flashinfer-fa2")
    decision = Decision(
        workload=workload, found=Found(profile.choices[0], exact=True, note=""), kernel=kernel,
        config={}, notes=(), substituted="",
    )  # fmt: skip
    lines = explain(decision, Budget.parse("1e-2"), [library], []).splitlines()
    assert lines[1] == "path      flashinfer-fa2: a baseline, another library's attention"


def test_a_phase_that_is_none(plan: Plan) -> None:
    with pytest.raises(InputError) as caught:
        plan.explain(*tensors(1, 8), phase="generate")
    assert str(caught.value) == "phase must be one of prefill, append, decode, got 'generate'."
