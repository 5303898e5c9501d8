import dataclasses
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_kernels import fake, right, workload
from measuring import CPU, DECODE, SMALL_EFFORT, by_path, run

from autoprec.errors import UnsupportedError
from autoprec.kernels.interface import Call, Kernel
from autoprec.probe import device as devices
from autoprec.probe import measure as probe
from autoprec.probe import trial, tryout
from autoprec.probe.attempt import DroppedError
from autoprec.probe.effort import EFFORTS, Effort
from autoprec.probe.events import Event, Measured, Planned, Remark, Working
from autoprec.probe.families import FAMILIES, Family, Group, Inputs
from autoprec.probe.harness import Harness
from autoprec.probe.judge import LENIENT, Judge
from autoprec.probe.lineup import line_up
from autoprec.probe.measure import measure
from autoprec.probe.nvml import DeviceState
from autoprec.probe.share import Share
from autoprec.types import (
    Config,
    Conversion,
    Dtype,
    Measurement,
    Phase,
    Role,
    Status,
    Storage,
)


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


def breaks(call: Call, path: str, config: Config) -> None:
    raise RuntimeError("the device is on fire\nand more")


def refuses(call: Call, path: str, config: Config) -> None:
    raise UnsupportedError("not on Tuesdays.", "another day")


def gives_nan(call: Call, path: str, config: Config) -> None:
    right(call, path, config)
    call.out[0, 1, 0] = float("nan")


def writes_nothing(call: Call, path: str, config: Config) -> None:
    pass


def writes_the_lse_only(call: Call, path: str, config: Config) -> None:
    right(dataclasses.replace(call, out=torch.empty_like(call.out)), path, config)


def fails_on_outliers(call: Call, path: str, config: Config) -> None:
    right(call, path, config)
    if call.k.abs().max() > 10:
        call.out.fill_(float("inf"))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("kernel", "status", "reason"),
    [
        (breaks, Status.FAILED, "RuntimeError: the device is on fire"),
        (refuses, Status.UNSUPPORTED, "not on Tuesdays"),
        (gives_nan, Status.FAILED, "NaN or infinity in 1 of 4 rows looked at, on gauss"),
        (writes_nothing, Status.FAILED, "NaN or infinity in 4 of 4 rows looked at, on gauss"),
        (
            writes_the_lse_only,
            Status.FAILED,
            "NaN or infinity in 4 of 4 rows looked at, on gauss",
        ),
        (
            fails_on_outliers,
            Status.FAILED,
            "NaN or infinity in 16 of 16 rows looked at, on outlier",
        ),
    ],
)
def test_what_goes_wrong_is_one_row(
    kernel: Any, status: Status, reason: str, have: Callable[..., None]
) -> None:
    have(fake("bad", kernel), fake("good", paths=("bf16",)))
    rows = by_path(run(workload(kv_len=4000)))
    assert (rows["fp32"].status, rows["fp32"].reason) == (status, reason)
    assert rows["bf16"].status is Status.OK


@pytest.mark.usefixtures("alone")
def test_a_kernel_that_breaks_while_it_is_timed_is_one_row(have: Callable[..., None]) -> None:
    calls: list[None] = []

    def tires(call: Call, path: str, config: Config) -> None:
        calls.append(None)
        if len(calls) > 1:  # the first is the try, the second is timed
            raise RuntimeError("tired")
        right(call, path, config)

    have(fake("bad", tires), fake("good", paths=("bf16",)))
    rows = by_path(run())
    assert (rows["fp32"].status, rows["fp32"].reason) == (Status.FAILED, "RuntimeError: tired")
    assert rows["bf16"].status is Status.OK


def test_a_broken_configuration_is_left_out_and_said(have: Callable[..., None]) -> None:
    def picky(call: Call, path: str, config: Config) -> None:
        if config["block"] == 1:
            raise RuntimeError("too small")
        right(call, path, config)
        if config["block"] == 2:
            call.out.mul_(1.01)

    have(fake("picky", picky, configs=({"block": 1}, {"block": 2}, {"block": 3})))
    events: list[Event] = []
    row = by_path(run(events=events, paths=("fp32",)))["fp32"]
    assert (row.status, row.config) == (Status.OK, {"block": 3})
    first, second = (event.sentence for event in events if isinstance(event, Remark))
    assert (
        first == f"{DECODE}, fp32 by picky: a configuration was left out: RuntimeError: too small."
    )
    assert second == (
        f"{DECODE}, fp32 by picky: the configuration {{'block': 2}} was left out: its rel_l2 of "
        "1.00e-02 is over 4 times the best one's."
    )


