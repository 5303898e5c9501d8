"""Launches run again on a GPU: bitwise what Triton's own give, in graphs and on streams, sooner."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gpu
import made_up
import pytest
import torch

from autoprec import registry
from autoprec.kernels.interface import TORCH_DTYPES, Call
from autoprec.plan.execute import run_bound
from autoprec.plan.request import Request
from autoprec.probe import device as devices
from autoprec.types import Dtype, Phase

pytestmark = pytest.mark.cuda

HEADS, Q_LEN, KV_LEN, DIM = (4, 2), 193, 391, 64
MANY = 72  # requests, of more blocks of queries than a GPU has multiprocessors

# The last configuration of Hopper's fp16x3 has programs that take one block after the other, from
# a counter; its first has none, and so needs none.
CASES = {
    "hopper bf16": ("hopper-prefill", "bf16", Dtype.BF16, 0),
    "hopper bf16 of fp32": ("hopper-prefill", "bf16", Dtype.FP32, 0),
    "hopper fp16x3": ("hopper-prefill", "fp16x3", Dtype.FP32, 0),
    "hopper fp16x3 counted": ("hopper-prefill", "fp16x3", Dtype.FP32, -1),
    "portable bf16": ("triton-prefill", "bf16", Dtype.BF16, 0),
    "portable fp16x3": ("triton-prefill", "fp16x3", Dtype.FP32, 0),
}


class Runs:
    """A kernel's runs, bound where there was one alike."""

    def __init__(self, name: str, path: str, dtype: Dtype, number: int) -> None:
        self.row, self.path, self.dtype = registry.kernel(name), path, dtype
        target = devices.target(gpu.device())
        if refusals := self.row.device_refusals(target):
            pytest.skip("; ".join(refusals))
        workload = made_up.workload(phase=Phase.APPEND, q_len=Q_LEN, kv_len=KV_LEN, head_dim=DIM,
                                    input_dtype=dtype)  # fmt: skip
        self.config = self.row.configs(path, workload, target)[number]
        self.counts = path.startswith("fp16") and self.row.converts(path, dtype)
        self.bound: dict[object, Any] = {}
        self.drawn = 0

    def call(self, kind: str = "plain", batch: int = MANY) -> Call:
        """A call on new tensors; results are NaN until they are written."""
        self.drawn += 1
        draw = torch.Generator("cuda").manual_seed(self.drawn)
        q, k, v = (
            torch.randn((batch, HEADS[i > 0], (Q_LEN, KV_LEN)[i > 0], DIM), generator=draw,
                        device="cuda", dtype=TORCH_DTYPES[self.dtype])
            for i in range(3)
        )  # fmt: skip
        call = Call(q=q, k=k, v=v, out=torch.empty_like(q), diagonal=KV_LEN - Q_LEN,
                    lse=torch.empty(q.shape[:3], device="cuda"), sm_scale=0.125)  # fmt: skip
        if kind == "guarded":
            lost, turn = torch.zeros(8, dtype=torch.int32, device="cuda").split(4)
            call = replace(call, lost=lost[:1] if self.counts else None, only_if=turn[:1].fill_(1))
        if kind == "prepared":
            assert self.row.prepare is not None
            planes = self.row.prepare(k, v, self.path, self.config)
            for launch in planes.launches:
                launch.function[launch.grid](**launch.arguments)
            call = replace(call, prepared=replace(planes, launches=[]))
        return self.emptied(call)

    @staticmethod
    def emptied(call: Call) -> Call:
        call.out.fill_(torch.nan)
        call.lse_place.fill_(torch.nan)
        return call

    def again(self, call: Call) -> None:
        """Run it; not through Triton, once a call like it has been."""
        first = not self.bound

        def run(*_: Any) -> None:
            raise AssertionError("it was not bound")

        kernel = self.row if first else replace(self.row, run=run)
        decided: Any = SimpleNamespace(kernel=kernel, path=self.path, config=self.config)
        run_bound(self.bound, decided, call)
        assert [it is None for it in self.bound.values()] == [False]

    def differs(self, call: Call) -> bool:
        """Whether the results are not bitwise what Triton's own launches give."""
        theirs = self.emptied(replace(call, out=call.out.clone(), lse=call.lse_place.clone()))
        self.row.run(theirs, self.path, self.config)
        assert not theirs.out.isnan().any()
        same = torch.equal(call.out, theirs.out) and torch.equal(call.lse_place, theirs.lse_place)
        return not same


