"""Calls of a plan on plain tensors, of every kind, lengths and batch at random."""

import itertools
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autoprec import registry
from autoprec.kernels.interface import TORCH_DTYPES, Call, Kernel
from autoprec.plan.decision import phase_of
from autoprec.plan.plan import Plan
from autoprec.plan.run import Runner
from autoprec.types import Dtype, Phase

PATHS = {Dtype.FP32: "fp16x3", Dtype.BF16: "bf16", Dtype.FP16: "fp16"}
"""What the plans choose."""

SAFE = {Dtype.FP32: "bf16x3", Dtype.FP16: "fp32"}
"""What they fall to under the guard ``always``."""

NEW = 0.1
"""Of calls are of a shape of their own; others are of one of USUAL."""

USUAL = 8


@dataclass(frozen=True)
class Size:
    """How large calls are.

    Attributes:
        tokens: Keys of a decode, at most; a prompt has a quarter.
        heads: Of queries, and of keys and values.
    """

    device: str
    batch: int
    tokens: int
    heads: tuple[int, int]
    dim: int
    page_size: int


ON_A_CPU = Size("cpu", batch=2, tokens=40, heads=(2, 1), dim=16, page_size=4)
ON_A_GPU = Size("cuda", batch=4, tokens=2048, heads=(8, 2), dim=64, page_size=16)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of call; lengths, batch and stream are drawn for each."""

    method: str
    dtype: Dtype
    plan: int = 0
    layout: str = "bhsd"
    guard: str = "off"
    causal: bool = True
    given: bool = False  # out and lse_out are
    window: bool = False
    sinks: bool = False
    wide: bool = False  # out in fp32
    prepared: bool = False
    queries: int = 1  # of a decode

    def __str__(self) -> str:
        """Such as ``decode fp32 given``."""
        flags = (name for name in ("given", "window", "prepared") if getattr(self, name))
        guard = () if self.guard == "off" else (f"guard {self.guard}",)
        return " ".join((self.method, self.dtype, *flags, *guard))


KINDS = (
    Kind(method="decode", dtype=Dtype.FP32, given=True, queries=4),
    Kind(method="decode", dtype=Dtype.BF16, layout="bshd"),
    Kind(method="decode", dtype=Dtype.FP16, guard="always", queries=3),
    Kind(method="decode", dtype=Dtype.FP32, plan=1, guard="always"),
    Kind(method="decode", dtype=Dtype.FP32, window=True, sinks=True),
    Kind(method="decode", dtype=Dtype.BF16, plan=1, guard="sample", given=True),
    Kind(method="prefill", dtype=Dtype.FP32, layout="bshd"),
    Kind(method="prefill", dtype=Dtype.FP32, plan=1, guard="always"),
    Kind(method="prefill", dtype=Dtype.BF16, causal=False, given=True),
    Kind(method="append", dtype=Dtype.BF16, plan=1, guard="sample"),
    Kind(method="append", dtype=Dtype.FP16, wide=True),
    Kind(method="append", dtype=Dtype.FP32, plan=1, prepared=True),
    Kind(method="attention", dtype=Dtype.FP16, layout="bshd", guard="sample", given=True),
)


@dataclass(frozen=True)
class Result:
    """A call as kernels would be handed it, what ran it by which path, and how many calls it took.

    Attributes:
        kind: What is called alike.
        plan: Which of the two it was of.
    """

    call: Call
    kernel: Kernel
    path: str
    kind: str
    plan: int = 0
    calls: int = 1


@dataclass(frozen=True)
class Stream:
    """Where calls are queued, and memory that those which are given some write to there."""

    entered: Callable[[], AbstractContextManager[Any]]
    outs: dict[Dtype, Tensor]
    lse: Tensor


class Plain:
    """Two plans, and what their calls read and write."""

    def __init__(
        self, plans: tuple[Plan, Plan], prompts: tuple[str, str], size: Size, draw: random.Random
    ) -> None:
        """Draw queries, keys and values.

        Args:
            plans: Which choose PATHS and SAFE, by triton-decode and the kernels of prompts.
            prompts: These, by name.
            size: Of the calls.
            draw: Of all but numbers.
        """
        self.plans, self.size, self.draw = plans, size, draw
        self.prompts = tuple(registry.kernel(name) for name in prompts)
        self.decode = registry.kernel("triton-decode")
        generator = torch.Generator(size.device).manual_seed(0)

        def drawn(heads: int, dtype: Dtype) -> Tensor:
            shape = (size.batch, heads, size.tokens, size.dim)
            x = torch.randn(shape, generator=generator, device=size.device)
            return x.to(TORCH_DTYPES[dtype])

        heads, kv_heads = size.heads
        self.q, self.k, self.v = (
            {dtype: drawn(n, dtype) for dtype in Dtype} for n in (heads, kv_heads, kv_heads)
        )
        self._usual = [self._new() for _ in range(USUAL)]
        self.sinks = torch.linspace(-2, 2, heads, device=size.device)
        self.streams = [self._stream(nullcontext)]
        if size.device == "cuda":
            second = torch.cuda.Stream()
            self.streams.append(self._stream(lambda: torch.cuda.stream(second)))
            torch.cuda.synchronize()  # what was drawn is there for both

    def _stream(self, entered: Callable[[], AbstractContextManager[Any]]) -> Stream:
        outs = {dtype: torch.zeros_like(q) for dtype, q in self.q.items()}
        return Stream(entered, outs, outs[Dtype.FP32][..., 0].clone())

    def step(self) -> Result:
        """A call of any kind."""
        sizes = self._new() if self.draw.random() < NEW else self.draw.choice(self._usual)
        return self._call(self.draw.choice(KINDS), self.draw.choice(self.streams), *sizes)

    def warm(self) -> None:
        """Every kind on every stream, long and short, and more shapes than plans remember."""
        lengths = [1 << bits for bits in range(self.size.tokens.bit_length())]
        for stream, kind in itertools.product(self.streams, KINDS):
            for kv_len in sorted({*lengths, self.size.tokens}, reverse=True):
                self._call(kind, stream, self.size.batch, kv_len)
        for which in range(len(self.plans)):
            kind = next(it for it in KINDS if it.method == "decode" and it.plan == which)
            self._fill(kind, self.plans[which].runner)

    def _fill(self, kind: Kind, runner: Runner) -> None:
        """Call until all shapes that a plan remembers are forgotten."""
        for number in itertools.count():
            before = len(runner._resolved)
            batch, kv_len = 1 + number // self.size.tokens, 1 + number % self.size.tokens
            self._call(kind, self.streams[0], batch, kv_len)
            if len(runner._resolved) < before:
                return

    def check(self) -> None:
        """Nothing: what it reads is the caller's."""

    def _new(self) -> tuple[int, int]:
        """Requests, and keys of each."""
        return self.draw.randint(1, self.size.batch), self.draw.randint(1, self.size.tokens)

    def _call(self, kind: Kind, stream: Stream, batch: int, kv_len: int) -> Result:
        window_left = 3 * kv_len % self.size.tokens if kind.window else None
        q_len = min(kind.queries, kv_len)
        if kind.method != "decode":
            kv_len = q_len = max(kv_len // 4, 2)
        if kind.method in ("append", "attention"):
            q_len = 2 + 7 * kv_len % (kv_len - 1)
        q, k, v, out = (
            x[kind.dtype][:batch, :, :n]
            for x, n in ((self.q, q_len), (self.k, kv_len), (self.v, kv_len), (stream.outs, q_len))
        )
        call = Call(
            q=q, k=k, v=v, out=out, lse=stream.lse[:batch, :, :q_len] if kind.given else None,
            diagonal=kv_len - q_len if kind.causal else None, sm_scale=self.size.dim**-0.5,
            window_left=window_left,
            sinks=self.sinks if kind.sinks else None,
        )  # fmt: skip
        plan = self.plans[kind.plan]
        plan.guard = kind.guard
        with stream.entered():
            got = _asked(plan, kind, call)
        plan.guard = "off"
        named = None if kind.method == "attention" else Phase(kind.method)
        decodes = phase_of(q_len, kv_len, named) is Phase.DECODE
        kernel = self.decode if decodes else self.prompts[kind.plan]
        return Result(replace(call, out=got), kernel, PATHS[kind.dtype], str(kind), kind.plan)


def _asked(plan: Plan, kind: Kind, call: Call) -> Tensor:
    """The output of a plan for a call ``bhsd``, asked for as a kind says."""

    def turned(x: Tensor) -> Tensor:
        return x.transpose(1, 2) if kind.layout == "bshd" else x

    asked: dict[str, Any] = {"causal": kind.causal, "layout": kind.layout, "sinks": call.sinks}
    if call.window_left is not None:
        asked["window"] = call.window_left + 1
    if kind.given:
        asked |= {"out": turned(call.out), "lse_out": call.lse}
    elif kind.wide:
        asked["out_dtype"] = "fp32"
    kv: tuple[Any, ...] = (turned(call.k), turned(call.v))
    if kind.prepared:
        kv = (plan.prepare_kv(*kv, q_len=call.q.shape[2], q_heads=call.q.shape[1]),)
    got = getattr(plan, kind.method)(turned(call.q), *kv, **asked)
    return turned(got[0] if kind.given else got)
