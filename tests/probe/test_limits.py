"""Measuring where time or memory runs out."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from fake_kernels import fake, right, workload
from measuring import CPU, DECODE, SMALL_EFFORT, by_path, run

from autoprec.kernels.interface import Call
from autoprec.probe import device as devices
from autoprec.probe import measure as probe
from autoprec.probe import trial, tryout
from autoprec.probe.attempt import DroppedError
from autoprec.probe.effort import Effort
from autoprec.probe.families import FAMILIES, Family, Group, Inputs
from autoprec.probe.harness import Harness
from autoprec.probe.judge import LENIENT, Judge
from autoprec.probe.lineup import line_up
from autoprec.probe.measure import measure
from autoprec.probe.share import Share
from autoprec.types import Config, Measurement, Phase, Role, Status


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
