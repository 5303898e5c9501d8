"""Run-time guards: what fp16's range has hurt is computed again, and nothing else is."""

import math
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import made_up
import pytest
import torch
from exact import Recorder, cpu_profile, naive
from interpreted import CONFIGS
from torch import Tensor

from autoprec.errors import AutoprecWarning, InputError
from autoprec.kernels.interface import Call, Launch, Target, run_launches
from autoprec.plan.decision import Decision
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.plan import Plan
from autoprec.probe import device as devices
from autoprec.types import Measurement, Phase, Storage

# fp16x3 and bf16x6 are right to 2^-20 in every row, as fp32 is; see tests/plan/test_range.py
ACCURATE = 2.0**-20
PHASES = {"prefill": 20, "decode": 3}

GPU = Target(kind="cuda", arch="sm_80", shared_bytes=166912, units=108)


def rows(*paths: str, dtype: str = "fp32") -> list[Measurement]:
    """The first path is the fastest; errors are those to expect of all."""
    return [
        made_up.measurement(
            path,
            1.0 + place,
            4e-7,
            workload=made_up.workload(
                phase=phase, kv_len=128, head_dim=16, input_dtype=dtype, out_dtype="fp32"
            ),
            config=config,
        )
        for phase, config in CONFIGS.items()
        for place, path in enumerate(paths)
    ]


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Plans whose kernels are Triton's, interpreted, under the guard ``always``."""
    pytest.importorskip("triton")
    monkeypatch.setattr(devices, "target", lambda device: GPU)

    def plan(*paths: str, dtype: str = "fp32", guard: str = "always") -> Plan:
        profile = cpu_profile(rows(*paths, dtype=dtype), budget="rel_l2<=1e-5")
        return Plan(profile, torch.device("cpu"), guard=guard)

    return plan


