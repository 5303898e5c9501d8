"""Memory that callers give, and memory that a plan keeps: nothing is allocated once it is there."""

import threading
from typing import Any

import gpu
import made_up
import pytest
import torch
from exact import Recorder, cpu_profile, inputs, naive
from torch import Tensor

from autoprec.errors import InputError
from autoprec.kernels.interface import Call
from autoprec.plan.plan import Plan
from autoprec.plan.workspaces import Workspaces, as_fp32
from autoprec.types import Config, Dtype

CPU = torch.device("cpu")


@pytest.fixture
def plan(recorder: Recorder, register: Any) -> Plan:
    """Its kernel takes 5 numbers for every key."""

    def workspace(call: Call, path: str, config: Config) -> int:
        return 5 * call.max_kv_len

    register(recorder.kernel("exact", workspace=workspace))
    return Plan(cpu_profile(), CPU)


def space(recorder: Recorder) -> Tensor:
    found = recorder.calls[-1].workspace
    assert found is not None
    return found


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_the_plan_keeps_its_own(plan: Plan, recorder: Recorder, layout: str) -> None:
    q, k, v = inputs(q_len=1, kv_len=7)
    if layout == "bshd":
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    for _ in range(2):
        plan.decode(q, k, v, causal=True, layout=layout)
        assert space(recorder).numel() == 35
    first = recorder.calls[0].workspace
    assert space(recorder) is first
    assert first is not None
    _, k, v = inputs(q_len=1, kv_len=8)
    q, _, _ = inputs(q_len=1, kv_len=8)
    plan.decode(q, k, v, causal=True)
    assert space(recorder).numel() == 70  # twice the one before
    assert space(recorder).data_ptr() != first.data_ptr()  # which graphs may still write to


def test_what_a_call_in_inference_mode_took_is_taken_outside_of_it() -> None:
    spaces = Workspaces()
    with torch.inference_mode():
        mine = spaces.take(CPU, 8)
    assert spaces.take(CPU, 8) is mine
    mine.zero_()


def test_each_thread_has_its_own() -> None:
    spaces, found = Workspaces(), []
    mine = spaces.take(CPU, 8)
    other = threading.Thread(target=lambda: found.append(spaces.take(CPU, 8)))
    other.start()
    other.join()
    assert found[0] is not mine
    assert spaces.take(CPU, 3) is mine


def test_what_the_caller_gives_is_used(plan: Plan, recorder: Recorder) -> None:
    q, k, v = inputs(q_len=1)
    buffer = torch.empty(200, dtype=torch.uint8)
    out, lse = torch.empty(2, 4, 1, 8), torch.empty(2, 4, 1)
    got = plan.decode(q, k, v, causal=True, out=out, lse_out=lse, workspace=buffer)
    assert got[0] is out
    assert got[1] is lse
    want, want_lse = naive(q, k, v, causal=True)
    torch.testing.assert_close(out.double(), want, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(lse.double(), want_lse, rtol=1e-6, atol=1e-6)
    first, last = (
        space(recorder).data_ptr(),
        space(recorder).data_ptr() + 4 * space(recorder).numel(),
    )
    assert buffer.data_ptr() <= first
    assert last <= buffer.data_ptr() + 200


@pytest.mark.parametrize(
    "takes", [{"fp16x3": 8, "bf16x6": 35}, {"fp16x3": 35, "bf16x6": 8}], ids=str
)
def test_it_suffices_for_what_runs_behind_a_guard_too(
    recorder: Recorder, register: Any, takes: dict[str, int]
) -> None:
    register(recorder.kernel("exact", workspace=lambda call, path, config: takes[path]))
    table = [
        made_up.measurement(
            path, 1.0 + place, 4e-7, workload=made_up.workload(phase="decode", kv_len=128),
            kernel="exact", config={"block": 64},
        )
        for place, path in enumerate(takes)
    ]  # fmt: skip
    plan = Plan(cpu_profile(table, budget="rel_l2<=1e-5"), CPU, guard="always")
    q, k, v = inputs(q_len=1)
    v[:, :, ::2] *= 1e-25  # fp16's range is too narrow
    plan.decode(q, k, v, causal=True)
    assert recorder.paths == ["fp16x3", "bf16x6"]
    spaces = [call.workspace for call in recorder.calls]
    assert [None if it is None else it.numel() for it in spaces] == [35, 35]
    arena = torch.zeros(64)
    with pytest.raises(InputError, match=r"^workspace has room for 128 bytes, .* needs 140\."):
        plan.decode(q, k, v, causal=True, workspace=arena[:32])
    with pytest.raises(
        InputError, match=r"^workspace \(64,\) lies in the memory of an input or an"
    ):
        plan.decode(q, k, v, causal=True, workspace=arena, lse_out=arena[24:32].view(2, 4, 1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested", "ignore:.*quantize_per_tensor")
def test_what_does_not_fit(plan: Plan) -> None:
    q, k, v = inputs(q_len=1)
    small = torch.empty(64, dtype=torch.uint8)
    sentence = (
        r"^workspace has room for \d+ bytes, and this call needs 140\. Try: a larger one, or none: "
        r"the plan has its own$"
    )
    with pytest.raises(InputError, match=sentence):
        plan.decode(q, k, v, causal=True, workspace=small)
    for buffer in (
        torch.empty(8, 8).T[:3],
        torch.nested.nested_tensor([torch.empty(8, 8)]),
        torch.quantize_per_tensor(torch.zeros(64), 1.0, 0, torch.quint8),
    ):
        with pytest.raises(InputError, match=r"^workspace must be a contiguous tensor\.$"):
            plan.decode(q, k, v, causal=True, workspace=buffer)
    for wrong, sentence in (
        (
            torch.empty(2, 4),
            r"^lse_out must be float32 \(2, 4, 1\) on cpu, got torch\.float32 \(2, ",
        ),
        (
            torch.empty(2, 4, 1).half(),
            r"^lse_out must be float32 .* got torch\.float16 \(2, 4, 1\) ",
        ),
        (3, r"^lse_out must be a torch\.Tensor, got int\.$"),
    ):
        with pytest.raises(InputError, match=sentence):
            plan.decode(q, k, v, causal=True, lse_out=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", range(9))
def test_a_buffer_of_bytes_starts_at_a_multiple_of_16(first: int) -> None:
    space = as_fp32(torch.empty(100, dtype=torch.uint8)[first:])
    assert space.data_ptr() % 16 == 0
    assert 100 - first - 19 <= 4 * space.numel() <= 100 - first
    assert as_fp32(torch.empty(3, dtype=torch.uint8)).numel() == 0


@pytest.mark.cuda
def test_a_decode_allocates_nothing_on_a_gpu() -> None:
    plan = gpu.plan_of({Dtype.FP32: "bf16x3"}, head_dim=128)
    q = torch.randn(16, 32, 1, 128, device="cuda")
    k, v = (torch.randn(16, 8, 4096, 128, device="cuda") for _ in range(2))
    out, lse = torch.empty_like(q), torch.empty(16, 32, 1, device="cuda")
    plan.decode(q, k, v, causal=True, out=out, lse_out=lse)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for _ in range(10):
        plan.decode(q, k, v, causal=True, out=out, lse_out=lse)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
