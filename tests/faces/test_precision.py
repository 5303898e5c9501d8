"""What is computed in which precision: a plan's choice, a path by name, or a default."""

import gc
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import made_up
import pytest
import torch
from exact import cpu_profile
from exact_requests import KERNEL

import autoprec.profile as profiles
from autoprec import flashinfer, registry
from autoprec.errors import AutoprecWarning, UnsupportedError
from autoprec.flashinfer import precision
from autoprec.kernels.interface import Call, Target
from autoprec.plan import sdpa
from autoprec.plan.plan import Plan
from autoprec.types import Config, Dtype, Layout, Phase

GPU = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
CPU = Target(kind="cpu", arch="x86_64", shared_bytes=0, units=8)


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_load", lambda: ((KERNEL,), {}))
    monkeypatch.setattr(profiles, "bundled", lambda: [])
    precision.forget()
    flashinfer.set_plan(None)
    yield
    precision.forget()
    flashinfer.set_plan(None)


def plan(*paths: str, **changes: Any) -> Plan:
    """One that chooses the first of the paths for a decode in fp32."""
    workload = made_up.workload(phase="decode", kv_len=64, head_dim=8)
    table = [
        made_up.measurement(path, 1.0 + i, 1e-6, kernel="exact", config={"block": 64 + i},
                            workload=workload)
        for i, path in enumerate(paths)
    ]  # fmt: skip
    return Plan(cpu_profile(table, **changes), torch.device("cpu"))


def decode(**changes: Any) -> None:
    q, k = torch.zeros(2, 8), torch.zeros(5, 2, 8)
    flashinfer.single_decode_with_kv_cache(q, k, k, **changes)


def ran(mine: Plan) -> dict[str, int]:
    return mine.stats()["calls"]


def test_the_argument_goes_before_the_module_and_that_before_the_one_in_use() -> None:
    argument, module, used = plan("tf32"), plan("bf16"), plan("fp16")
    with sdpa.use(used):
        decode()
        flashinfer.set_plan(module)
        decode()
        decode(precision=argument)
        decode(precision="fp32")  # by the module's plan, which did not measure it
    assert (ran(used), ran(module), ran(argument)) == (
        {"fp16": 1}, {"bf16": 1, "fp32": 1}, {"tf32": 1},
    )  # fmt: skip


def test_a_path_by_name_takes_the_configuration_that_was_fastest() -> None:
    mine = plan("fp32", "bf16")
    flashinfer.set_plan(mine)
    chosen = precision.chooser("bf16", torch.device("cpu"))
    workload = made_up.workload(phase="decode", kv_len=70, head_dim=8)
    assert chosen.decide(workload, torch.device("cpu")).config == {"block": 65}
    assert chosen.decide(workload, torch.device("cpu")).path == "bf16"
    assert chosen is precision.chooser("bf16", torch.device("cpu"))


def test_a_machine_that_was_not_measured_is_said_once() -> None:
    sentence = r"^there is no profile for .* yet: a default path runs; try autoprec tune\.$"
    with pytest.warns(AutoprecWarning, match=sentence) as caught:
        decode()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode()
        precision.forget()
        decode(precision="fp32")  # asked for by name: nothing to say
    with pytest.warns(AutoprecWarning, match=sentence):
        decode()


def test_a_plan_that_nobody_holds_goes() -> None:
    mine = plan("fp32", "bf16")
    decode(precision=mine)
    gone = weakref.ref(mine)
    del mine
    gc.collect()
    assert gone() is None
    assert len(precision._planned) == 0


def test_what_is_unlike_all_that_was_measured_is_said() -> None:
    flashinfer.set_plan(plan("fp32"))
    q = torch.zeros(20, 2, 8)
    with pytest.warns(AutoprecWarning, match=r"^nothing measured can stand in for prefill b1 q20 "):
        flashinfer.single_prefill_with_kv_cache(q, q, q)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(window_left=3, logits_soft_cap=2.0)  # what was measured without will do


