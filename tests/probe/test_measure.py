import time
from collections.abc import Callable

import pytest
import torch
from fake_kernels import fake, workload
from measuring import CPU, DECODE, by_path, run

from autoprec.probe import device as devices
from autoprec.probe.effort import EFFORTS
from autoprec.probe.events import Event, Measured, Planned, Remark, Working
from autoprec.probe.lineup import line_up
from autoprec.probe.measure import measure
from autoprec.probe.nvml import DeviceState
from autoprec.types import Conversion, Dtype, Phase, Role, Status, Storage


def test_a_row_for_every_kernel_and_path_and_baseline(have: Callable[..., None]) -> None:
    have(fake("one", paths=("fp32", "bf16")), fake("two", paths=("bf16",)))
    events: list[Event] = []
    rows = run(events=events)
    assert [(row.role, row.path, row.kernel, row.status) for row in rows] == [
        (Role.CANDIDATE, "fp32", "one", Status.OK),
        (Role.CANDIDATE, "bf16", "one", Status.OK),
        (Role.CANDIDATE, "bf16", "two", Status.OK),
        (Role.BASELINE, "sdpa-efficient", "torch-sdpa", Status.UNSUPPORTED),
        (Role.BASELINE, "sdpa-flash", "torch-sdpa", Status.OK),
        (Role.BASELINE, "sdpa-cudnn", "torch-sdpa", Status.UNSUPPORTED),
        (Role.BASELINE, "sdpa-math", "torch-sdpa", Status.OK),
    ]
    assert events[0] == Planned(7)
    assert [event.measurement for event in events if isinstance(event, Measured)] == rows
    assert [event.sentence for event in events if isinstance(event, Working)] == [
        "drawing gauss inputs",
        "trying 5 configurations",
        "timing 5 configurations of 5 paths",
        "drawing gauss inputs",
        "drawing outlier inputs",
    ]


def test_a_measurement_is_complete(have: Callable[..., None]) -> None:
    have(fake("one", paths=("fp32", "bf16"), configs=({"block": 16},)))
    rows = by_path(run())
    fp32, bf16, flash = rows["fp32"], rows["bf16"], rows["sdpa-flash"]
    assert fp32.p20_ms is not None
    assert fp32.p50_ms is not None
    assert fp32.p80_ms is not None
    assert 0 < fp32.p20_ms <= fp32.p50_ms <= fp32.p80_ms
    assert fp32.tflops == pytest.approx(DECODE.flops / (fp32.p50_ms * 1e-3) / 1e12)
    assert fp32.gb_s == pytest.approx(DECODE.kv_bytes / (fp32.p50_ms * 1e-3) / 1e9)
    assert (fp32.config, fp32.storage) == ({"block": 16}, Storage.FP32)
    assert (fp32.conversion, bf16.conversion) == (Conversion.NONE, Conversion.INCLUDED)
    assert set(fp32.errors) == {"gauss", "outlier"}
    metrics = {"rel_l2", "row_rel_p999", "row_rel_max", "max_abs"}
    assert set(fp32.errors["gauss"]) == metrics | {"lse_abs"}
    assert set(flash.errors["gauss"]) == metrics
    # fp64 rounded to fp32 once, operands rounded to bf16 (2^-9 each), fp32 sums of 64 terms
    assert fp32.errors["gauss"]["rel_l2"] < 2**-23
    assert 2**-12 < bf16.errors["gauss"]["rel_l2"] < 2**-5
    assert flash.errors["gauss"]["rel_l2"] < 64 * 2**-23
    # other numbers, larger ones: a larger error
    assert bf16.errors["outlier"]["max_abs"] != bf16.errors["gauss"]["max_abs"]


def test_small_workloads_come_first(have: Callable[..., None]) -> None:
    have(fake("one"))
    large, small = workload(kv_len=200), workload(kv_len=20)
    rows = run(large, small, paths=("fp32",))
    assert [row.workload for row in rows] == [small] * 5 + [large] * 5


def test_phases_take_turns(have: Callable[..., None]) -> None:
    have(fake("one"))
    asked = [
        workload(phase=Phase.PREFILL, q_len=256, kv_len=256),
        *(workload(kv_len=kv_len) for kv_len in (96, 64, 128)),
        workload(phase=Phase.PREFILL, q_len=64, kv_len=64),
    ]
    order = dict.fromkeys((row.workload.phase, row.workload.kv_len) for row in run(*asked))
    decode, prefill = Phase.DECODE, Phase.PREFILL
    assert list(order) == [(decode, 64), (prefill, 64), (decode, 96), (prefill, 256), (decode, 128)]