@pytest.mark.usefixtures("alone")
def test_the_fastest_configuration_wins(have: Callable[..., None]) -> None:
    def sleepy(call: Call, path: str, config: Config) -> None:
        time.sleep(int(config["ms"]) / 1e3)
        right(call, path, config)

    have(fake("sleepy", sleepy, configs=({"ms": 60}, {"ms": 20}, {"ms": 40})))
    row = by_path(run(paths=("fp32",)))["fp32"]
    assert (row.config, row.n) == ({"ms": 20}, 4)
    assert row.p20_ms is not None
    assert row.p20_ms >= 20


@pytest.mark.usefixtures("alone")
def test_what_is_far_slower_is_timed_once(have: Callable[..., None]) -> None:
    def slow(call: Call, path: str, config: Config) -> None:
        time.sleep(0.3)
        right(call, path, config)

    have(fake("slow", slow), fake("quick", paths=("bf16",)))
    rows = by_path(run())
    assert (rows["fp32"].status, rows["fp32"].n, rows["bf16"].n) == (Status.OK, 1, 4)


def test_after_the_deadline_everything_is_skipped(have: Callable[..., None]) -> None:
    have(fake("one"))
    rows = by_path(run(seconds=-1, paths=("fp32", "tf32")))
    assert rows["fp32"].status is rows["sdpa-flash"].status is Status.SKIPPED
    assert rows["fp32"].reason == "the time was up before its turn"
    assert rows["tf32"].status is rows["sdpa-cudnn"].status is Status.UNSUPPORTED


@pytest.mark.parametrize(
    ("run_s", "reason"),
    [
        (0.0, "there was no time for it"),  # nothing is known
        (0.03, "there was no time for it"),  # not what kept it back
        (2.0, "there was no time for it: one run takes about 2.0 s"),
    ],
)
def test_what_a_run_takes_is_a_reason_only_where_it_is_long(run_s: float, reason: str) -> None:
    harness = SimpleNamespace(expected_s=lambda contender: run_s)
    share = SimpleNamespace(all_over=True, left_s=0.0)
    with pytest.raises(DroppedError) as dropped:
        tryout._refuse_endless(None, harness, share)  # type: ignore[arg-type]
    assert dropped.value.reason == reason


def test_what_is_known_to_take_too_long_is_not_begun(have: Callable[..., None]) -> None:
    lengths: list[int] = []

    def slow(call: Call, path: str, config: Config) -> None:
        lengths.append(call.k.shape[2])
        time.sleep(call.k.shape[2] / 1000)
        right(call, path, config)

    have(fake("slow", slow))
    # 0.1 s for 100 keys is 4 s for 4000, and that twice is more than there is
    rows = run(workload(kv_len=100), workload(kv_len=4000), paths=("fp32",), seconds=4)
    assert rows[0].status is Status.OK
    late = next(row for row in rows if row.workload.kv_len == 4000)
    assert late.status is Status.SKIPPED
    assert late.reason.startswith("there was no time for it: one run takes about ")
    assert set(lengths) == {100, 65, 127}  # and the lengths that are not round


@pytest.mark.usefixtures("alone")
def test_samples_end_with_the_time(have: Callable[..., None]) -> None:
    def steady(call: Call, path: str, config: Config) -> None:
        time.sleep(0.02)  # a hiccup must not make one of them far slower than the other
        right(call, path, config)

    have(fake("one", steady, paths=("fp32", "bf16")))
    effort = Effort(rounds=(1,), samples=10_000, rows=8, groups=2)
    rows = by_path(run(effort=effort, seconds=4.0, judge=Judge(shortlist=lambda rows: rows)))
    samples = {path: rows[path].n for path in ("fp32", "bf16")}
    assert all(3 <= n < 10_000 for n in samples.values()), samples
    assert set(rows["fp32"].errors) == {"gauss", "outlier"}


