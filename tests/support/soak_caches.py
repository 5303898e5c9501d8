"""Calls on caches: of two planes, of pages, and FlashInfer's on pages of the caller.

A cache is filled, read and emptied when it is full. The token of a place is always the same, so
that what a cache should hold is known.
"""

import random
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from soak_plain import NEW, USUAL, Plain, Result
from torch import Tensor

from autoprec import flashinfer
from autoprec.kernels.interface import Call, Halves, Requests
from autoprec.kernels.reference import singles
from autoprec.plan.kv_cache import KVCache
from autoprec.types import Dtype, Storage


class Filled:
    """A cache whose calls take turns, so that a round of them is like any other."""

    dtype: Dtype
    plan: int  # whose it is
    turns: tuple[tuple[str, int, str | None], ...]  # the method, its queries, and the accuracy

    def __init__(self, plain: Plain, cache: KVCache) -> None:
        """Start empty."""
        self.plain, self.cache, self.tokens, self._turn = plain, cache, 0, 0
        self._usual = [None, *(self._window() for _ in range(USUAL))]

    def step(self) -> Result:
        """The next tokens, and their queries."""
        method, count, accuracy = self.turns[self._turn % len(self.turns)]
        self._turn += 1
        if self.tokens + count > self.cache.capacity:
            self.cache.set_lengths([0] * self.cache.batch)
            self.tokens = self._turn = 0
            return self.step()
        first, last = self.tokens, self.tokens + count
        q, k, v = (x[self.dtype][:, :, first:last] for x in self._numbers)
        self.cache.append(k, v)
        self.tokens = last
        plan, draw = self.plain.plans[self.plan], self.plain.draw
        window = self._window() if draw.random() < NEW else draw.choice(self._usual)
        asked = {"causal": True, "window": window, "accuracy": accuracy}
        out = getattr(plan, method)(q, self.cache, **asked)
        call = Call(
            q=q, k=self.cache.k, v=self.cache.v, out=out, lse=None, diagonal=0,
            window_left=None if window is None else window - 1,
            sm_scale=self.plain.size.dim**-0.5, requests=self.cache.requests(count),
            halves=self.cache.halves,
        )  # fmt: skip
        kernel = self.plain.decode if method == "decode" else self.plain.prompts[self.plan]
        name = f"{method} {accuracy or ''} on {type(self).__name__}"
        return Result(call, kernel, self._path(accuracy), name, self.plan, calls=2)

    def warm(self) -> None:
        """A whole round, and the first calls of the next."""
        before = -1
        while before < self.tokens:
            before = self.tokens
            self.step()

    def settle(self) -> None:
        """Nothing: what it holds is of one size."""

    def check(self) -> None:
        """Compare what the cache holds with the tokens that came in.

        Raises:
            AssertionError: It is something else.
        """
        assert self.cache.lengths.tolist() == [self.tokens] * self.cache.batch
        _, k, v = (x[self.dtype][:, :, : self.tokens] for x in self._numbers)
        call = Call(
            q=k, k=self.cache.k, v=self.cache.v, out=k, lse=None, diagonal=0, sm_scale=1.0,
            requests=self.cache.requests(self.tokens), halves=self.cache.halves,
        )  # fmt: skip
        call, k, v = on_host(call), k.cpu(), v.cpu()
        for request, single in enumerate(singles(call)):
            for x, got in zip((k, v), _held(single), strict=True):
                want = x[request].double()
                # half a unit in the 22nd bit of an element, or of the largest of its token
                off = 2.0**-23 * want.abs() + 2.0**-39 * want.abs().amax(-1, True)
                assert ((got - want).abs() <= off).all(), "a cache holds what did not come in"

    def _window(self) -> int:
        return self.plain.draw.randint(1, self.cache.capacity)

    @property
    def _numbers(self) -> tuple[dict[Dtype, Tensor], ...]:
        return self.plain.q, self.plain.k, self.plain.v

    def _path(self, accuracy: str | None) -> str:
        return {None: "bf16", "hi": "fp16", "full": "fp16x3"}[accuracy]


class Planes(Filled):
    """A cache of fp32 keys and values in two planes."""

    dtype, plan = Dtype.FP32, 0
    turns = (
        ("decode", 3, "hi"), ("decode", 1, "full"), ("append", 18, "full"), ("decode", 1, "hi"),
    )  # fmt: skip

    def __init__(self, plain: Plain) -> None:
        """Room for as many tokens as a decode has."""
        size = plain.size
        cache = plain.plans[self.plan].new_kv_cache(
            batch=size.batch, capacity=size.tokens, q_heads=size.heads[0],
            kv_heads=size.heads[1], head_dim=size.dim, dtype="fp32",
        )  # fmt: skip
        assert cache.storage is Storage.PLANES
        super().__init__(plain, cache)


