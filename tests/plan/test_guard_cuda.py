"""Guards on a GPU: graphs, streams, no synchronisation, and what ``always`` costs."""

import statistics
import warnings

import gpu
import made_up
import pytest
import torch
from exact import inputs, naive
from torch import Tensor

from autoprec import registry
from autoprec.paths import PATHS
from autoprec.plan.plan import Plan
from autoprec.policy.bounds import expected_rel_l2
from autoprec.probe import device as devices
from autoprec.probe.timing import timer
from autoprec.types import Dtype, Measurement, Phase

pytestmark = pytest.mark.cuda

SAFE = {Dtype.FP32: "bf16x3", Dtype.FP16: "fp32"}
ACCURATE = 1e-5  # the budget; bf16x3 is right to 7e-6
FP32 = 2.0**-20  # what an fp32 path keeps to


def plan_of(
    path: str, dtype: Dtype, *, own_kernel: str = "", safe_kernel: str = "", head_dim: int = 64
) -> Plan:
    """A plan that chooses a path, and falls to SAFE of the type, under the guard ``always``.

    The kernels are those of prefill, triton-prefill where none is named; the first of them runs in
    its last configuration, so that the two are not one.
    """
    target = devices.target(gpu.device())
    rows: list[Measurement] = []
    for phase, kernel in ((Phase.PREFILL, "triton-prefill"), (Phase.DECODE, "triton-decode")):
        workload = made_up.workload(
            phase=phase, kv_len=1024, head_dim=head_dim, input_dtype=dtype, out_dtype="fp32"
        )
        for name, ms in ((path, 1.0), (SAFE[dtype], 2.0)):
            named = own_kernel if ms == 1.0 else safe_kernel
            own = named if named and phase is Phase.PREFILL else kernel
            row = registry.kernel(own)
            if row.device_refusals(target):
                pytest.skip("; ".join(row.device_refusals(target)))
            config = dict(row.configs(name, workload, target)[-1 if ms == 1.0 else 0])
            rows.append(
                made_up.measurement(name, ms, 4e-7, workload=workload, kernel=own, config=config)
            )
    profile = made_up.profile(rows, environment=devices.environment(gpu.device()))
    return Plan(profile, gpu.device(), guard="always")


def usual(path: str, dtype: Dtype, kv_len: int) -> float:
    """Twice the rel_l2 that a path is expected to have on N(0, 1)."""
    return 2 * expected_rel_l2(PATHS[path], head_dim=64, kv_len=kv_len, inputs=dtype)


def off(got: Tensor, q: Tensor, k: Tensor, v: Tensor) -> float:
    want = naive(q, k, v, causal=True)[0]
    assert got.isfinite().all()
    return float((got.double() - want).norm() / want.norm())


def harmed(k: Tensor) -> Tensor:
    bad = k.clone()
    bad[:, :, ::3] *= 1e-30
    return bad


