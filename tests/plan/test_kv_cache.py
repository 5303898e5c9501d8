"""Caches of a plan: their form, what comes in, and attention of every phase on them."""

import gc
import weakref
from importlib.util import find_spec
from typing import Any

import interpreted
import made_up
import pytest
import torch
from exact import cpu_profile, naive
from torch import Tensor

from autoprec.errors import InputError, UnsupportedError
from autoprec.kernels.reference import attention
from autoprec.plan import cached, cached_resolve
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.plan import Plan
from autoprec.plan.request import Request
from autoprec.types import Conversion, Storage

BATCH, HEADS, KV_HEADS, DIM = 2, 4, 2, 16

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")


def _plan(path: str, monkeypatch: pytest.MonkeyPatch) -> Plan:
    return interpreted.plan_of(path, monkeypatch)


def _cache(plan: Plan, **changes: Any) -> KVCache:
    sizes = {"batch": BATCH, "capacity": 90, "q_heads": HEADS, "kv_heads": KV_HEADS,
             "head_dim": DIM}  # fmt: skip
    return plan.new_kv_cache(**sizes | changes)


def _drawn(tokens: int, heads: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn((BATCH, heads, tokens, DIM), generator=draw)


def _error(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


def test_a_cache_on_a_device_that_is_not_here_or_not_the_plans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = _plan("fp16x3", monkeypatch)
    assert _cache(plan, device="cpu").lengths.device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError) as caught:
        _cache(plan, device="cuda")
    assert str(caught.value) == (
        f"the device 'cuda' is not here: torch {torch.__version__} sees no GPU. Try: the device cpu"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError) as caught:
        _cache(plan, device="cuda:0")
    assert str(caught.value) == (
        "the cache is on cuda:0, and this plan is for cpu. "
        "Try: tensors on cpu, or load_plan for another device"
    )


@pytest.mark.parametrize("page_size", [None, 16])
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_one_cache_serves_every_phase(
    page_size: int | None, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan("fp16x3", monkeypatch)
    cache = _cache(plan, page_size=page_size)
    assert cache.storage is Storage.PLANES

    def swapped(x: Tensor) -> Tensor:
        return x.transpose(1, 2) if layout == "bshd" else x

    k, v, q = _drawn(62, KV_HEADS, 1), _drawn(62, KV_HEADS, 2), _drawn(62, HEADS, 3)
    for method, first, last in (
        (plan.prefill, 0, 40), (plan.append, 40, 60), (plan.decode, 60, 61), (plan.decode, 61, 62),
    ):  # fmt: skip
        cache.append(*(swapped(x[:, :, first:last]) for x in (k, v)), layout=layout)
        out, lse = method(
            swapped(q[:, :, first:last]), cache, causal=True, return_lse=True, layout=layout
        )
        want, want_lse = naive(q[:, :, first:last], k[:, :, :last], v[:, :, :last], causal=True)
        assert _error(swapped(out), want) < 2e-6
        assert (lse - want_lse).abs().max() < 1e-5
    assert cache.lengths.tolist() == [62, 62]
    assert plan.stats() == {"calls": {"fp16x3": 4}, "range": 0, "fell": {}, "drift": {}}


@pytest.mark.parametrize("page_size", [None, 16])
@pytest.mark.parametrize("path", ["fp32", "fp16x3"])
def test_a_cache_made_in_inference_mode_serves_outside_of_it(
    path: str, page_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(path, monkeypatch)
    k, v, q = _drawn(20, KV_HEADS, 1), _drawn(20, KV_HEADS, 2), _drawn(1, HEADS, 3)
    with torch.inference_mode():
        cache = _cache(plan, page_size=page_size)
        cache.append(k[:, :, :19], v[:, :, :19])
        plan.decode(q, cache, causal=True)
    cache.append(k[:, :, 19:], v[:, :, 19:])
    got = plan.decode(q, cache, causal=True)
    assert isinstance(got, Tensor)
    assert _error(got, naive(q, k, v, causal=True)[0]) < 2e-6
    cache.set_lengths([0, 5])
    kept = (cache.k, cache.v, cache.lengths, cache.page_table, cache.workspace)
    assert not any(x.is_inference() for x in kept if x is not None)


def test_accuracy_says_how_many_planes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan("fp16x3", monkeypatch)
    cache = _cache(plan, page_size=16)
    k, v, q = _drawn(70, KV_HEADS, 1), _drawn(70, KV_HEADS, 2), _drawn(1, HEADS, 3)
    cache.append(k, v)
    want, _ = naive(q, k, v, causal=True)
    full = _error(plan.decode(q, cache, causal=True, accuracy="full"), want)
    high = _error(plan.decode(q, cache, causal=True, accuracy="hi"), want)
    assert full < 1e-6 < 1e-4 < high < 1e-3
    assert plan.stats()["calls"] == {"fp16x3": 1, "fp16": 1}
    told = plan.explain(q, cache, phase="decode", accuracy="hi")
    assert told.splitlines()[-1] == (
        "cache: fp16x2; each phase would take it alone: fp16x2 for prefill (fp16x3), "
        "fp16x2 for decode (fp16x3)"
    )


def test_lengths_and_pages_may_change_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan("fp16x3", monkeypatch)
    table = torch.tensor([[5, 1, 4], [0, 6, 2]], dtype=torch.int32)
    cache = _cache(plan, capacity=40, page_size=16, pages=7, page_table=table)
    k, v, q = _drawn(40, KV_HEADS, 1), _drawn(40, KV_HEADS, 2), _drawn(1, HEADS, 3)
    cache.append(k, v)
    cache.set_lengths([17, 0])
    out, lse = plan.decode(q, cache, causal=True, return_lse=True)
    want, _ = naive(q[:1], k[:1, :, :17], v[:1, :, :17], causal=True)
    assert _error(out[:1], want) < 1e-6
    assert (out[1] == 0).all()
    assert (lse[1] == -torch.inf).all()
    table.copy_(table.flip(0))
    cache.set_lengths(torch.tensor([40, 33], dtype=torch.int32))
    out = plan.decode(q.flip(0), cache, causal=True)
    assert _error(out[0], naive(q[1:], k[1:], v[1:], causal=True)[0][0]) < 1e-6
    want, _ = naive(q[:1], k[:1, :, :33], v[:1, :, :33], causal=True)
    assert _error(out[1], want[0]) < 1e-6
    cache.set_lengths(torch.tensor([3, 2], dtype=torch.int32))  # the host does not know them
    cache.append(k[:, :, :1], v[:, :, :1])
    assert cache.lengths.tolist() == [4, 3]


def test_new_tokens_may_be_as_many_as_each_request_has(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan("fp16x3", monkeypatch)
    cache = _cache(plan)
    k, v, q = _drawn(20, KV_HEADS, 1), _drawn(20, KV_HEADS, 2), _drawn(1, HEADS, 3)
    starts = torch.tensor([0, 20, 23], dtype=torch.int32)
    packed = (torch.cat([x[:1], x[1:, :, :3]], 2) for x in (k, v))
    cache.append(*packed, starts=starts, longest=20)
    assert cache.lengths.tolist() == [20, 3]
    out = plan.decode(q, cache, causal=True)
    for request, length in enumerate((20, 3)):
        x = slice(request, request + 1)
        want, _ = naive(q[x], k[x, :, :length], v[x, :, :length], causal=True)
        assert _error(out[x], want) < 1e-6


def test_a_window_a_cap_and_sinks_reach_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = made_up.workload
    monkeypatch.setattr(
        made_up, "workload", lambda **sizes: workload(**sizes, window=8, soft_cap=2.0)
    )
    plan = _plan("fp16x3", monkeypatch)
    cache = _cache(plan, storage="fp32")
    k, v, q = _drawn(70, KV_HEADS, 1), _drawn(70, KV_HEADS, 2), _drawn(3, HEADS, 3)
    cache.append(k, v)
    sinks = torch.linspace(-1, 1, HEADS)
    out = plan.decode(q, cache, causal=True, window=8, soft_cap=2.0, sinks=sinks)
    want, _ = attention(
        q, k, v, diagonal=67, sm_scale=DIM**-0.5, window_left=7, soft_cap=2.0, sinks=sinks
    )
    assert _error(out, want) < 2e-6


@pytest.mark.parametrize(
    ("path", "storage"),
    [("fp16x3", Storage.PLANES), ("fp16", Storage.PLANES), ("bf16", Storage.BF16),
     ("tf32x3", Storage.FP32), ("fp32", Storage.FP32), ("bf16x3", Storage.FP32)],
)  # fmt: skip
def test_the_form_is_what_the_path_reads(
    path: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(path, monkeypatch)
    cache = _cache(plan)
    assert cache.storage is storage
    k, v, q = _drawn(40, KV_HEADS, 1), _drawn(40, KV_HEADS, 2), _drawn(1, HEADS, 3)
    cache.append(k, v)
    got, plain = plan.decode(q, cache, causal=True), plan.decode(q, k, v, causal=True)
    # two planes hold 22 bits and have a scale for each token; all else holds what the path reads
    assert _error(got, plain) <= (1e-3 if path == "fp16" else 1e-6 if storage == "fp16x2" else 0.0)
    assert plan.stats()["calls"] == {path: 2}


def test_what_a_cache_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan("fp16x3", monkeypatch)
    assert repr(_cache(plan, page_size=16)) == (
        "KVCache(2 requests of up to 96 tokens in fp16x2, pages of 16, 272 bytes a token)"
    )
    assert repr(_cache(plan, storage="bf16")) == (
        "KVCache(2 requests of up to 90 tokens in bf16, 128 bytes a token)"
    )


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan("fp16x3", monkeypatch)
    cache = _cache(plan)
    k, q = _drawn(4, KV_HEADS), _drawn(1, HEADS)
    wrong: list[tuple[Any, str]] = [
        (lambda: cache.append(k[:1], k[:1]), "k (1, 2, 4, 16) must be (2, 2, 4, 16) as bhsd."),
        (lambda: cache.append(_drawn(91, KV_HEADS), _drawn(91, KV_HEADS)),
         "91 tokens are to come, 0 are there, and there is room for 90."),
        (lambda: cache.set_lengths([1]), "lengths are 1, and there are 2 requests."),
        (lambda: cache.set_lengths([1, 91]), "request 1 has a length of 91, outside of 0 to 90."),
        (lambda: plan.decode(q[:1], cache, causal=True),
         "q has 1 requests of head dim 16, the cache 2 of 16."),
        (lambda: plan.decode(q, cache, k, causal=True),
         "v is given, but the KVCache in place of k has its own values."),
        (lambda: plan.decode(q, cache, causal=True, accuracy="low"),
         "accuracy must be full or hi, got 'low'."),
        (lambda: _cache(plan, batch=0), "batch must be at least 1, got 0."),
        (lambda: _cache(plan, pages=3), "pages are given without their size."),
        (lambda: _cache(plan, page_size=16, pages=3),
         "2 requests of 90 tokens need 12 pages, there are 3."),
        (lambda: _cache(plan, storage="fp8"),
         "storage must be one of fp32, bf16, fp16, fp16x2, got 'fp8'."),
    ]  # fmt: skip
    for call, sentence in wrong:
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.sentence == sentence
    with pytest.raises(UnsupportedError) as refused:
        plan.decode(q, k, k, causal=True, accuracy="hi")
    assert refused.value.sentence == "accuracy is given, and only calls on a KVCache take it."
    with pytest.raises(UnsupportedError) as refused:
        plan.decode(q, cache, causal=True, attn_mask=torch.ones(1, 90, dtype=torch.bool))
    assert refused.value.sentence == "attn_mask is given, and calls on a KVCache take none."


@pytest.mark.parametrize("name", ["page_table", "k", "low", "inverse", "sinks"])
def test_nothing_is_written_to_what_a_call_on_a_cache_reads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan("fp16x3", monkeypatch)
    table, sinks, q = torch.zeros(640, dtype=torch.int32), torch.zeros(640), _drawn(1, HEADS)
    cache = _cache(plan, page_size=16, page_table=table[:12].view(2, 6), pages=12)
    cache.append(_drawn(70, KV_HEADS), _drawn(70, KV_HEADS))  # two splits, which take a workspace
    halves = cache.halves
    assert halves is not None
    read = {"page_table": table, "k": halves.k[0], "low": halves.v[1],
            "inverse": halves.inverse, "sinks": sinks}[name].view(-1)  # fmt: skip
    lse = read.view(torch.float32)[:8].view(2, 4, 1)
    out = read.view(torch.float32)[:128].view(2, 4, 1, 16)
    shape = tuple(read.shape)
    for options, sentence in (
        ({"out": out}, "out (2, 4, 1, 16) lies in the memory of an input."),
        ({"lse_out": lse}, "lse_out (2, 4, 1) lies in the memory of out or an input."),
        ({"workspace": read}, f"workspace {shape} lies in the memory of an input or an output."),
    ):
        with pytest.raises(InputError) as caught:
            plan.decode(q, cache, causal=True, sinks=sinks[:4], **options)
        assert caught.value.sentence == sentence
    lengths = torch.full((128,), 70, dtype=torch.int32)
    cache.lengths, out = lengths[:2], lengths.view(torch.float32).view(2, 4, 1, 16)
    with pytest.raises(InputError, match=r"^out \(2, 4, 1, 16\) lies in the memory of an input\."):
        plan.decode(q, cache, causal=True, out=out)


@pytest.mark.parametrize("name", ["q", "k", "v", "sinks"])
def test_a_gradient_that_will_be_asked_for_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan("fp16x3", monkeypatch)
    cache = _cache(plan)
    given = {"k": _drawn(4, KV_HEADS), "v": _drawn(4, KV_HEADS), "q": _drawn(1, HEADS),
             "sinks": torch.zeros(HEADS)}  # fmt: skip
    learned = given[name].requires_grad_()

    def call() -> Tensor:
        cache.append(given["k"], given["v"])
        out = plan.decode(given["q"], cache, causal=True, sinks=given["sinks"])
        assert isinstance(out, Tensor)
        return out

    with pytest.raises(UnsupportedError) as caught:
        call()
    assert str(caught.value) == (
        f"{name} {tuple(learned.shape)} requires a gradient, and no kernel here computes one. "
        "Try: torch.no_grad(), or .detach()"
    )
    assert cache.lengths.tolist() == ([0, 0] if name in "kv" else [4, 4])
    with torch.no_grad():
        assert not call().requires_grad


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda cache: cache.page_table[1, 2].fill_(977),
         "request 1 has page 977 at place 2, and the cache has the pages 0 to 11."),
        (lambda cache: cache.page_table[0, 0].fill_(-1),
         "request 0 has page -1 at place 0, and the cache has the pages 0 to 11."),
        (lambda cache: cache.lengths[1].fill_(-3),
         "request 1 has a length of -3, outside of 0 to 40."),
        (lambda cache: cache.lengths[0].fill_(41),
         "request 0 has a length of 41, outside of 0 to 40."),
        (lambda cache: cache.page_table[1, 5].fill_(977), ""),  # beyond its length
    ],
)  # fmt: skip
def test_checked_mode_names_the_request(
    damage: Any, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan("fp16x3", monkeypatch)
    cache = _cache(plan, page_size=16)
    k, q = _drawn(40, KV_HEADS), _drawn(1, HEADS)
    monkeypatch.setenv("AUTOPREC_CHECK", "1")
    cache.append(k, k)
    damage(cache)
    if not sentence:
        plan.decode(q, cache, causal=True)
        return
    with pytest.raises(InputError) as caught:
        plan.decode(q, cache, causal=True)
    assert caught.value.sentence == sentence


def test_memory_that_was_outgrown_stays_for_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan("fp16x3", monkeypatch)
    cache = _cache(plan)
    cache.append(_drawn(20, KV_HEADS, 1), _drawn(20, KV_HEADS, 2))
    plan.decode(_drawn(1, HEADS), cache, causal=True)
    assert cache.workspace is not None
    size, first = cache.workspace.numel(), weakref.ref(cache.workspace)
    assert size == BATCH * HEADS * 2 * (DIM + 2)  # of two splits of the capacity
    plan.decode(_drawn(3, HEADS), cache, causal=True)
    assert cache.workspace.numel() == 3 * size
    assert first() is not None
    plan.decode(_drawn(4, HEADS), cache, causal=True)
    assert cache.workspace.numel() == 6 * size  # twice the one before


def test_what_a_workspace_is_known_to_suffice_for_is_not_kept_for_every_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = _plan("fp16x3", monkeypatch)
    monkeypatch.setattr(cached_resolve, "_MAX_DECIDED", 4)
    monkeypatch.setattr(cached, "_MAX_SIZED", 2)
    cache, q = _cache(plan), _drawn(1, HEADS)
    cache.append(_drawn(20, KV_HEADS, 1), _drawn(20, KV_HEADS, 2))
    first = weakref.ref(plan.runner.cached.decision(Request(True), q, cache))
    for window in (None, *range(1, 11)):
        plan.decode(q, cache, causal=True, window=window)
    assert len(cache.sized) == 1  # whatever is seen
    gc.collect()
    assert first() is None  # what was forgotten goes
    for heads in (2 * HEADS, 3 * HEADS, 4 * HEADS):
        plan.decode(_drawn(1, heads), cache, causal=True)
        assert cache.workspace is not None
        assert cache.workspace.numel() >= BATCH * heads * 2 * (DIM + 2)
        assert len(cache.sized) <= 2


@pytest.mark.parametrize("q_len", [1, 20])
def test_consistent_is_the_same_alone_and_in_a_batch(
    q_len: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(_plan("fp16x3", monkeypatch).profile, torch.device("cpu"), consistent=True)
    assert plan.consistent
    k, v, q = _drawn(70, KV_HEADS, 1), _drawn(70, KV_HEADS, 2), _drawn(q_len, HEADS, 3)
    whole, alone = _cache(plan, page_size=16), _cache(plan, batch=1, page_size=16, capacity=33)
    whole.append(k, v)
    whole.set_lengths([70, 30])
    alone.append(k[1:, :, :30], v[1:, :, :30])
    together = plan.attention(q, whole, causal=True)
    assert torch.equal(together[1:], plan.attention(q[1:], alone, causal=True))
    tensors = plan.attention(q, k, v, causal=True)
    assert torch.equal(tensors[1:], plan.attention(q[1:], k[1:], v[1:], causal=True))


def _measured(monkeypatch: pytest.MonkeyPatch, budget: str) -> Plan:
    """A plan whose profile has both planes and one measured, with both phases fastest on one."""
    plan = _plan("fp16x3", monkeypatch)
    rows = []
    for row in plan._decider.profile.measurements:
        given = {"workload": row.workload, "config": row.config}
        rows.append(row)
        rows.append(made_up.measurement("fp16", 0.9, 4e-4, **given))
        for path, ms, error in (("fp16x3", 0.8, 4e-7), ("fp16", 0.4, 4e-4)):
            rows.append(
                made_up.measurement(
                    path, ms, error, storage=Storage.PLANES, conversion=Conversion.AMORTISED,
                    **given,
                )
            )  # fmt: skip
    return Plan(cpu_profile(rows, budget=budget), torch.device("cpu"))


@pytest.mark.parametrize(("budget", "path"), [("1e-3", "fp16"), ("1e-5", "fp16x3")])
def test_a_cache_is_in_the_form_that_measured_fastest(
    budget: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _measured(monkeypatch, budget)
    cache = _cache(plan)
    ms = {"fp16": "0.4", "fp16x3": "0.8"}[path]
    assert cache.storage is Storage.PLANES
    assert cache.reason == (
        f"each phase was fastest on it: fp16x2 for prefill ({path}, {ms} ms), "
        f"fp16x2 for decode ({path}, {ms} ms)"
    )
    cache.append(_drawn(20, KV_HEADS, 1), _drawn(20, KV_HEADS, 2))
    plan.decode(_drawn(1, HEADS), cache, causal=True)  # reads what the budget needs, and no more
    assert plan.stats()["calls"] == {path: 1}
    plan.decode(_drawn(1, HEADS), cache, causal=True, accuracy="full")
    assert plan.stats()["calls"]["fp16x3"] == 1 + (path == "fp16x3")