@pytest.fixture(params=CASES)
def runs(request: pytest.FixtureRequest) -> Runs:
    return Runs(*CASES[request.param])


@pytest.mark.parametrize("kind", ["plain", "guarded", "prepared"])
def test_other_tensors(runs: Runs, kind: str) -> None:
    if kind == "prepared" and not runs.row.converts(runs.path, runs.dtype):
        pytest.skip("it reads keys and values as they are")
    calls = [runs.call(kind) for _ in range(4)]
    for call in calls:
        runs.again(call)
    assert not any(runs.differs(call) for call in calls)
    if kind == "guarded":
        call = runs.emptied(calls[-1])
        assert call.only_if is not None
        call.only_if.zero_()
        runs.again(call)
        assert call.out.isnan().all()
        assert call.lse_place.isnan().all()


@pytest.mark.parametrize("name", [name for name in CASES if "fp16x3" in name])
def test_a_counter_of_each_call(name: str) -> None:
    runs = Runs(*CASES[name])
    for _ in range(3):
        call = runs.call("guarded")
        call.q[..., 0] = 2.0**-60  # lost to zero in fp16
        runs.again(call)
        assert call.lost is not None
        count = int(call.lost)
        assert count > 0
        assert not runs.differs(call)
        assert int(call.lost) == 2 * count


def test_a_graph_owns_what_it_uses(runs: Runs) -> None:
    runs.again(runs.call())
    call = runs.call()
    runs.again(call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        runs.again(call)
    for _ in range(3):
        other = runs.call()
        for mine, theirs in ((call.q, other.q), (call.k, other.k), (call.v, other.v)):
            mine.copy_(theirs)
        runs.again(other)  # memory of the graph's is not for this one, nor for the next
        torch.full((1 << 26,), torch.nan, device="cuda")
        graph.replay()
        graph.replay()
        assert not runs.differs(call)
        assert not runs.differs(other)


def test_streams_at_once(runs: Runs) -> None:
    runs.again(runs.call())
    calls = [runs.call() for _ in range(4)]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    for stream in streams:  # which have memory of their own from then on
        with torch.cuda.stream(stream):
            runs.again(runs.call())
    torch.cuda.synchronize()
    for stream in streams:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(1_000_000_000)  # 0.5 s, in which launches queue up
    for _ in range(25):
        for number, call in enumerate(calls):
            with torch.cuda.stream(streams[number % 2]):
                runs.again(runs.emptied(call))
    assert not streams[0].query()  # nothing waited for the device
    torch.cuda.synchronize()
    assert not any(runs.differs(call) for call in calls)


@pytest.mark.parametrize("name", ["hopper-prefill", "triton-prefill"])
@pytest.mark.parametrize(("path", "dtype"), [("bf16", Dtype.BF16), ("fp16x3", Dtype.FP32)])
def test_the_host_on_a_small_prompt(name: str, path: str, dtype: Dtype) -> None:
    """A call of a plan costs the host less than the kernel alone by Triton's own launches."""
    plan = gpu.plan_of({dtype: path}, head_dim=128, error=4e-7, prefill=name)
    q = torch.randn(1, 32, 256, 128, device="cuda", dtype=TORCH_DTYPES[dtype])
    k, v = (torch.randn(1, 8, 256, 128, device="cuda", dtype=q.dtype) for _ in range(2))
    out = torch.empty_like(q)
    decision = plan.runner.resolve(Request(True), q, k, v).decision
    assert decision is not None
    call = Call(q=q, k=k, v=v, out=out, lse=None, diagonal=0, sm_scale=128**-0.5)
    launched = gpu.host_us(lambda: decision.kernel.run(call, decision.path, decision.config))
    mine = gpu.host_us(lambda: plan.attention(q, k, v, causal=True, out=out))
    print(f"{name} {path}: plan.attention {mine:.1f} us, kernel.run {launched:.1f} us")
    assert mine <= 0.7 * launched
