"""A merge that begins while its splits run gives, bit by bit, what one behind them gives.

That it waits before it reads is looked for in its assembly by ``.ci/compile_kernels.py`` too: a
race need not show.
"""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gpu
import kernel_cases
import pytest
import request_cases
import torch
from torch import Tensor

from autoprec import registry
from autoprec.kernels import overlap
from autoprec.kernels.interface import TORCH_DTYPES, Call
from autoprec.plan.execute import run_bound
from autoprec.types import Config, Dtype

pytestmark = pytest.mark.cuda

ROW = registry.kernel("triton-decode")
CONFIG: Config = {"block_kv": 32, "split": 128, "num_warps": 4, "num_stages": 2}
EVEN: Config = {**CONFIG, "splits": 9}
HEADS, DIM = (32, 8), 128

# (requests, keys): one wave and many, splits that are not whole, more than a merge takes at once
SHAPES = ((1, 32768), (1, 1000), (3, 4097), (16, 8192), (64, 600))
DTYPES = {"bf16": Dtype.BF16, "fp16": Dtype.FP16, "fp16x3": Dtype.FP32}


@pytest.fixture(autouse=True)
def _overlapping() -> None:
    if torch.version.hip is not None or torch.cuda.get_device_capability(gpu.device()) < (9, 0):
        pytest.skip("before sm_90 launches do not overlap")
    assert overlap.on_device(gpu.device())


def results(call: Call) -> list[Tensor]:
    return [call.out, call.lse_place]


def emptied(call: Call) -> Call:
    """The same, of which results are NaN until they are written."""
    for x in results(call):
        x.fill_(torch.nan)
    return call


def plain(call: Call, path: str, config: Config) -> list[Tensor]:
    """What launches that do not overlap give."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "on_device", lambda device: False)
        ROW.run(emptied(call), path, config)
    return [x.clone() for x in results(call)]


def agrees(call: Call, want: list[Tensor]) -> bool:
    return not call.out.isnan().any() and all(map(torch.equal, results(call), want))


def drawn(batch: int, kv_len: int, dtype: Dtype, seed: int = 0) -> Call:
    draw = torch.Generator("cuda").manual_seed(seed)
    q, k, v = (
        torch.randn((batch, HEADS[i > 0], (1, kv_len)[i > 0], DIM), generator=draw, device="cuda",
                    dtype=TORCH_DTYPES[dtype])
        for i in range(3)
    )  # fmt: skip
    return kernel_cases.guarded(q, k, v, out_dtype=q.dtype, sm_scale=DIM**-0.5).call


def in_memory(memory: str, lengths: tuple[int, ...]) -> Call:
    """A call of requests of unequal lengths."""
    case = {
        "heads": HEADS, "dims": (DIM, DIM), "input": Dtype.BF16, "out": Dtype.BF16, "storage": None,
        "memory": memory, "order": "NHD", "q": "batch", "mask": "causal", "window": None,
        "cap": None, "sinks": False, "lengths": ((1,) * len(lengths), lengths), "slack": 100,
    }  # fmt: skip
    return request_cases.guarded(case, request_cases.lengths_of(case), "cuda").call


@pytest.mark.parametrize("path", DTYPES)
@pytest.mark.parametrize(("batch", "kv_len"), SHAPES)
def test_the_same_bit_by_bit(batch: int, kv_len: int, path: str) -> None:
    call = drawn(batch, kv_len, DTYPES[path])
    want = plain(call, path, CONFIG)
    for _ in range(20):
        ROW.run(emptied(call), path, CONFIG)
        assert agrees(call, want)


@pytest.mark.parametrize("config", [CONFIG, EVEN], ids=["split", "splits"])
@pytest.mark.parametrize("memory", ["lengths", "ragged", "page16", "page3"])
def test_requests_of_unequal_lengths(memory: str, config: Config) -> None:
    call = in_memory(memory, (5000, 1, 129, 2048, 700))
    want = plain(call, "bf16", config)
    for _ in range(20):
        ROW.run(emptied(call), "bf16", config)
        assert agrees(call, want)


def test_calls_back_to_back_share_a_workspace() -> None:
    """A split that began before the merge before it had ended would write into what that reads."""
    calls = [drawn(1, 8192, Dtype.BF16, seed) for seed in range(8)]
    space = torch.empty(ROW.workspace(calls[0], "bf16", CONFIG), device="cuda")
    calls = [replace(call, workspace=space) for call in calls]
    want = [plain(call, "bf16", CONFIG) for call in calls]
    bound: dict[object, Any] = {}
    decided: Any = SimpleNamespace(kernel=ROW, path="bf16", config=CONFIG)
    for run in (lambda call: ROW.run(call, "bf16", CONFIG),
                lambda call: run_bound(bound, decided, call)):  # fmt: skip
        for call in calls:
            emptied(call)
        for number in range(200):
            run(calls[number % len(calls)])
        assert all(map(agrees, calls, want))
    assert bound
    assert None not in bound.values()


def test_what_is_launched_again_overlaps_too() -> None:
    call = drawn(1, 8192, Dtype.BF16)
    call = replace(call, workspace=torch.empty(ROW.workspace(call, "bf16", CONFIG), device="cuda"))
    bound: dict[object, Any] = {}
    run_bound(bound, SimpleNamespace(kernel=ROW, path="bf16", config=CONFIG), call)  # type: ignore[arg-type]
    (found,) = bound.values()
    assert [bool(step.kernel.run.launch_pdl) for step in found.steps] == [False, True]


def test_a_plan() -> None:
    plan = gpu.plan_of({Dtype.BF16: "bf16"}, head_dim=DIM)
    call = drawn(2, 4096, Dtype.BF16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "on_device", lambda device: False)
        want = gpu.plan_of({Dtype.BF16: "bf16"}, head_dim=DIM).decode(
            call.q, call.k, call.v, causal=True
        )
    for _ in range(200):
        assert torch.equal(plan.decode(call.q, call.k, call.v, causal=True), want)


def test_a_graph_replayed_on_other_inputs() -> None:
    call = drawn(1, 8192, Dtype.BF16)
    ROW.run(call, "bf16", CONFIG)  # compiled
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(3):
            ROW.run(call, "bf16", CONFIG)
    for seed in range(1, 9):
        other = drawn(1, 8192, Dtype.BF16, seed)
        want = plain(other, "bf16", CONFIG)
        for mine, theirs in ((call.q, other.q), (call.k, other.k), (call.v, other.v)):
            mine.copy_(theirs)
        emptied(call)
        graph.replay()
        assert agrees(call, want)


@pytest.mark.parametrize("turn", [0, 1])
def test_launches_whose_turn_does_not_come(turn: int) -> None:
    """What is queued before decides it, and is seen, though the merge comes early."""
    call = replace(drawn(1, 8192, Dtype.BF16),
                   only_if=torch.zeros(1, dtype=torch.int32, device="cuda"))  # fmt: skip
    assert call.only_if is not None
    call.only_if.fill_(1)
    want = plain(call, "bf16", CONFIG)
    for _ in range(20):
        call.only_if.fill_(1 - turn)
        emptied(call)
        call.only_if.fill_(turn)
        ROW.run(call, "bf16", CONFIG)
        assert agrees(call, want) if turn else call.out.isnan().all()
