"""Running: a shape is decided once, and what cannot run gives way visibly."""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import made_up
import pytest
import torch
from exact import Recorder, close, cpu_profile, inputs, naive, rows

from autoprec.errors import AutoprecWarning, InputError, MachineError, UnsupportedError
from autoprec.kernels.interface import Call
from autoprec.plan import realise, run
from autoprec.plan.plan import Plan
from autoprec.probe import device as devices
from autoprec.types import Config, Dtype


def test_a_shape_is_decided_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs()
    plan.attention(q, k, v, causal=True)
    monkeypatch.setattr(run.Runner, "resolve", None)
    plan.attention(q.clone(), k.clone(), v.clone(), causal=True)
    with pytest.raises(TypeError):
        plan.attention(q, k, v, causal=False)


def test_a_call_that_was_resolved_is_made_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host pays for copies of it at every call."""
    q, k, v = inputs()
    plan.attention(q, k, v, causal=True)
    made: list[Call] = []
    init = Call.__init__

    def counted(self: Call, **given: Any) -> None:
        made.append(self)
        init(self, **given)

    monkeypatch.setattr(Call, "__init__", counted)
    plan.attention(q, k, v, causal=True)
    assert len(made) == 1


def test_old_shapes_are_forgotten(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_MAX_RESOLVED", 3)
    for kv_len in range(1, 9):
        q, k, v = inputs(q_len=1, kv_len=kv_len)
        close(plan.decode(q, k, v, causal=True), naive(q, k, v, causal=True)[0])
        assert len(plan._runner._resolved) <= 3


def test_threads_share_a_plan(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_MAX_RESOLVED", 5)  # so that one forgets while another looks up
    wrong: list[Exception] = []

    def work(seed: int) -> None:
        try:
            for step in range(30):
                q, k, v = inputs(q_len=1 + (seed + step) % 6, kv_len=6)
                close(plan.attention(q, k, v, causal=True), naive(q, k, v, causal=True)[0])
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_tensor_on_another_kind_of_device_is_refused(plan: Plan) -> None:
    q, k, v = (t.to("meta") for t in inputs())
    with pytest.raises(InputError) as caught:
        plan.attention(q, k, v, causal=True)
    assert str(caught.value) == (
        "q is on meta, and this plan is for cpu. "
        "Try: tensors on cpu, or load_plan for another device"
    )


def test_what_was_substituted_is_said_once(
    recorder: Recorder, register: Callable[..., None]
) -> None:
    register(recorder.kernel("exact", max_head_dim=4), recorder.kernel("spare"))
    plan = Plan(cpu_profile(), torch.device("cpu"))
    with pytest.warns(AutoprecWarning) as caught:
        [plan.decode(*inputs(q_len=1, kv_len=kv_len), causal=True) for kv_len in (7, 8, 9)]
    assert [str(warning.message) for warning in caught] == [
        "exact was chosen but cannot run this (exact takes head dims up to 4, not 8), "
        "so spare runs the same path."
    ]
    assert caught[0].filename == __file__
    assert recorder.kernels == ["spare"] * 3


@pytest.fixture
def plan_with_baseline(recorder: Recorder, register: Callable[..., None]) -> Plan:
    """A plan that chooses sdpa-math for fp32, by measurements of both phases."""
    register(recorder.kernel("exact"))
    table = rows()
    for workload in dict.fromkeys(row.workload for row in table):
        if workload.input_dtype is Dtype.FP32:
            table.append(made_up.measurement("sdpa-math", 0.1, 5e-7, workload=workload))
    return Plan(cpu_profile(table, allow_baselines=True), torch.device("cpu"))


def test_a_baseline_is_run_where_it_can(plan_with_baseline: Plan, recorder: Recorder) -> None:
    q, k, v = inputs(q_len=5, kv_len=9)
    expected = naive(q, k, v, causal=True)[0]
    got = plan_with_baseline.append(q, k, v, causal=True)
    assert recorder.calls == []
    # fp32 sums of at most 9 products and 9 probabilities: 2^-24 for each, twice over
    torch.testing.assert_close(got, expected.float(), rtol=2.0**-19, atol=2.0**-19)


@pytest.mark.parametrize(
    ("lengths", "return_lse", "reason"),
    [
        ((5, 9), True, "gives no LSE"),
        ((9, 5), False, "is undefined for queries that see no key"),
    ],
)
def test_a_baseline_gives_way_where_it_cannot(
    plan_with_baseline: Plan, recorder: Recorder, lengths: tuple[int, int], return_lse: bool,
    reason: str,
) -> None:  # fmt: skip
    q, k, v = inputs(q_len=lengths[0], kv_len=lengths[1])
    with pytest.warns(AutoprecWarning) as caught:
        got = plan_with_baseline.attention(q, k, v, causal=True, return_lse=return_lse)
    assert [str(warning.message) for warning in caught] == [
        f"sdpa-math was chosen but {reason}, so bf16 runs."
    ]
    expected = naive(q, k, v, causal=True)
    close(got[0] if return_lse else got, expected[0])


def test_a_baseline_gives_way_where_torch_refuses_it(
    plan_with_baseline: Plan, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(call: Call, path: str, config: Config) -> None:
        raise UnsupportedError("PyTorch refuses sdpa-math: not today.")

    row = dataclasses.replace(realise._BASELINES["torch-sdpa"], run=refuse)
    monkeypatch.setitem(realise._BASELINES, "torch-sdpa", row)
    q, k, v = inputs()
    with pytest.warns(AutoprecWarning) as caught:
        close(plan_with_baseline.attention(q, k, v, causal=True), naive(q, k, v, causal=True)[0])
    assert [str(warning.message) for warning in caught] == [
        "sdpa-math was chosen but PyTorch refuses sdpa-math: not today, so bf16 runs."
    ]
    plan_with_baseline.attention(q, k, v, causal=True)
    assert recorder.kernels == ["exact", "exact"]


def test_a_kernels_own_error_is_not_hidden(
    recorder: Recorder, register: Callable[..., None]
) -> None:
    tried: list[Call] = []

    def refuse(call: Call, path: str, config: Config) -> None:
        tried.append(call)
        raise UnsupportedError("not today.")

    register(recorder.kernel("exact", run=refuse), recorder.kernel("spare"))
    with pytest.raises(UnsupportedError, match=r"^not today\.$"):
        Plan(cpu_profile(), torch.device("cpu")).attention(*inputs(), causal=True)
    assert len(tried) == 1


def test_threads_run_baselines_in_turn(plan_with_baseline: Plan) -> None:
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    q, k, v = inputs(q_len=1)
    expected = plan_with_baseline.decode(q, k, v, causal=True)
    results: list[torch.Tensor] = []

    def work() -> None:
        for _ in range(20):
            got = plan_with_baseline.decode(q, k, v, causal=True)
            assert isinstance(got, torch.Tensor)
            results.append(got)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 160
    assert all(torch.equal(got, expected) for got in results)
    after = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    assert after == before


def test_another_device_must_be_the_same_machine(
    recorder: Recorder, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(recorder.kernel("exact"))
    profile = cpu_profile()
    plan = Plan(profile, torch.device("cpu", 0))  # tensors are on "cpu", another name
    other = dataclasses.replace(profile.environment.device, name="Another CPU")
    here = dataclasses.replace(profile.environment, device=other)
    monkeypatch.setattr(devices, "environment", lambda device: here)
    q, k, v = inputs()
    with pytest.raises(MachineError) as caught:
        plan.attention(q, k, v, causal=True)
    assert str(caught.value) == (
        "q is on cpu, and this plan is for cpu:0: the profile is for A CPU (x86_64), and this is "
        'Another CPU (x86_64). Try: load_plan(device="cpu")'
    )
    monkeypatch.setattr(devices, "environment", lambda device: profile.environment)
    close(plan.attention(q, k, v, causal=True), naive(q, k, v, causal=True)[0])
