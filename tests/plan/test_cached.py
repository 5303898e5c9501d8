"""Calls on a cache: what is refused, and the memory they take."""

import gc
import weakref
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from interpreted import CONFIGS, plan_of
from plan_caches import BATCH, DIM, HEADS, KV_HEADS, cache_of, drawn
from torch import Tensor

from autoprec.errors import InputError, UnsupportedError
from autoprec.plan import cached, cached_resolve
from autoprec.plan.kv_cache import KVCache
from autoprec.plan.request import Request
from autoprec.types import Phase

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    cache = cache_of(plan)
    k, q = drawn(4, KV_HEADS), drawn(1, HEADS)
    wrong: list[tuple[Any, str]] = [
        (lambda: cache.append(k[:1], k[:1]), "k (1, 2, 4, 16) must be (2, 2, 4, 16) as bhsd."),
        (lambda: cache.append(drawn(91, KV_HEADS), drawn(91, KV_HEADS)),
         "91 tokens are to come, 0 are there, and there is room for 90."),
        (lambda: cache.set_lengths([1]), "lengths are 1, and there are 2 requests."),
        (lambda: cache.set_lengths([1, 91]), "request 1 has a length of 91, outside of 0 to 90."),
        (lambda: plan.decode(q[:1], cache, causal=True),
         "q has 1 requests of head dim 16, the cache 2 of 16."),
        (lambda: plan.decode(q, cache, k, causal=True),
         "v is given, but the KVCache in place of k has its own values."),
        (lambda: plan.decode(q, cache, causal=True, accuracy="low"),
         "accuracy must be full or hi, got 'low'."),
        (lambda: cache_of(plan, batch=0), "batch must be at least 1, got 0."),
        (lambda: cache_of(plan, pages=3), "pages are given without their size."),
        (lambda: cache_of(plan, page_size=16, pages=3),
         "2 requests of 90 tokens need 12 pages, there are 3."),
        (lambda: cache_of(plan, storage="fp8"),
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
    plan = plan_of("fp16x3", monkeypatch)
    table, sinks, q = torch.zeros(640, dtype=torch.int32), torch.zeros(640), drawn(1, HEADS)
    cache = cache_of(plan, page_size=16, page_table=table[:12].view(2, 6), pages=12)
    cache.append(drawn(70, KV_HEADS), drawn(70, KV_HEADS))  # two splits, which take a workspace
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


@pytest.mark.parametrize("storage", ["fp32", "bf16", "fp16x2"])
@pytest.mark.parametrize("page_size", [None, 16])
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_a_cache_takes_no_part_of_itself(
    layout: str, page_size: int | None, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(plan_of("fp16x3", monkeypatch), page_size=page_size, storage=storage)
    cache.append(drawn(9, KV_HEADS, 1), drawn(9, KV_HEADS, 2))
    held = [x.clone() for x in cache.tensors]
    new = drawn(4, KV_HEADS).to(cache.k.dtype)
    views = [cache.k[:BATCH, :, 3:7], cache.v[-BATCH:, :, :4]]
    if cache.halves is not None:
        low, inverse = cache.halves.v[1], cache.halves.inverse
        views += [low[:BATCH, :, 3:7], inverse.flatten()[:256].view(BATCH, KV_HEADS, 4, DIM)]
    for view in views:
        k, given, other = (
            x.transpose(1, 2) if layout == "bshd" else x for x in (view, view, new.to(view.dtype))
        )
        for name, pair in (("k", (k, other)), ("v", (other, given))):
            with pytest.raises(InputError) as caught:
                cache.append(*pair, layout=layout)
            assert str(caught.value) == (
                f"{name} {tuple(given.shape)} lies in the memory of the cache, which is written. "
                f"Try: {name}.clone()"
            )
    for x, before in zip(cache.tensors, held, strict=True):
        assert torch.equal(x.nan_to_num(), before.nan_to_num())
    assert cache.bound == 9
    cache.append(views[0].clone(), views[1].clone())
    assert cache.lengths.tolist() == [13, 13]


def test_starts_are_not_the_lengths_that_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_of(plan_of("fp16x3", monkeypatch))
    starts = torch.tensor([0, 2, 5], dtype=torch.int32)
    cache.lengths = starts[1:]
    packed = drawn(5, KV_HEADS)[:1]
    with pytest.raises(InputError) as caught:
        cache.append(packed, packed, starts=starts, longest=3)
    assert str(caught.value) == (
        "starts (3,) lies in the memory of the cache, which is written. Try: starts.clone()"
    )
    assert starts.tolist() == [0, 2, 5]


@pytest.mark.parametrize("page_size", [None, 16])
def test_new_tokens_may_lie_beside_each_other_and_be_none(
    page_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(plan_of("fp16x3", monkeypatch), page_size=page_size)
    both = torch.stack((drawn(4, KV_HEADS, 1), drawn(4, KV_HEADS, 2)), -2)
    cache.append(both[..., 0, :], both[..., 1, :])
    cache.append(cache.k[:BATCH, :, :0], cache.v[:BATCH, :, :0])
    assert cache.lengths.tolist() == [4, 4]


@pytest.mark.parametrize("name", ["q", "k", "v", "sinks"])
def test_a_gradient_that_will_be_asked_for_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    cache = cache_of(plan)
    given = {"k": drawn(4, KV_HEADS), "v": drawn(4, KV_HEADS), "q": drawn(1, HEADS),
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
    plan = plan_of("fp16x3", monkeypatch)
    cache = cache_of(plan, page_size=16)
    k, q = drawn(40, KV_HEADS), drawn(1, HEADS)
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
    plan = plan_of("fp16x3", monkeypatch)
    cache = cache_of(plan)
    cache.append(drawn(20, KV_HEADS, 1), drawn(20, KV_HEADS, 2))
    plan.decode(drawn(1, HEADS), cache, causal=True)
    assert cache.workspace is not None
    size, first = cache.workspace.numel(), weakref.ref(cache.workspace)
    assert size == BATCH * HEADS * 2 * (DIM + 2)  # of two splits of the capacity
    plan.decode(drawn(3, HEADS), cache, causal=True)
    assert cache.workspace.numel() == 3 * size
    assert first() is not None
    plan.decode(drawn(4, HEADS), cache, causal=True)
    assert cache.workspace.numel() == 6 * size  # twice the one before


def test_what_a_workspace_is_known_to_suffice_for_is_not_kept_for_every_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of("fp16x3", monkeypatch)
    monkeypatch.setattr(cached_resolve, "_MAX_DECIDED", 4)
    monkeypatch.setattr(cached, "_MAX_SIZED", 2)
    cache, q = cache_of(plan), drawn(1, HEADS)
    cache.append(drawn(20, KV_HEADS, 1), drawn(20, KV_HEADS, 2))
    first = weakref.ref(plan.runner.cached.decision(Request(True), q, cache))
    for window in (None, *range(1, 11)):
        plan.decode(q, cache, causal=True, window=window)
    assert len(cache.sized) == 1  # whatever is seen
    gc.collect()
    assert first() is None  # what was forgotten goes
    for heads in (2 * HEADS, 3 * HEADS, 4 * HEADS):
        plan.decode(drawn(1, heads), cache, causal=True)
        assert cache.workspace is not None
        assert cache.workspace.numel() >= BATCH * heads * 2 * (DIM + 2)
        assert len(cache.sized) <= 2


@pytest.mark.parametrize("window", [90, 91, 10**9])
def test_a_window_that_reaches_over_all_keys_is_none(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("fp32", monkeypatch)
    cache = cache_of(plan)
    cache.append(drawn(20, KV_HEADS, 1), drawn(20, KV_HEADS, 2))
    q = drawn(1, HEADS)
    with_it = plan.decode(q, cache, causal=True, window=window)
    assert torch.equal(with_it, plan.decode(q, cache, causal=True))
    narrow = plan.decode(q, cache, causal=True, window=4)
    assert not torch.equal(narrow, with_it)


def test_what_is_a_window_to_one_cache_is_none_to_a_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of("fp32", monkeypatch)
    small, large = cache_of(plan, capacity=24), cache_of(plan, capacity=96)
    q = drawn(1, HEADS)

    def plain(cache: KVCache) -> torch.Tensor:
        return plan.decode(q, cache, causal=True)

    for cache in (small, large):
        cache.append(drawn(24, KV_HEADS, 1), drawn(24, KV_HEADS, 2))
    assert torch.equal(plan.decode(q, small, window=30, causal=True), plain(small))
    large.append(drawn(8, KV_HEADS, 3), drawn(8, KV_HEADS, 4))
    assert not torch.equal(plan.decode(q, large, window=30, causal=True), plain(large))


def test_splits_grow_with_the_keys_that_the_host_knows_of(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("fp32", monkeypatch)
    cache = cache_of(plan, capacity=1 << 14)
    q = drawn(1, HEADS)

    def split() -> Any:
        return plan.runner.cached.decision(Request(True), q, cache).config["split"]

    cache.set_lengths([1 << 14] * BATCH)
    measured = CONFIGS[Phase.DECODE]["split"]
    assert split() > measured
    cache.set_lengths(torch.full((BATCH,), 100, dtype=torch.int32))  # as far as the host knows
    assert split() == measured
    cache.set_lengths([1 << 14] * BATCH)
    assert split() > measured