def draw(q_len: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, 2, n, 16, generator=generator) for n in (q_len, 100, 100))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def worst(got: Tensor, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> float:
    want = naive(q, k, v, causal=causal)[0]
    assert got.isfinite().all()
    return float(((got.double() - want).norm(dim=-1) / want.norm(dim=-1)).max())


@pytest.mark.parametrize("phase", PHASES)
def test_each_of_the_two_is_bound_by_itself(
    triton: Callable[..., Plan], phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launches of one are none of the other, whose calls share all that they are known by."""
    ran: list[tuple[str, int]] = []

    def run(decision: Decision, call: Call, bound: dict[object, Any] | None) -> None:
        assert bound is not None
        ran.append((decision.path, id(bound)))
        decision.kernel.run(call, decision.path, decision.config)

    monkeypatch.setattr("autoprec.plan.guard.run", run)
    plan = triton("fp16x3", "bf16x6")
    for _ in range(2):
        plan.attention(*draw(PHASES[phase]), causal=True)
    assert [path for path, _ in ran] == ["fp16x3", "bf16x6"] * 2
    assert ran[:2] == ran[2:]
    assert ran[0][1] != ran[1][1]


@pytest.mark.parametrize("phase", PHASES)
def test_nothing_is_done_where_nothing_is_lost(triton: Callable[..., Plan], phase: str) -> None:
    plan = triton("fp16x3", "bf16x6")
    q, k, v = draw(PHASES[phase])
    before = triton("fp16x3", "bf16x6", guard="off").attention(q, k, v, causal=True)
    assert torch.equal(plan.attention(q, k, v, causal=True), before)
    assert plan.stats() == {"calls": {"fp16x3": 1}, "range": 0, "fell": {}, "drift": {}}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_what_is_lost_is_computed_again(
    triton: Callable[..., Plan], which: str, phase: str
) -> None:
    """Rows with elements far below others of their tile, which alone the outputs are made of."""
    q, k, v = draw(PHASES[phase])
    if which == "v":  # the large values have no weight: keys at -40 nats
        k[..., 0] = 0.0
        q[..., 0], k[:, :, ::2, 0] = 4.0, -40.0
        v[:, :, ::2] *= 1e9
    else:  # the large channel of one meets zeros of the other
        big, other = (q, k) if which == "q" else (k, q)
        big[..., 0], other[..., 0] = 1e13, 0.0
    for guard, falls in (("off", False), ("always", True)):
        plan = triton("fp16x3", "fp32", guard=guard)
        out, lse = plan.attention(q, k, v, causal=False, return_lse=True)
        assert (worst(out, q, k, v, causal=False) <= ACCURATE) == falls
        assert (plan.stats()["fell"] == {"fp16x3>fp32": 1}) == falls
        assert plan.stats()["range"] > 0
        assert torch.allclose(lse.double(), naive(q, k, v, causal=False)[1], atol=1e-4) or not falls


@pytest.mark.parametrize("together", [2, 256])
def test_each_call_has_a_verdict_of_its_own(
    triton: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """Whether verdicts are collected in between or not."""
    monkeypatch.setattr("autoprec.kernels.guard._VERDICTS", together)
    plan = triton("fp16x3", "fp32")
    q, k, v = draw(20)
    bad = k.clone()
    bad[0, :, 3] *= 1e-30  # a tile in each head
    for keys in (k, bad, k, bad, k):
        assert worst(plan.prefill(q, keys, v, causal=True), q, keys, v) <= ACCURATE
    assert plan.stats()["fell"] == {"fp16x3>fp32": 2}


@pytest.mark.parametrize(("path", "dtype"), [("fp16x3", "fp32"), ("fp16", "fp16")])
@pytest.mark.parametrize("phase", PHASES)
def test_a_capture_launches_nothing_that_was_not_loaded(
    triton: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, phase: str, path: str, dtype: str
) -> None:
    """A call before it was compiled for every kernel, and for such addresses as it has."""
    launched: set[tuple[str, ...]] = set()

    def watch(launches: Sequence[Launch]) -> None:
        for launch in launches:
            addresses = {
                name: value.data_ptr() % 16
                for name, value in launch.arguments.items()
                if isinstance(value, Tensor)
            }
            launched.add((launch.function.fn.__name__, str(addresses)))
        run_launches(launches)

    for module in ("autoprec.kernels.prefill", "autoprec.kernels.decode", "autoprec.plan.guard"):
        monkeypatch.setattr(f"{module}.run_launches", watch)
    plan = triton(path, "fp32", dtype=dtype)
    q, k, v = draw(PHASES[phase], torch.float32 if dtype == "fp32" else torch.float16)
    plan.attention(q, k, v, causal=True, out_dtype="fp32")
    before = set(launched)
    launched.clear()
    monkeypatch.setattr("autoprec.plan.guard._capturing", lambda call: True)
    plan.attention(q, k, v, causal=True, out_dtype="fp32")
    assert {name for name, _ in launched} >= {"_settle"}
    assert launched <= before


@pytest.mark.parametrize("guard", ["sample", "always"])
def test_calls_in_and_out_of_inference_mode(triton: Callable[..., Plan], guard: str) -> None:
    plan = triton("fp16x3", "fp32", guard=guard)
    plan.guard_every = 1
    q, k, v = draw(20)
    with torch.inference_mode():
        plan.prefill(q, k, v, causal=True)
    plan.prefill(q, k, v, causal=True)
    assert plan.stats()["calls"] == {"fp16x3": 2}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("path", ["fp16", "fp16p2"])
def test_fp16_inputs_are_looked_at(triton: Callable[..., Plan], path: str, phase: str) -> None:
    plan = triton(path, "fp32", dtype="fp16")
    q, k, v = draw(PHASES[phase], torch.float16)
    plan.attention(q, k, v, causal=True, out_dtype="fp32")
    assert plan.stats()["fell"] == {}
    # the least value is 2^-24 and the largest some 2^15, in blocks of tokens of their own
    v[:, :, 98:] *= 2.0**13
    v[:, 1, :90] = 2.0**-24
    got = plan.attention(q, k, v, causal=False, out_dtype="fp32")
    assert plan.stats()["fell"] == {f"{path}>fp32": 1}
    assert worst(got, q, k, v, causal=False) <= ACCURATE
    plan.attention(q, k, v.clamp(-1, 1) + 1, causal=True, out_dtype="fp32")
    assert plan.stats()["fell"] == {f"{path}>fp32": 1}


def test_the_next_safe_path_is_the_fastest_within_the_budget(triton: Callable[..., Plan]) -> None:
    plan = triton("fp16x3", "fp16", "tf32x3", "fp32")
    text = plan.explain(*draw(20), causal=True)
    assert "tf32x3 by triton-prefill too, where fp16's range is too narrow\n" in text
    plan.guard = "off"
    assert "\nguard " not in plan.explain(*draw(20), causal=True)
    plan.guard = "sample"
    assert "one call in 100 is compared with exact attention, on up to 16 rows\n" in plan.explain(
        *draw(20), causal=True
    )


def test_without_one_it_is_fp32(triton: Callable[..., Plan]) -> None:
    plan = triton("fp16x3")
    q, k, v = draw(20)
    k[0, 0, 3] *= 1e-30
    assert worst(plan.prefill(q, k, v, causal=True), q, k, v) <= ACCURATE
    assert plan.stats()["fell"] == {"fp16x3>fp32": 1}
    assert (
        "fp32 by triton-prefill too, where fp16's range is too narrow; no path with "
        "fp32's range is in budget; triton-prefill was not measured here, so its first "
        "configuration is used\n"
    ) in plan.explain(q, k, v, causal=True)


def test_paths_with_fp32s_range_are_left_alone(triton: Callable[..., Plan]) -> None:
    plan = triton("bf16x6", "fp16x3")
    q, k, v = draw(20)
    k[0, 0, 3] *= 1e-30
    plan.prefill(q, k, v, causal=True)
    assert plan.stats() == {"calls": {"bf16x6": 1}, "range": 0, "fell": {}, "drift": {}}


def test_what_is_prepared_takes_a_safe_path(triton: Callable[..., Plan]) -> None:
    plan = triton("fp16x3", "bf16x6")
    q, k, v = draw(40)
    k[0, 0, 3] *= 1e-30
    held = plan.prepare_kv(k, v, q_len=40)
    assert held.path == "bf16x6"
    assert worst(plan.append(q, held, causal=True), q, k, v) <= ACCURATE
    plan.guard = "off"
    early = plan.prepare_kv(k, v, q_len=40)
    assert early.path == "fp16x3"
    plan.append(q, early, causal=True)
    plan.guard = "always"
    with pytest.raises(InputError, match="prepared for fp16x3 while plan.guard was not always"):
        plan.append(q, early, causal=True)


def cached(plan: Plan, k: Tensor, v: Tensor, storage: str | None = None) -> KVCache:
    cache = plan.new_kv_cache(
        batch=1, capacity=100, q_heads=2, kv_heads=2, head_dim=16, storage=storage
    )
    cache.append(k, v)
    return cache


@pytest.mark.parametrize("phase", PHASES)
def test_calls_on_a_cache_take_a_safe_path(triton: Callable[..., Plan], phase: str) -> None:
    """Its tokens keep fp32's range, so that the one far below others of its tile is not lost."""
    plan = triton("fp16x3", "bf16x6")
    q, k, v = draw(PHASES[phase])
    k[0, 0, 3] *= 1e-30
    cache = cached(plan, k, v)
    assert cache.storage is Storage.FP32
    assert worst(plan.attention(q, cache, causal=True), q, k, v) <= ACCURATE
    assert plan.stats() == {"calls": {"bf16x6": 1}, "range": 0, "fell": {}, "drift": {}}
    told = " paths with fp32's range alone, since calls on a KVCache run once\n"
    assert told in plan.explain(q, cache)
    plan.guard = "off"
    plan.attention(q, cache, causal=True)
    assert plan.stats()["calls"] == {"bf16x6": 1, "fp16x3": 1}
    assert "\nguard " not in plan.explain(q, cache)


@pytest.mark.parametrize("storage", ["fp16x2", "fp16"])
def test_a_cache_in_fp16s_range_is_refused(triton: Callable[..., Plan], storage: str) -> None:
    plan = triton("fp16x3", "fp32", guard="off")
    q, k, v = draw(3)
    cache = cached(plan, k, v, storage)
    plan.decode(q, cache, causal=True)
    plan.guard = "always"
    with pytest.raises(InputError) as caught:
        plan.decode(q, cache, causal=True)
    assert caught.value.sentence == (
        f"the cache holds {storage}, and what fp16's range has cost its tokens cannot be computed "
        "again, as plan.guard asks for."
    )


def test_what_a_cache_gives_is_not_sampled(triton: Callable[..., Plan]) -> None:
    plan = triton("fp32", guard="sample")
    q, k, v = draw(3)
    cache = cached(plan, k, v)
    sentence = "calls on a KVCache are not compared with exact attention."
    with pytest.warns(AutoprecWarning, match=sentence):
        plan.decode(q, cache, causal=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.decode(q, cache, causal=True)
    assert plan.stats()["drift"] == {}


def test_a_consistent_plan_is_not_computed_again(triton: Callable[..., Plan]) -> None:
    profile = triton("fp16x3", "fp32").profile
    with pytest.raises(InputError, match="guard is always and the plan is consistent, but"):
        Plan(profile, torch.device("cpu"), consistent=True, guard="always")
    plan = Plan(profile, torch.device("cpu"), consistent=True, guard="sample")
    q, k, v = draw(20)
    plan.prefill(q, k, v, causal=True)
    assert plan.stats()["drift"]["fp16x3"]["checked"] == 1


def test_a_cpu_kernel_falls_too() -> None:
    shared = {"kernel": "cpu-blocked", "config": {"block_q": 64, "block_kv": 64}}
    table = [
        made_up.measurement(path, ms, 4e-4, workload=made_up.workload(kv_len=128, head_dim=16),
                            **shared)
        for path, ms in (("fp16", 1.0), ("fp32", 2.0))
    ]  # fmt: skip
    plan = Plan(cpu_profile(table), torch.device("cpu"), guard="always")
    q, k, v = draw(100)
    plan.prefill(q, k, v, causal=True)
    assert plan.stats()["fell"] == {}
    k[0, 1, 0] *= 1e-20
    assert worst(plan.prefill(q, k, v, causal=True), q, k, v) <= ACCURATE
    assert plan.stats()["fell"] == {"fp16>fp32": 1}


def test_threads_have_verdicts_of_their_own() -> None:
    """One loses in every call, the other in none: the counts are theirs, whatever the order."""
    shared = {"kernel": "cpu-blocked", "config": {"block_q": 64, "block_kv": 64}}
    table = [
        made_up.measurement(path, ms, 4e-4, workload=made_up.workload(kv_len=128, head_dim=16),
                            **shared)
        for path, ms in (("fp16", 1.0), ("fp32", 2.0))
    ]  # fmt: skip
    plan = Plan(cpu_profile(table), torch.device("cpu"), guard="always")
    q, k, v = draw(100)
    bad = k.clone()
    bad[0, 1, 0] *= 1e-20
    errors: dict[str, list[float]] = {"right": [], "hurt": []}

    def work(name: str, keys: Tensor) -> None:
        for _ in range(20):
            errors[name].append(worst(plan.prefill(q, keys, v, causal=True), q, keys, v))

    named = (("right", k), ("hurt", bad))
    threads = [threading.Thread(target=work, args=args) for args in named]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert plan.stats()["fell"] == {"fp16>fp32": 20}
    assert [len(own) for own in errors.values()] == [20, 20]
    assert max(errors["hurt"]) <= ACCURATE  # by fp32, every time
    assert min(errors["right"]) > ACCURATE  # by fp16, every time


def test_unknown_guards_are_refused(plan: Plan) -> None:
    assert plan.guard == "off"
    with pytest.raises(InputError, match="guard must be one of off, sample, always, got 'on'."):
        plan.guard = "on"
    with pytest.raises(InputError, match="guard_every must be a whole number above zero, got 0."):
        plan.guard_every = 0


def test_sampled_calls_are_compared(plan: Plan, recorder: Recorder) -> None:
    plan.guard, plan.guard_every = "sample", 3
    q, k, v = draw(20)
    for _ in range(7):
        plan.prefill(q, k, v, causal=True)
    drift = plan.stats()["drift"]["bf16"]
    assert drift["checked"] == 3
    assert max(drift["rel_l2"], drift["row_rel_max"], drift["max_abs"]) <= 2.0**-23
    assert plan.stats()["fell"] == {}


@pytest.mark.parametrize("damage", ["a row", "a NaN"])
def test_what_drifts_is_seen(
    damage: str, register: Callable[..., None], recorder: Recorder
) -> None:
    exact = recorder.kernel("exact")

    def run(call: object, path: str, config: object) -> None:
        exact.run(call, path, config)  # type: ignore[arg-type]
        call.out[0, 0, 6] *= math.nan if damage == "a NaN" else 1.5  # type: ignore[attr-defined]

    register(recorder.kernel("exact", run=run))
    plan = Plan(cpu_profile(), torch.device("cpu"), guard="sample")
    plan.guard_every = 1
    q, k, v = draw(20)
    for _ in range(2):  # both heads
        plan.prefill(q, k, v, causal=True)
    drift = plan.stats()["drift"]["bf16"]
    if damage == "a NaN":
        assert math.isnan(drift["rel_l2"])
    else:
        assert drift["row_rel_max"] == pytest.approx(0.5)
        assert 0.0 < drift["rel_l2"] < 0.5


def test_rows_that_must_be_nan_are_no_drift(plan: Plan) -> None:
    plan.guard, plan.guard_every = "sample", 1
    q, k, v = draw(20)
    q[:, :, 3, 0] = math.nan
    for _ in range(2):
        plan.prefill(q, k, v, causal=True)
    assert plan.stats()["drift"]["bf16"]["rel_l2"] <= 2.0**-23


def test_a_decode_of_a_few_rows_is_sampled(plan: Plan) -> None:
    plan.guard = "sample"
    q, k, v = draw(1)
    plan.decode(q, k, v, causal=True)
    assert plan.stats()["drift"]["bf16"]["rel_l2"] <= 2.0**-23
    assert Phase.DECODE in {choice.workload.phase for choice in plan.choices}