def test_what_is_said_of_a_workload_is_not_said_of_every_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = plan("fp32")
    other = replace(KERNEL, name="other", features=frozenset())
    monkeypatch.setattr(registry, "_load", lambda: ((other, KERNEL), {}))
    limited = [replace(row, kernel="other") for row in mine.profile.measurements]
    limited_plan = Plan(cpu_profile(limited), torch.device("cpu"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for tokens in range(2, 8):
            q = torch.zeros(tokens, 2, 8)
            flashinfer.single_prefill_with_kv_cache(q, q, q, precision=mine)
            flashinfer.single_decode_with_kv_cache(
                q[0], q, q, window_left=0, precision=limited_plan
            )
    assert [str(it.message) for it in caught] == [
        "nothing measured can stand in for prefill b1 q2 kv2 2/2 d8 full fp32: its phase is "
        "prefill or append, and the profile has decode; a default path runs.",
        "other was chosen but cannot run this (other has no sliding window), so exact runs the "
        "same path.",
    ]
    assert {it.filename for it in caught} == {__file__}
    assert len(precision._said) == 2


def test_default_paths() -> None:
    def default(target: Target = GPU, **changes: Any) -> tuple[str, ...]:
        return precision._defaults(made_up.workload(**changes), target)

    assert default() == ("fp16x3", "tf32x3", "fp32")
    assert default(input_dtype="bf16") == ("bf16", "bf16p2")
    assert default(input_dtype="fp16", out_dtype="fp32") == ("fp16p2", "fp16")
    assert default(input_dtype="bf16", phase="decode") == ("bf16p2", "bf16")
    for dtype in Dtype:
        for phase in ("prefill", "decode"):
            assert default(CPU, input_dtype=dtype, phase=phase) == ("fp32",)


def test_kernels_there_are_run_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, every default has a kernel for pages, windows, caps and sinks."""
    monkeypatch.undo()
    for dtype in Dtype:
        for phase in Phase:
            workload = made_up.workload(
                phase=phase, kv_len=4096, input_dtype=dtype, layout=Layout.PAGED, page_size=16,
                window=100, soft_cap=30.0, sinks=True,
            )  # fmt: skip
            decision = precision._unmeasured(workload, GPU, None)
            assert decision.path == precision._defaults(workload, GPU)[0]
            assert decision.kernel.device == "triton"


def test_no_kernel_at_all() -> None:
    workload = made_up.workload()
    with pytest.raises(
        UnsupportedError, match=r"^no kernel runs prefill b1 .*: exact runs on CPUs"
    ):
        precision._unmeasured(workload, GPU, None)


def test_a_consistent_plan_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs in its place, not the default path either; a plan that is not one runs."""
    seen: list[str] = []
    row = replace(KERNEL, run=lambda call, path, config: seen.append(path))
    monkeypatch.setattr(registry, "_load", lambda: ((row,), {}))
    mine = plan("fp32")
    consistent = Plan(mine.profile, torch.device("cpu"), consistent=True)
    with pytest.raises(UnsupportedError, match=r"exact has no consistent mode"):
        decode(precision=consistent)
    assert seen == []
    decode(precision=mine)
    assert seen == ["fp32"]


def test_another_decision_has_room_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks come with a call, after the workspace was sized for calls without."""
    seen: list[int] = []

    def run(call: Call, path: str, config: Config) -> None:
        assert call.workspace is not None
        seen.append(call.workspace.numel())
        KERNEL.run(call, path, config)

    kernel = replace(KERNEL, run=run, workspace=lambda call, *_: 8 if call.sinks is None else 99)
    monkeypatch.setattr(registry, "_load", lambda: ((kernel,), {}))
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(torch.empty(0), precision="fp32")
    one = torch.ones(1, dtype=torch.int32)
    wrapper.plan(torch.tensor([0, 1]), 0 * one, one, 2, 2, 8, 4, q_data_type=torch.float32)
    q, cache = torch.zeros(1, 2, 8), torch.zeros(1, 2, 4, 2, 8)
    for sinks in (None, torch.zeros(2), None):
        wrapper.run(q, cache, sinks=sinks)
    assert seen == [8, 99, 99]


def test_a_path_that_no_kernel_here_runs_cannot_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kernel = replace(KERNEL, name="gpus", device="triton", paths=("fp16x3",))
    cpu = replace(KERNEL, paths=("fp32",))
    monkeypatch.setattr(registry, "_load", lambda: ((kernel, cpu), {"new": "new is broken"}))
    flashinfer.set_plan("fp32")
    with pytest.raises(UnsupportedError) as caught:
        flashinfer.set_plan("fp16x3")
    assert str(caught.value) == (
        "no kernel here runs the path fp16x3: gpus needs a GPU; new is broken. Try: autoprec paths"
    )
    decode()  # in what was set before


def test_a_guarded_plan_cannot_be_set() -> None:
    mine = plan("bf16")
    mine.guard = "always"
    with pytest.raises(UnsupportedError, match=r"^plan\.guard is always, and calls of FlashInfer"):
        flashinfer.set_plan(mine)
    mine.guard = "off"
    flashinfer.set_plan(mine)
    decode()
    assert ran(mine) == {"bf16": 1}


def test_a_guarded_plan_is_refused_and_a_sampled_one_runs() -> None:
    mine = plan("bf16")
    mine.guard = "always"
    with pytest.raises(UnsupportedError) as caught:
        decode(precision=mine)
    assert caught.value.sentence == (
        "plan.guard is always, and calls of FlashInfer's functions are not computed again."
    )
    mine.guard = "sample"
    with pytest.warns(AutoprecWarning, match="functions are not compared with exact attention"):
        decode(precision=mine)
    assert ran(mine) == {"bf16": 1}


def test_a_guard_that_is_set_between_plan_and_run_is_seen() -> None:
    mine = plan("bf16")
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(torch.empty(0), precision=mine)
    one = torch.ones(1, dtype=torch.int32)
    wrapper.plan(torch.tensor([0, 1]), 0 * one, one, 2, 2, 8, 4, q_data_type=torch.float32)
    q, cache = torch.zeros(1, 2, 8), torch.zeros(1, 2, 4, 2, 8)
    mine.guard = "always"
    with pytest.raises(UnsupportedError) as caught:
        wrapper.run(q, cache)
    assert caught.value.sentence == (
        "plan.guard is always, and calls of FlashInfer's functions are not computed again."
    )
    assert ran(mine) == {}
    mine.guard = "sample"
    with pytest.warns(AutoprecWarning, match="functions are not compared with exact attention"):
        wrapper.run(q, cache)
    mine.guard = "off"
    wrapper.run(q, cache)
    assert ran(mine) == {"bf16": 2}