class Pages(Filled):
    """A cache of bf16 keys and values in pages, which lie anyhow."""

    dtype, plan = Dtype.BF16, 1
    turns = (("decode", 1, None), ("append", 18, None), ("decode", 5, None))

    def __init__(self, plain: Plain) -> None:
        """Room for half as many tokens as a decode has."""
        size = plain.size
        pages = size.tokens // 2 // size.page_size
        order = torch.randperm(size.batch * pages, generator=torch.Generator().manual_seed(0))
        table = order.view(size.batch, pages).to(size.device, torch.int32)
        cache = plain.plans[self.plan].new_kv_cache(
            batch=size.batch, capacity=pages * size.page_size, q_heads=size.heads[0],
            kv_heads=size.heads[1], head_dim=size.dim, dtype="bf16", page_size=size.page_size,
            page_table=table,
        )  # fmt: skip
        super().__init__(plain, cache)


class Wrapped:
    """FlashInfer's wrapper for decoding: other lengths and pages every few runs."""

    runs = 20  # of a plan

    def __init__(self, plain: Plain, draw: random.Random) -> None:
        """As many pages as requests of all lengths need, full of numbers."""
        size = self.size = plain.size
        self.plain, self.draw, self._left = plain, draw, 0
        self.pages = size.batch * (size.tokens // size.page_size)
        page = (self.pages, size.page_size, size.heads[1], size.dim)
        self.cache = tuple(
            x[Dtype.BF16].transpose(1, 2).reshape(page) for x in (plain.k, plain.v)
        )  # fmt: skip
        room = torch.empty(1 << 24, dtype=torch.uint8, device=size.device)
        self.wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(room, precision=plain.plans[0])
        self.requests: Requests | None = None

    def step(self) -> Result:
        """A run, and a plan where there was none for long."""
        calls = 1
        if not self._left:
            most = self.size.tokens
            self._plan([self.draw.randint(0, most) for _ in range(self.size.batch)])
            self._left, calls = self.runs, 2
        self._left -= 1
        first = self.draw.randrange(self.size.tokens)
        q = self.plain.q[Dtype.BF16][:, :, first]
        out, lse = self.wrapper.run(q, self.cache, return_lse=True)
        call = Call(
            q=q[:, :, None], k=self.cache[0].transpose(1, 2), v=self.cache[1].transpose(1, 2),
            out=out[:, :, None], lse=lse[..., None], diagonal=0, sm_scale=self.size.dim**-0.5,
            requests=self.requests,
        )  # fmt: skip
        return Result(call, self.plain.decode, "bf16", "FlashInfer's decode", calls=calls)

    def warm(self) -> None:
        """Once of all lengths, once of the longest."""
        self.step()
        self.settle()
        self.step()

    def settle(self) -> None:
        """Hold the longest table there is."""
        self._plan([self.size.tokens] * self.size.batch)
        self._left = self.runs

    def check(self) -> None:
        """Nothing: what it reads is the caller's."""

    def _plan(self, kv_lens: list[int]) -> None:
        size, heads = self.size, self.size.heads
        counts = [-(-length // size.page_size) for length in kv_lens]
        starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
        pages = self.draw.sample(range(self.pages), starts[-1])
        last = [n - size.page_size * max(0, c - 1) for n, c in zip(kv_lens, counts, strict=True)]
        lens, indptr, indices, last_page = (
            torch.tensor(x, dtype=torch.int32) for x in (kv_lens, starts, pages, last)
        )
        self.wrapper.plan(indptr, indices, last_page, *heads, size.dim, size.page_size,
                          q_data_type=torch.bfloat16)  # fmt: skip
        self.requests = Requests(
            kv_lens=lens, kv_starts=indptr, pages=indices, max_q_len=1,
            max_kv_len=max(1, *kv_lens),
        )  # fmt: skip


def _held(single: Call) -> tuple[Tensor, Tensor]:
    """Keys and values of a request of a cache, in fp64, ``[heads, tokens, dim]``."""
    halves: Halves | None = single.halves
    if halves is None:
        return single.k[0].double(), single.v[0].double()
    k, v = (
        x.double().sum(0)[0] * inverse[0].double()[..., None]
        for x, inverse in zip((halves.k, halves.v), halves.inverse, strict=True)
    )
    return k, v


def on_host(it: Any) -> Any:
    """The same with all its tensors on the host."""
    if isinstance(it, Tensor):
        return it.cpu()
    if not is_dataclass(it) or isinstance(it, type):
        return it
    return replace(it, **{each.name: on_host(getattr(it, each.name)) for each in fields(it)})
