"""Probe, policy and profile joined, on measurements that are made up."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import made_up
import pytest
import torch

from autoprec import registry
from autoprec import tune as tuning
from autoprec.budget import Budget
from autoprec.errors import BudgetError, InputError, MachineError
from autoprec.kernels.interface import Target
from autoprec.probe.consistent import line_up
from autoprec.probe.effort import EFFORTS
from autoprec.probe.events import Event, Measured, Remark
from autoprec.tune import Interrupted, default_time_limit_s, skipped, tune, unmet
from autoprec.types import Conversion, Measurement, Profile, Status, Storage

CPU = torch.device("cpu")
BUDGET = Budget.parse("1e-2")
DECODE = made_up.workload(phase="decode")
PREFILL = made_up.workload()


class FakeProbe:
    """Stands in for ``probe.measure.measure``: yields rows, and keeps what it was asked."""

    def __init__(self, rows: Sequence[Measurement], interrupted: bool = False) -> None:
        self.rows, self.interrupted = rows, interrupted
        self.asked: dict[str, Any] = {}

    def __call__(self, workloads: Any, **asked: Any) -> Iterator[Measurement]:
        self.asked = {"workloads": list(workloads), **asked}
        asked["observe"](Remark("the clocks were held back."))
        for row in self.rows:
            asked["observe"](Measured(row))
            yield row
        if self.interrupted:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning.probe_device, "environment", lambda device: made_up.environment())
    monkeypatch.setattr(tuning.probe_ceilings, "measure", lambda device: made_up.ceilings())


def run(monkeypatch: pytest.MonkeyPatch, probe: FakeProbe, **changes: Any) -> Profile:
    monkeypatch.setattr(tuning, "measure", probe)
    return tune(**{"workloads": [DECODE], "device": CPU, "budget": BUDGET} | changes)


def test_a_profile_holds_the_rows_the_choice_and_what_was_remarked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        made_up.measurement("fp32", 2.0, 5e-7, workload=DECODE),
        made_up.measurement("bf16", 1.0, 3e-3, workload=DECODE),
    ]
    events: list[Event] = []
    probe = FakeProbe(rows)
    profile = run(
        monkeypatch, probe, paths=["fp32", "bf16"], effort="quick", time_limit_s=7.0,
        observe=events.append, recorded_by="autoprec tune",
    )  # fmt: skip
    assert profile.measurements == rows
    assert [(choice.workload, choice.path) for choice in profile.choices] == [(DECODE, "bf16")]
    assert profile.budget == "rel_l2<=0.01"
    assert profile.recorded_by == "autoprec tune"
    assert profile.environment == made_up.environment()
    assert profile.remarks == ["the clocks were held back."]
    assert len(events) == 3
    assert probe.asked["workloads"] == [DECODE]
    assert probe.asked["paths"] == ("fp32", "bf16")
    assert probe.asked["effort"] is EFFORTS["quick"]
    assert 0 < probe.asked["deadline"] - time.monotonic() <= 7


def test_a_tighter_budget_takes_the_accurate_path(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [made_up.measurement("fp32", 2.0, 5e-7), made_up.measurement("bf16", 1.0, 3e-3)]
    profile = run(monkeypatch, FakeProbe(rows), budget=Budget.parse("2e-5"))
    assert [choice.path for choice in profile.choices] == ["fp32"]


def test_a_baseline_is_chosen_only_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [made_up.measurement("fp32", 2.0), made_up.measurement("sdpa-flash", 1.0)]
    assert [c.path for c in run(monkeypatch, FakeProbe(rows)).choices] == ["fp32"]
    allowed = run(monkeypatch, FakeProbe(rows), allow_baselines=True)
    assert [c.path for c in allowed.choices] == ["sdpa-flash"]
    assert allowed.allow_baselines


def test_a_further_tune_adds_and_chooses_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = made_up.profile(
        [
            made_up.measurement("bf16", 1.0, 3e-3, workload=PREFILL),
            made_up.measurement("fp32", 9.0, 5e-7, workload=PREFILL),
            made_up.measurement("bf16", 1.0, 3e-3, workload=DECODE),
        ]
    )
    now = [
        made_up.measurement("bf16", 0.5, 3e-3, workload=DECODE),
        made_up.measurement(
            "fp32", None, workload=PREFILL, status=Status.SKIPPED, reason="there was no time"
        ),
    ]
    profile = run(monkeypatch, FakeProbe(now), previous=before, budget=Budget.parse("1e-4"))
    times = {(row.workload.phase.value, row.path): row.p50_ms for row in profile.measurements}
    assert times == {("prefill", "bf16"): 1.0, ("prefill", "fp32"): 9.0, ("decode", "bf16"): 0.5}
    assert [(c.workload.phase.value, c.path) for c in profile.choices] == [("prefill", "fp32")]
    assert [refusal.workload for refusal in profile.refusals] == [DECODE]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"torch": "2.11.0"}, "the profile was measured with torch 2.11.0"),
        ({"device": made_up.device(name="NVIDIA A100")}, "the profile is for NVIDIA A100"),
    ],
)
def test_another_machine_s_profile_is_not_added_to(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    probe = FakeProbe([])
    previous = made_up.profile(environment=made_up.environment(**changes))
    with pytest.raises(MachineError) as caught:
        run(monkeypatch, probe, previous=previous)
    assert sentence in caught.value.sentence
    assert caught.value.hint == "--fresh to replace it, or -o with another file"
    assert probe.asked == {}, "it measured for nothing"


def test_an_interrupt_brings_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [made_up.measurement("fp32", workload=DECODE)]
    with pytest.raises(Interrupted) as caught:
        run(monkeypatch, FakeProbe(rows, interrupted=True))
    assert isinstance(caught.value, KeyboardInterrupt)
    assert caught.value.profile.measurements == rows
    assert [choice.path for choice in caught.value.profile.choices] == ["fp32"]
    assert caught.value.profile.remarks[-1] == "Measuring was interrupted."
    later = run(monkeypatch, FakeProbe(rows), previous=caught.value.profile)
    assert later.remarks == ["the clocks were held back."]


def test_an_interrupt_before_the_first_row_brings_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        run(monkeypatch, FakeProbe([], interrupted=True))
    assert not isinstance(caught.value, Interrupted)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"workloads": []}, "there is no workload to measure."),
        ({"paths": ["fp8"]}, "the path 'fp8' is not one of fp32,"),
        ({"effort": "some"}, "the effort 'some' is not one of quick, normal, thorough."),
    ],
)
def test_what_is_unknown_is_refused_before_measuring(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    probe = FakeProbe([])
    with pytest.raises(InputError) as caught:
        run(monkeypatch, probe, **changes)
    assert caught.value.sentence.startswith(sentence)
    assert probe.asked == {}


def test_a_budget_out_of_reach_is_refused_before_measuring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = FakeProbe([])
    with pytest.raises(BudgetError, match=r"^no path can keep to the budget: "):
        run(monkeypatch, probe, budget=Budget.parse("bits>=500"), effort="thorough")
    assert probe.asked == {}


def test_unmet_is_what_was_tried_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    no_time = {"status": Status.SKIPPED, "reason": "there was no time"}
    rows = [
        made_up.measurement("bf16", 1.0, 3e-1, workload=PREFILL),
        made_up.measurement("sdpa-math", None, workload=PREFILL, **no_time),
        made_up.measurement("bf16", 1.0, 3e-1, workload=DECODE),
        made_up.measurement("fp32", None, workload=DECODE, **no_time),
    ]
    profile = run(monkeypatch, FakeProbe(rows))
    assert profile.choices == []
    assert [refusal.workload for refusal in unmet(profile)] == [PREFILL]
    assert skipped(profile) == [rows[1], rows[3]]
    assert unmet(replace(profile, refusals=[])) == []


def test_a_gpu_is_given_longer_than_a_cpu() -> None:
    assert (default_time_limit_s(CPU), default_time_limit_s(torch.device("cuda", 0))) == (50, 110)


class InTurn(FakeProbe):
    """Yields rows the first time; then what was lined up, twice as slow."""

    def __init__(self, rows: Sequence[Measurement]) -> None:
        super().__init__(rows)
        self.calls: list[dict[str, Any]] = []

    def __call__(self, workloads: Any, **asked: Any) -> Iterator[Measurement]:
        self.calls.append({"workloads": list(workloads), **asked})
        if len(self.calls) == 1:
            yield from self.rows
            return
        for workload in workloads:
            for it in asked["line_up"](workload, GPU, (), asked["device"]):
                it.samples = [2.0]
                it.errors = {"gauss": made_up.errors(1e-4)}
                it.by_head = {
                    "gauss": {name: [value] for name, value in made_up.errors(1e-4).items()}
                }
                yield it.measurement()


GPU = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)


def test_consistent_mode_is_measured_of_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    bf16 = made_up.workload(input_dtype="bf16")
    by_hopper = made_up.measurement("bf16", 0.5, 3e-3, workload=bf16, kernel="hopper-prefill")
    probe = InTurn([
        made_up.measurement("fp32", 4.0, 5e-7, workload=DECODE),
        made_up.measurement("bf16", 1.0, 3e-3, workload=DECODE),
        by_hopper,
    ])  # fmt: skip
    profile = run(monkeypatch, probe, workloads=[DECODE, bf16], consistent=True, time_limit_s=100.0)
    first, second = probe.calls
    assert second["deadline"] - first["deadline"] == pytest.approx(15.0)
    assert second["workloads"] == [DECODE, bf16]
    rows = {row.workload: row for row in profile.measurements if row.consistent}
    assert {(row.path, row.kernel, row.p50_ms) for row in rows.values()} == {
        ("bf16", "triton-decode", 2.0), ("bf16", "hopper-prefill", 2.0),
    }  # fmt: skip
    decode = registry.kernel("triton-decode")
    assert decode.consistent is not None
    configs = [contender.configs for contender in second["line_up"](DECODE, GPU, (), CPU)]
    assert configs == [(decode.consistent("bf16", DECODE, GPU),)]
    # nothing is chosen of it
    assert {choice.kernel for choice in profile.choices} == {"triton-decode", "hopper-prefill"}


def test_another_kernel_stands_in_where_the_chosen_one_has_no_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton")
    kernels = tuple(
        replace(it, consistent=None) if it.name == "hopper-prefill" else it
        for it in registry.kernels()
    )
    monkeypatch.setattr(registry, "_load", lambda: (kernels, {}))
    bf16 = made_up.workload(input_dtype="bf16")
    row = made_up.measurement("bf16", 0.5, 3e-3, workload=bf16, kernel="hopper-prefill")
    (choice,) = run(monkeypatch, FakeProbe([row]), workloads=[bf16]).choices
    in_mode = line_up(choice, GPU)
    assert (choice.kernel, in_mode.name) == ("hopper-prefill", "triton-prefill")
    portable = registry.kernel("triton-prefill")
    assert portable.consistent is not None
    assert in_mode.configs == (portable.consistent("bf16", bf16, GPU),)


def test_where_nothing_has_the_mode_the_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = FakeProbe([made_up.measurement("fp32", 2.0, 5e-7, kernel="cpu", workload=DECODE)])
    profile = run(monkeypatch, probe)
    (choice,) = profile.choices
    cpu = Target(kind="cpu", arch="x86_64", shared_bytes=0, units=2)
    row = line_up(choice, cpu).measurement()
    assert (row.status, row.consistent) == (Status.UNSUPPORTED, True)
    assert "has no consistent mode" in row.reason


def test_a_baseline_has_no_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = InTurn([made_up.measurement("sdpa-flash", 1.0, workload=DECODE)])
    run(monkeypatch, probe, allow_baselines=True, consistent=True)
    assert len(probe.calls) == 1


def test_what_a_variant_lacks_leaves_a_refusal_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped_form = made_up.measurement(
        "fp32", None, workload=DECODE, status=Status.SKIPPED, reason="there was no time",
        storage=Storage.PLANES, conversion=Conversion.AMORTISED,
    )  # fmt: skip
    rows = [made_up.measurement("fp32", 2.0, 5e-1, workload=DECODE), skipped_form]
    assert [it.workload for it in unmet(run(monkeypatch, FakeProbe(rows)))] == [DECODE]
