"""The form of a cache is one that some call can read: asked for or chosen, it is so when made."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from exact import Recorder, cpu_profile, inputs, naive, rows

from autoprec import registry
from autoprec.errors import InputError, UnsupportedError
from autoprec.plan.plan import Plan
from autoprec.types import Layout, Phase, Storage

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "batch": 2, "capacity": 16, "q_heads": 4, "kv_heads": 2, "head_dim": 8, "page_size": 4,
}  # fmt: skip


@pytest.fixture
def make(recorder: Recorder, register: Callable[..., None]) -> Callable[..., Plan]:
    """A plan of bf16 everywhere, whose kernel reads requests of any lengths."""

    def made(measured: Any = None, consistent: bool = False, **changes: Any) -> Plan:
        register(recorder.kernel("exact", layouts=tuple(Layout), **changes))
        return Plan(cpu_profile(measured), CPU, consistent=consistent)

    return made


@pytest.mark.parametrize("storage", ["fp16", Storage.FP32])
def test_a_form_that_no_kernel_reads_is_refused_when_made(
    make: Callable[..., Plan], storage: Storage | str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        make().new_kv_cache(**SIZES, dtype=torch.bfloat16, storage=storage)
    assert str(caught.value) == (
        f"storage is {storage}, and no call could read it: no kernel runs the path bf16 on prefill "
        f"b2 q16 kv16 4/2 d8 causal page4 bf16: exact does not read K and V in {storage}. "
        "Try: no storage: the plan chooses one"
    )


def test_a_form_that_one_kernel_reads_is_made(make: Callable[..., Plan]) -> None:
    plan = make(forms={Storage.FP16: ("bf16",)})
    cache = plan.new_kv_cache(**SIZES, dtype=torch.bfloat16, storage="fp16")
    assert (cache.storage, cache.reason) == (Storage.FP16, "it was asked for")
    plan = make(forms={Storage.PLANES: ("fp16",)})  # with accuracy="hi" alone
    assert plan.new_kv_cache(**SIZES, storage="fp16x2").storage is Storage.PLANES


def test_consistent_kernels_alone_count_where_they_alone_run(make: Callable[..., Plan]) -> None:
    forms = {Storage.FP16: ("bf16",)}
    with pytest.raises(
        UnsupportedError, match=r"no call could read it: .* no consistent mode\. Try"
    ):
        make(forms=forms, consistent=True).new_kv_cache(**SIZES, storage="fp16")


def test_what_was_not_measured_is_for_calls_to_find_out(make: Callable[..., Plan]) -> None:
    decodes = [row for row in rows() if row.workload.phase is Phase.DECODE]
    with pytest.raises(UnsupportedError, match=r"no call could read it: .* on decode b2 "):
        make(decodes).new_kv_cache(**SIZES, storage="fp16")
    windowed = [replace(row, workload=replace(row.workload, window=8)) for row in rows()]
    cache = make(windowed).new_kv_cache(**SIZES, storage="fp16")  # calls may have a window too
    assert cache.storage is Storage.FP16


@pytest.mark.parametrize("storage", [None, "fp16", "fp32"])
def test_a_type_of_which_nothing_was_measured_is_refused_when_made(
    make: Callable[..., Plan], storage: str | None
) -> None:
    plan = make([row for row in rows() if row.workload.input_dtype == "fp32"])
    with pytest.raises(UnsupportedError) as caught:
        plan.new_kv_cache(**SIZES, dtype=torch.bfloat16, storage=storage)
    assert caught.value.sentence in [
        f"nothing measured can stand in for {phase} 4/2 d8 causal page4 bf16: its input dtype is "
        "bf16, and the profile has fp32."
        for phase in ("prefill b2 q16 kv16", "decode b2 q1 kv16")
    ]


def test_what_is_chosen_is_the_inputs_own_form_where_no_kernel_reads_another(
    make: Callable[..., Plan],
) -> None:
    plan = make()
    cache = plan.new_kv_cache(**SIZES)
    assert (cache.storage, cache.reason) == (
        Storage.FP32,
        "no kernel here reads bf16, though each phase would take it alone: bf16 for prefill "
        "(bf16), bf16 for decode (bf16)",
    )
    assert make(forms={Storage.BF16: ("bf16",)}).new_kv_cache(**SIZES).storage is Storage.BF16


def test_a_cache_on_a_cpu_is_read_by_what_it_was_chosen_for(register: Callable[..., None]) -> None:
    kernel = registry.kernel("cpu-blocked")
    register(kernel)
    plan = Plan(cpu_profile(rows(kernel=kernel.name)), CPU)
    cache, (q, k, v) = plan.new_kv_cache(**SIZES), inputs(q_len=1)
    cache.append(k, v)
    got, want = plan.decode(q, cache, causal=True), naive(q, k, v, causal=True)[0]
    assert plan.stats()["calls"] == {"bf16": 1}
    assert (got - want).norm() <= 2.0**-7 * want.norm()


def test_there_is_no_such_form(make: Callable[..., Plan]) -> None:
    with pytest.raises(InputError, match=r"^storage must be one of fp32, bf16, fp16, fp16x2, got "):
        make().new_kv_cache(**SIZES, storage="fp8")


def test_a_dtype_that_is_none_is_refused_by_its_own_name(plan: Plan) -> None:
    with pytest.raises(InputError) as caught:
        plan.new_kv_cache(**SIZES, dtype="fp8")
    assert str(caught.value) == "dtype must be fp32, bf16 or fp16, got 'fp8'."