@pytest.mark.parametrize("safe_kernel", ["", "hopper-prefill"])
@pytest.mark.parametrize("q_len", [1, 200])
def test_a_graph_decides_each_time(q_len: int, safe_kernel: str) -> None:
    plan = plan_of("fp16", Dtype.FP32, safe_kernel=safe_kernel)
    q, k, v = (t.cuda() for t in inputs(2, 6, 2, q_len, 200, 64, 64))
    keys = k.clone()
    out = torch.empty_like(q)
    plan.attention(q, keys, v, causal=True, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.attention(q, keys, v, causal=True, out=out)
    fp16 = usual("fp16", Dtype.FP32, 200)
    for number, (its, most) in enumerate(((k, fp16), (harmed(k), ACCURATE)) * 2):
        keys.copy_(its)
        out.fill_(torch.nan)
        graph.replay()
        assert off(out, q, its, v) <= most
        assert plan.stats()["fell"].get("fp16>bf16x3", 0) == (number + 1) // 2


@pytest.mark.parametrize("path", ["fp16", "fp16p2"])
@pytest.mark.parametrize("q_len", [1, 200])
def test_fp16_inputs(path: str, q_len: int) -> None:
    plan = plan_of(path, Dtype.FP16)
    q, k, v = (t.cuda() for t in inputs(2, 6, 2, q_len, 300, 64, 64, torch.float16))
    most = usual(path, Dtype.FP16, 300)
    assert off(plan.attention(q, k, v, causal=True, out_dtype="fp32"), q, k, v) <= most
    assert plan.stats()["fell"] == {}
    v[0, 1, :150], v[0, 1, 150:] = 2.0**-24, 2.0**15
    assert off(plan.attention(q, k, v, causal=True, out_dtype="fp32"), q, k, v) <= FP32
    assert plan.stats()["fell"] == {f"{path}>fp32": 1}


@pytest.mark.parametrize("size", [1e-18, 1e-6, 1.0, 1e4, 1e8, 1e15])
@pytest.mark.parametrize("q_len", [1, 200])
def test_inputs_of_any_size_are_finite_and_within_the_budget(q_len: int, size: float) -> None:
    """Logits are brought back to the usual size by the scale, which fp32 must hold."""
    plan = plan_of("fp16", Dtype.FP32)
    q, k, v = (t.cuda() * size for t in inputs(2, 6, 2, q_len, 200, 64, 64))
    k[:, :, ::5] *= 1e-12
    got = plan.attention(q, k, v, causal=True, sm_scale=0.125 / size / size)
    want = naive(q, k, v, causal=True, sm_scale=0.125 / size / size)[0]
    assert got.isfinite().all()
    assert (got.double() - want).norm() <= ACCURATE * want.norm()


@pytest.mark.parametrize("guard", ["sample", "always"])
@pytest.mark.parametrize("q_len", [1, 200])
def test_nothing_waits(guard: str, q_len: int) -> None:
    plan = plan_of("fp16", Dtype.FP32)
    plan.guard, plan.guard_every = guard, 1
    q, k, v = (t.cuda() for t in inputs(2, 6, 2, q_len, 200, 64, 64))
    plan.attention(q, k, v, causal=True)  # compiled, and its counters are there
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        plan.attention(q, k, v, causal=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    drift = plan.stats()["drift"]
    assert drift.get("fp16", {}).get("checked", 0) == (2 if guard == "sample" else 0)


def test_streams_have_slots_of_their_own() -> None:
    plan = plan_of("fp16", Dtype.FP32)
    q, k, v = (t.cuda() for t in inputs(2, 6, 2, 200, 200, 64, 64))
    bad = harmed(k)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    outs: list[tuple[Tensor, Tensor]] = []
    for _ in range(20):
        for stream, keys in zip(streams, (k, bad), strict=True):
            with torch.cuda.stream(stream):
                outs.append((plan.prefill(q, keys, v, causal=True), keys))
    torch.cuda.synchronize()
    fp16 = usual("fp16", Dtype.FP32, 200)
    assert all(off(out, q, keys, v) <= (fp16 if keys is k else ACCURATE) for out, keys in outs)
    assert plan.stats()["fell"] == {"fp16>bf16x3": 20}


@pytest.mark.parametrize("kernel", ["triton-prefill", "hopper-prefill"])
@pytest.mark.parametrize("kv_len", [4096, 8192])
def test_always_costs_little(
    kv_len: int, kernel: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """At most 3 % or 10 µs of a prefill of 4096 tokens or more, 32/8 heads of 128, fp32."""
    plan = plan_of("fp16", Dtype.FP32, own_kernel=kernel, head_dim=128)
    q, k, v = (t.cuda() for t in inputs(1, 32, 8, kv_len, kv_len, 128, 128))
    clock = timer(gpu.device())
    samples: dict[str, list[float]] = {"off": [], "always": [], "sample": []}
    for number in range(61):
        for guard, ms in samples.items():
            plan.guard = guard
            taken = clock.sample_ms(lambda: plan.prefill(q, k, v, causal=True))
            if number:  # the first one compiles
                ms.append(taken)
    cost = {guard: statistics.median(ms) for guard, ms in samples.items()}
    with capsys.disabled():
        print(f"\n{kernel} {kv_len}: " + ", ".join(f"{n} {ms:.4f} ms" for n, ms in cost.items()))
    assert plan.stats()["fell"] == {}
    assert cost["always"] - cost["off"] <= max(0.03 * cost["off"], 0.010)