def test_what_does_not_fit_in_memory_is_unsupported(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(fake("one"))
    monkeypatch.setattr(trial, "free_bytes", lambda device: 1 << 28)
    rows = by_path(run(workload(kv_len=10_000, q_heads=64, kv_heads=64, head_dim=64)))
    assert rows["fp32"].status is Status.UNSUPPORTED
    assert rows["fp32"].reason == "it needs 0.6 GiB, and 0.2 GiB are free"
    assert rows["fp32"].lacked_memory
    assert not rows["bf16"].lacked_memory


def test_scores_that_do_not_fit_cost_only_the_math_backend(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(fake("one"))
    monkeypatch.setattr(trial, "free_bytes", lambda device: 1 << 20)
    rows = by_path(run(workload(phase=Phase.PREFILL, q_len=300, kv_len=300), paths=("fp32",)))
    assert rows["sdpa-math"].status is Status.UNSUPPORTED
    assert rows["sdpa-flash"].status is rows["fp32"].status is Status.OK


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])  # of a host it is this
def test_running_out_of_memory_for_inputs_is_a_reason(
    kind: type[Exception], have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*arguments: object) -> Inputs:
        raise kind("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    have(fake("one"))
    monkeypatch.setattr(trial, "FAMILIES", {"gauss": Family(Group.TYPICAL, out_of_memory, "")})
    row = by_path(run(paths=("fp32",)))["fp32"]
    assert (row.status, row.reason, row.lacked_memory) == (
        Status.FAILED,
        f"{kind.__name__}: CUDA out of memory. Tried to allocate 2 GiB",
        True,
    )


def test_ctrl_c_goes_through_and_keeps_what_was_measured(have: Callable[..., None]) -> None:
    def interrupts(call: Call, path: str, config: Config) -> None:
        if call.k.shape[2] > 150:
            raise KeyboardInterrupt
        right(call, path, config)

    have(fake("one", interrupts))
    rows: list[Measurement] = []
    measuring = measure(
        (workload(kv_len=20), workload(kv_len=180)), device=CPU, paths=("fp32",),
        effort=SMALL_EFFORT, deadline=time.monotonic() + 60, observe=lambda event: None,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        rows.extend(measuring)
    assert {row.workload.kv_len for row in rows} == {20}


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


@pytest.mark.usefixtures("alone")
def test_a_share_that_is_over_tries_each_kernel_once_more(have: Callable[..., None]) -> None:
    have(fake("one", configs=({"n": 1}, {"n": 2})))
    line = line_up(DECODE, devices.target(CPU), ("fp32",), CPU)
    now = time.monotonic()
    harness = Harness(
        device=CPU, target=devices.target(CPU), timer=probe.timer(CPU), effort=SMALL_EFFORT,
        seed=0, observe=lambda event: None, builds={}, patience_s=0.0, submit=None,
        families=FAMILIES, judge=LENIENT, max_workspace_gib=None,
    )  # fmt: skip
    trial.Trial(harness, DECODE, line, Share(now - 1, now + 60)).run()
    row = line[0].measurement()
    assert (row.status, row.config, row.n) == (Status.OK, {"n": 1}, 1)


def test_the_fastest_baseline_has_some_samples_however_slow(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ms = {"quick": 1.0}

    class Clock:
        def sample_ms(self, call: Callable[[], object]) -> float:
            before = len(ran)
            call()
            return ms["quick"] if len(ran) > before else 100.0

    ran: list[str] = []

    def run_it(call: Call, path: str, config: Config) -> None:
        ran.append(path)
        right(call, path, config)

    monkeypatch.setattr(probe, "timer", lambda device: Clock())
    have(fake("quick", run_it))
    rows = run(paths=("fp32",))
    counts = sorted(row.n for row in rows if row.role is Role.BASELINE and row.status is Status.OK)
    assert counts == [1, 5]  # math, and flash: one of them
    monkeypatch.setattr(trial, "_TIMED_BY", -1.0)
    assert {row.n for row in run(paths=("fp32",)) if row.status is Status.OK} == {1, 3}


@pytest.mark.usefixtures("alone")
def test_of_what_is_far_too_slow_the_last_winner_is_tried(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ms = {"slow": {1: 9.0, 2: 8.9, 3: 12.0}, "quick": {1: 1.0, 2: 1.1, 3: 1.2}}
    tried: list[tuple[int, str, int]] = []

    class Clock:
        ms = 0.0

        def sample_ms(self, call: Callable[[], object]) -> float:
            call()
            return self.ms

    clock = Clock()

    def kernel(name: str) -> Kernel:
        def run_it(call: Call, path: str, config: Config) -> None:
            clock.ms = ms[name][config["n"]] * call.k.shape[2] / 100  # type: ignore[index]
            tried.append((call.k.shape[2], name, config["n"]))  # type: ignore[arg-type]
            right(call, path, config)

        return fake(name, run_it, configs=tuple({"n": n} for n in ms[name]))

    monkeypatch.setattr(probe, "timer", lambda device: clock)
    have(kernel("slow"), kernel("quick"))
    run(DECODE, dataclasses.replace(DECODE, kv_len=300), paths=("fp32",))
    # the first workload is timed without knowing anything
    assert {it[1:] for it in tried if it[0] == 64} == {(name, n) for name in ms for n in (1, 2, 3)}
    assert {it[1:] for it in tried if it[0] == 300} == {
        ("slow", 2), ("quick", 1), ("quick", 2), ("quick", 3),
    }  # fmt: skip


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
