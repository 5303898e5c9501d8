"""Caches of a plan: their form, what comes in, and attention of every phase on them."""

from importlib.util import find_spec

import made_up
import pytest
import torch
from exact import naive
from interpreted import plan_of
from plan_caches import DIM, HEADS, KV_HEADS, cache_of, drawn, rel_l2
from torch import Tensor

from autoprec.kernels.reference import attention
from autoprec.plan.plan import Plan
from autoprec.types import Storage

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")


@pytest.mark.parametrize("page_size", [None, 16])
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_one_cache_serves_every_phase(
    page_size: int | None, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    cache = cache_of(plan, page_size=page_size)
    assert cache.storage is Storage.PLANES

    def swapped(x: Tensor) -> Tensor:
        return x.transpose(1, 2) if layout == "bshd" else x

    k, v, q = drawn(62, KV_HEADS, 1), drawn(62, KV_HEADS, 2), drawn(62, HEADS, 3)
    for method, first, last in (
        (plan.prefill, 0, 40), (plan.append, 40, 60), (plan.decode, 60, 61), (plan.decode, 61, 62),
    ):  # fmt: skip
        cache.append(*(swapped(x[:, :, first:last]) for x in (k, v)), layout=layout)
        out, lse = method(
            swapped(q[:, :, first:last]), cache, causal=True, return_lse=True, layout=layout
        )
        want, want_lse = naive(q[:, :, first:last], k[:, :, :last], v[:, :, :last], causal=True)
        assert rel_l2(swapped(out), want) < 2e-6
        assert (lse - want_lse).abs().max() < 1e-5
    assert cache.lengths.tolist() == [62, 62]
    assert plan.stats() == {"calls": {"fp16x3": 4}, "range": 0, "fell": {}, "drift": {}}


@pytest.mark.parametrize("page_size", [None, 16])
@pytest.mark.parametrize("path", ["fp32", "fp16x3"])
def test_a_cache_made_in_inference_mode_serves_outside_of_it(
    path: str, page_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(path, monkeypatch)
    k, v, q = drawn(20, KV_HEADS, 1), drawn(20, KV_HEADS, 2), drawn(1, HEADS, 3)
    with torch.inference_mode():
        cache = cache_of(plan, page_size=page_size)
        cache.append(k[:, :, :19], v[:, :, :19])
        plan.decode(q, cache, causal=True)
    cache.append(k[:, :, 19:], v[:, :, 19:])
    got = plan.decode(q, cache, causal=True)
    assert isinstance(got, Tensor)
    assert rel_l2(got, naive(q, k, v, causal=True)[0]) < 2e-6
    cache.set_lengths([0, 5])
    kept = (cache.k, cache.v, cache.lengths, cache.page_table, cache.workspace)
    assert not any(x.is_inference() for x in kept if x is not None)


def test_accuracy_says_how_many_planes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    cache = cache_of(plan, page_size=16)
    k, v, q = drawn(70, KV_HEADS, 1), drawn(70, KV_HEADS, 2), drawn(1, HEADS, 3)
    cache.append(k, v)
    want, _ = naive(q, k, v, causal=True)
    full = rel_l2(plan.decode(q, cache, causal=True, accuracy="full"), want)
    high = rel_l2(plan.decode(q, cache, causal=True, accuracy="hi"), want)
    assert full < 1e-6 < 1e-4 < high < 1e-3
    assert plan.stats()["calls"] == {"fp16x3": 1, "fp16": 1}
    told = plan.explain(q, cache, phase="decode", accuracy="hi")
    assert told.splitlines()[-1] == (
        "cache: fp16x2; each phase would take it alone: fp16x2 for prefill (fp16x3), "
        "fp16x2 for decode (fp16x3)"
    )


def test_lengths_and_pages_may_change_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    table = torch.tensor([[5, 1, 4], [0, 6, 2]], dtype=torch.int32)
    cache = cache_of(plan, capacity=40, page_size=16, pages=7, page_table=table)
    k, v, q = drawn(40, KV_HEADS, 1), drawn(40, KV_HEADS, 2), drawn(1, HEADS, 3)
    cache.append(k, v)
    cache.set_lengths([17, 0])
    out, lse = plan.decode(q, cache, causal=True, return_lse=True)
    want, _ = naive(q[:1], k[:1, :, :17], v[:1, :, :17], causal=True)
    assert rel_l2(out[:1], want) < 1e-6
    assert (out[1] == 0).all()
    assert (lse[1] == -torch.inf).all()
    table.copy_(table.flip(0))
    cache.set_lengths(torch.tensor([40, 33], dtype=torch.int32))
    out = plan.decode(q.flip(0), cache, causal=True)
    assert rel_l2(out[0], naive(q[1:], k[1:], v[1:], causal=True)[0][0]) < 1e-6
    want, _ = naive(q[:1], k[:1, :, :33], v[:1, :, :33], causal=True)
    assert rel_l2(out[1], want[0]) < 1e-6
    cache.set_lengths(torch.tensor([3, 2], dtype=torch.int32))  # the host does not know them
    cache.append(k[:, :, :1], v[:, :, :1])
    assert cache.lengths.tolist() == [4, 3]


def test_a_cache_without_tokens_gives_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    cache = cache_of(plan)
    cache.set_lengths([0, 0])
    assert cache.requests(3).max_kv_len == 1  # kernels divide by it
    for act, q_len in ((plan.decode, 1), (plan.append, 3)):
        out = act(drawn(q_len, HEADS, 1), cache, causal=True)
        assert (out == 0).all()


def test_new_tokens_may_be_as_many_as_each_request_has(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    cache = cache_of(plan)
    k, v, q = drawn(20, KV_HEADS, 1), drawn(20, KV_HEADS, 2), drawn(1, HEADS, 3)
    starts = torch.tensor([0, 20, 23], dtype=torch.int32)
    packed = (torch.cat([x[:1], x[1:, :, :3]], 2) for x in (k, v))
    cache.append(*packed, starts=starts, longest=20)
    assert cache.lengths.tolist() == [20, 3]
    out = plan.decode(q, cache, causal=True)
    for request, length in enumerate((20, 3)):
        x = slice(request, request + 1)
        want, _ = naive(q[x], k[x, :, :length], v[x, :, :length], causal=True)
        assert rel_l2(out[x], want) < 1e-6


def test_a_window_a_cap_and_sinks_reach_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = made_up.workload
    monkeypatch.setattr(
        made_up, "workload", lambda **sizes: workload(**sizes, window=8, soft_cap=2.0)
    )
    plan = plan_of("fp16x3", monkeypatch)
    cache = cache_of(plan, storage="fp32")
    k, v, q = drawn(70, KV_HEADS, 1), drawn(70, KV_HEADS, 2), drawn(3, HEADS, 3)
    cache.append(k, v)
    sinks = torch.linspace(-1, 1, HEADS)
    out = plan.decode(q, cache, causal=True, window=8, soft_cap=2.0, sinks=sinks)
    want, _ = attention(
        q, k, v, diagonal=67, sm_scale=DIM**-0.5, window_left=7, soft_cap=2.0, sinks=sinks
    )
    assert rel_l2(out, want) < 2e-6


@pytest.mark.parametrize("q_len", [1, 20])
def test_consistent_is_the_same_alone_and_in_a_batch(
    q_len: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(plan_of("fp16x3", monkeypatch).profile, torch.device("cpu"), consistent=True)
    assert plan.consistent
    k, v, q = drawn(70, KV_HEADS, 1), drawn(70, KV_HEADS, 2), drawn(q_len, HEADS, 3)
    whole, alone = cache_of(plan, page_size=16), cache_of(plan, batch=1, page_size=16, capacity=33)
    whole.append(k, v)
    whole.set_lengths([70, 30])
    alone.append(k[1:, :, :30], v[1:, :, :30])
    together = plan.attention(q, whole, causal=True)
    assert torch.equal(together[1:], plan.attention(q[1:], alone, causal=True))
    tensors = plan.attention(q, k, v, causal=True)
    assert torch.equal(tensors[1:], plan.attention(q[1:], k[1:], v[1:], causal=True))