def test_a_path_that_no_kernel_runs_is_unsupported(have: Callable[..., None]) -> None:
    have(fake("one"), broken={"prefill": "autoprec.kernels.prefill cannot be imported: no triton"})
    row = by_path(run(paths=("fp32", "tf32")))["tf32"]
    assert (row.role, row.kernel, row.status, row.reason) == (
        Role.CANDIDATE,
        "prefill",
        Status.UNSUPPORTED,
        "autoprec.kernels.prefill cannot be imported: no triton",
    )


def test_baselines_say_why_not(have: Callable[..., None]) -> None:
    rows = by_path(run(workload(head_dim=32, head_dim_v=16), paths=()))
    assert rows["sdpa-cudnn"].reason == "PyTorch has no sdpa-cudnn on CPUs"
    assert rows["sdpa-flash"].status is Status.UNSUPPORTED
    assert rows["sdpa-flash"].reason.startswith("PyTorch refuses sdpa-flash: Flash attention req")
    assert not rows["sdpa-flash"].reason.endswith(".")
    assert rows["sdpa-math"].status is Status.OK


def test_a_held_back_or_shared_device_is_said_once(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter([DeviceState(), DeviceState(throttle_reasons=("power cap",))])

    def state(device: torch.device) -> DeviceState:
        others = DeviceState(
            throttle_reasons=("power cap",), other_processes=("process 7 (1.0 GiB)",)
        )
        return next(states, others)

    monkeypatch.setattr(devices, "state", state)
    have(fake("one"))
    events: list[Event] = []
    small, large = workload(kv_len=20), workload(kv_len=80)
    run(small, large, paths=(), events=events)
    assert [event.sentence for event in events if isinstance(event, Remark)] == [
        f"the clocks were held back, first seen at {small}: power cap.",
        f"others use the GPU, first seen at {large}: process 7 (1.0 GiB).",
    ]


def test_a_state_that_cannot_be_read_is_said(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "state", lambda device: DeviceState(note="NVML is not here."))
    events: list[Event] = []
    run(paths=(), events=events)
    assert [event for event in events if isinstance(event, Remark)] == [Remark("NVML is not here.")]


def test_baselines_are_lined_up_after_candidates(have: Callable[..., None]) -> None:
    have(fake("one"))
    bf16 = workload(input_dtype=Dtype.BF16)
    target = devices.target(CPU)
    line = line_up(bf16, target, ("fp32",), CPU)
    assert [it.path for it in line] == [
        "fp32", "sdpa-efficient", "sdpa-flash", "sdpa-cudnn", "sdpa-math",
    ]  # fmt: skip
    # q, k, v, out in two bytes, the LSE in four, K and V once more
    elements = 2 * 4 * 32 + 2 * 2 * 64 * 32
    assert line[0].need_bytes() == 2 * elements + 4 * 4 + bf16.kv_bytes


def test_efforts_grow() -> None:
    quick, normal, thorough = EFFORTS.values()
    for less, more in ((quick, normal), (normal, thorough)):
        assert less.samples < more.samples
        assert sum(less.rounds) < sum(more.rounds)
        assert (less.rows, less.groups) <= (more.rows, more.groups)
        assert less.confidence < more.confidence


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", list(Dtype))
def test_measures_a_gpu(dtype: Dtype) -> None:
    small = {"q_heads": 8, "kv_heads": 2, "head_dim": 64, "input_dtype": dtype}
    events: list[Event] = []
    rows = list(
        measure(
            [
                workload(kv_len=512, **small),
                workload(phase=Phase.PREFILL, q_len=256, kv_len=256, **small),
            ],
            device=devices.resolve("cuda"),
            paths=("fp32", "bf16", "fp16"),
            effort=EFFORTS["quick"],
            deadline=time.monotonic() + 300,  # of which a third may go to waiting for compilers
            observe=events.append,
        )
    )
    bad = [row.reason for row in rows if row.role is Role.CANDIDATE and row.status is not Status.OK]
    assert not bad
    baselines = {row.path: row.status for row in rows if row.role is Role.BASELINE}
    assert baselines["sdpa-math"] is Status.OK
    assert Status.FAILED not in baselines.values()
    assert all(row.errors["outlier"]["rel_l2"] < 0.05 for row in rows if row.status is Status.OK)
    prefill = [row for row in rows if row.workload.phase is Phase.PREFILL]
    included = {row.path for row in prefill if row.conversion is Conversion.INCLUDED}
    prepared = {row.path: row.workspace_gib for row in rows if row.prepared}
    assert set(prepared) == included
    # K and V of 2 heads of 256 tokens of 64, in two bytes, and a little for scales
    planes_gib = 2 * 2 * 256 * 64 * 2 / 2**30
    assert all(gib and planes_gib <= gib < 1.1 * planes_gib for gib in prepared.values())
    assert {row.workspace_gib for row in prefill if row.path == "fp32"} == {0.0}
